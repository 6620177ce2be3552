"""Counting models against a reference that is slow and obvious."""

import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoder.ngram import NGram
from decoder.text import CharTokenizer, load_corpus

SHAKESPEARE = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"
D_VOCAB = 7
TRAIN = random.Random(11).choices(range(5), weights=[13, 7, 5, 3, 2], k=211)


class Reference:
    """Interpolated modified Kneser–Ney as Chen & Goodman write it, gram by gram."""

    def __init__(self, train, order, d_vocab):
        self.d_vocab = d_vocab
        self.counts = {order: Counter(grams(train, order))}
        for length in range(1, order):
            self.counts[length] = Counter(g[1:] for g in set(grams(train, length + 1)))
        self.discounts = {length: discounts(c) for length, c in self.counts.items()}
        self.order = order

    def p(self, token, context):
        p = 1 / self.d_vocab
        for length in range(1, min(self.order, len(context) + 1) + 1):
            past = tuple(context[len(context) - length + 1 :])
            after = {g[-1]: c for g, c in self.counts[length].items() if g[:-1] == past}
            if after:
                discount = {t: self.discounts[length][min(c, 3)] for t, c in after.items()}
                own = after[token] - discount[token] if token in after else 0
                p = (own + sum(discount.values()) * p) / sum(after.values())
        return p


def grams(ids, length):
    return [tuple(ids[i : i + length]) for i in range(len(ids) - length + 1)]


def discounts(counts):
    n1, n2, n3, n4 = (sum(c == k for c in counts.values()) + 0.5 for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    found = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return [None, *(max(0.01, d) for d in found)]


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("train", [TRAIN, [0] * 5, [0, 1, 2] * 5, list(range(5))])
def test_every_probability_is_the_reference_s(order, train):
    model = NGram(order, D_VOCAB).fit(torch.tensor(train))
    reference = Reference(train, order, D_VOCAB)
    held_out = random.Random(3).choices(range(D_VOCAB), k=53) + train[-7:] + train[:3]
    expected = [-math.log(reference.p(t, held_out[:i])) for i, t in enumerate(held_out)]
    torch.testing.assert_close(
        model.nats(held_out), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )
    assert model.nats_per_token(held_out) == pytest.approx(sum(expected) / len(expected))


def test_a_unigram_model_is_the_frequencies_but_for_what_is_put_by_for_the_unseen():
    p = NGram(1, 3).fit([0] * 700 + [1] * 300).distribution([])
    torch.testing.assert_close(
        p[:2], torch.tensor([0.7, 0.3], dtype=torch.float64), atol=5e-3, rtol=0
    )
    assert 0 < p[2] < 5e-3


ids = st.lists(st.integers(0, D_VOCAB - 1))


@settings(deadline=None)  # a busy machine is no failure
@given(ids.filter(lambda train: len(train) >= 5), ids, st.integers(1, 5))
def test_a_distribution_sums_to_one_and_leaves_nothing_impossible(train, context, order):
    model = NGram(order, D_VOCAB).fit(train)
    p = model.distribution(context)
    assert p.shape == (D_VOCAB,)
    assert (p > 0).all()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    # What `nats` says of a token after this context is the same distribution.
    for token in range(D_VOCAB):
        assert model.nats([*context, token])[-1].item() == pytest.approx(-p[token].log().item())


def test_what_comes_after_the_context_alone_does_not_count():
    model = NGram(3, D_VOCAB).fit(TRAIN)
    assert model.nats([6, 6, 2, 3, 1])[-1] == model.nats([0, 1, 2, 3, 1])[-1]
    assert model.nats([6, 6, 2, 3, 1])[2] != model.nats([0, 1, 2, 3, 1])[2]


def test_a_text_that_repeats_is_predicted():
    train = [0, 1, 2, 3, 1, 5] * 50
    assert NGram(1, D_VOCAB).fit(train).nats_per_token(train) > 1
    assert NGram(2, D_VOCAB).fit(train).nats_per_token(train) > 0.2  # what follows 1?
    assert NGram(3, D_VOCAB).fit(train).nats_per_token(train) < 0.1


def test_keys_of_long_grams_of_a_large_vocabulary_do_not_overflow():
    d_vocab = 1_000_003  # its fifth power is 2 to the 100
    train = [200_003 * token + 1 for token in TRAIN]
    reference = Reference(train, 5, d_vocab)
    expected = [-math.log(reference.p(t, train[:i])) for i, t in enumerate(train)]
    nats = NGram(5, d_vocab).fit(train).nats(train)
    torch.testing.assert_close(nats, torch.tensor(expected, dtype=torch.float64))


def test_on_real_text_a_longer_context_tells_more():
    """Tiny Shakespeare where it is at hand, else pydoc."""
    text = load_corpus(SHAKESPEARE if SHAKESPEARE.exists() else "pydoc")
    tokens = CharTokenizer.from_text(text).encode(text)
    d_vocab, cut = int(tokens.max()) + 1, len(tokens) * 9 // 10
    bits = [
        NGram(order, d_vocab).fit(tokens[:cut]).nats_per_token(tokens[cut:]) / math.log(2)
        for order in (1, 2, 3, 4, 5)
    ]
    assert bits == sorted(bits, reverse=True)
    assert bits[0] < math.log2(d_vocab)
    assert bits[4] < bits[0] / 2
    frequencies = torch.bincount(tokens[:cut], minlength=d_vocab) / cut  # without any smoothing
    seen = frequencies[tokens[cut:]] > 0
    plain = -frequencies[tokens[cut:][seen]].log2().mean().item()
    assert bits[0] == pytest.approx(plain, rel=2e-3)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: NGram(0, 5), "order of at least 1, got 0"),
        (lambda: NGram(2.0, 5), r"order of at least 1, got 2\.0"),
        (lambda: NGram(2, 0), "d_vocab of at least 1, got 0"),
        (lambda: NGram(3, 5).fit([1, 2]), "at least order = 3 tokens, got 2"),
        (lambda: NGram(1, 5).fit([1, 5]), r"ids in \[0, 5\), got 5 at place 1"),
        (lambda: NGram(1, 5).nats([1]), "call fit"),
        (lambda: NGram(1, 5).distribution([1]), "call fit"),
        (lambda: NGram(1, 5).fit([1]).nats([-1]), r"ids in \[0, 5\), got -1"),
        (lambda: NGram(1, 5).fit([1]).nats_per_token([]), "at least one token, got none"),
        (lambda: NGram(1, 5).fit([1]).distribution([[1]]), r"\(seq,\) integers"),
    ],
)
def test_bad_input_is_named(call, expected):
    with pytest.raises(ValueError, match=expected):
        call()
