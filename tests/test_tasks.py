"""The tasks' floors, against a predictor that knows the whole distribution by enumeration.

For tiny sizes every sequence and its probability is listed here from the task's description,
without the task's own code. From that list follow the best possible predictions, position by
position, and with them the lowest loss; and the task's batches must follow the list too.
"""

import math
from collections import defaultdict
from itertools import permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoder.tasks import Copy, NoisyRetrieval, Repeated, Retrieval, Reversal


def reversal(n, d_vocab):
    for half in product(range(d_vocab), repeat=n):
        yield half + half[::-1], d_vocab**-n


def copy(n, d_vocab):
    for half in product(range(d_vocab), repeat=n):
        yield half + half, d_vocab**-n


def alternate(*pairs):
    return tuple(token for pair in pairs for token in pair)


def retrieval(n_pairs, n_queries, n_keys, n_values):
    for keys in permutations(range(n_keys), n_pairs):
        for values in product(range(n_keys, n_keys + n_values), repeat=n_pairs):
            pairs = list(zip(keys, values, strict=True))
            for asked in product(pairs, repeat=n_queries):
                p = 1 / math.perm(n_keys, n_pairs) / n_values**n_pairs / n_pairs**n_queries
                yield alternate(*pairs, *asked), p


def noisy_retrieval(n_shown, n_queries, n_bits, flip):
    n_keys = 2**n_bits
    for keys in product(range(n_keys), repeat=n_shown):
        for asked in product(range(n_shown), repeat=n_queries):
            for queries in product(range(n_keys), repeat=n_queries):
                p = n_keys**-n_shown
                for j, query in zip(asked, queries, strict=True):
                    wrong = bin(keys[j] ^ query).count("1")
                    p *= flip**wrong * (1 - flip) ** (n_bits - wrong) / n_shown
                answers = [n_keys + j for j in asked]
                yield keys + alternate(*zip(queries, answers, strict=True)), p


def repeated(shortest, longest, seq, d_vocab):
    for length in range(shortest, longest + 1):
        for block in permutations(range(d_vocab), length):
            p = 1 / (longest - shortest + 1) / math.perm(d_vocab, length)
            yield tuple((block * seq)[:seq]), p


CASES = [
    (Reversal(n=2, d_vocab=3), reversal),
    (Reversal(n=3, d_vocab=5), reversal),
    (Reversal(n=1, d_vocab=3), reversal),
    (Copy(n=3, d_vocab=5), copy),
    (Retrieval(n_pairs=2, n_queries=1, n_keys=3, n_values=2), retrieval),
    (Retrieval(n_pairs=3, n_queries=2, n_keys=3, n_values=2), retrieval),
    (NoisyRetrieval(n_shown=2, n_queries=1, n_bits=3, flip=0.2), noisy_retrieval),
    (NoisyRetrieval(n_shown=3, n_queries=1, n_bits=2, flip=0.1), noisy_retrieval),
    (NoisyRetrieval(n_shown=2, n_queries=2, n_bits=2, flip=0.3), noisy_retrieval),
    (Repeated(shortest=2, longest=4, seq=7, d_vocab=5), repeated),
    (Repeated(shortest=1, longest=3, seq=4, d_vocab=3), repeated),
    (Repeated(shortest=3, longest=3, seq=5, d_vocab=4), repeated),
]
EACH = pytest.mark.parametrize("task,describe", CASES, ids=[str(task) for task, _ in CASES])


def listed(task, describe):
    """Each possible sequence and its probability."""
    sequences = defaultdict(float)
    for tokens, p in describe(**vars(task)):
        sequences[tokens] += p
    assert sum(sequences.values()) == pytest.approx(1)
    return sequences


def bayes(sequences):
    """Each past, and how probable each next token is together with it."""
    pasts = defaultdict(lambda: defaultdict(float))
    for tokens, p in sequences.items():
        for t in range(1, len(tokens)):
            pasts[tokens[:t]][tokens[t]] += p
    return pasts


def losses(pasts, seq):
    """The best possible predictor's loss at each position, nats."""
    loss = [0.0] * (seq - 1)
    for past, following in pasts.items():
        total = sum(following.values())
        loss[len(past) - 1] -= sum(p * math.log(p / total) for p in following.values() if p)
    return loss


@EACH
def test_floor_is_the_loss_of_the_best_possible_predictor(task, describe):
    loss = losses(bayes(listed(task, describe)), task.seq)
    assert len(loss) == task.n_ctx
    assert task.floor == pytest.approx(sum(loss) / len(loss), abs=1e-9)
    assert task.floor < task.ceiling == math.log(task.d_vocab)


@EACH
def test_batches_follow_the_description(task, describe):
    sequences = listed(task, describe)
    drawn = 20_000
    inputs, targets = task.batch(drawn, torch.Generator().manual_seed(0))
    assert inputs.shape == targets.shape == (drawn, task.n_ctx)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    tokens = torch.cat([inputs, targets[:, -1:]], dim=1)
    assert 0 <= tokens.min() and tokens.max() < task.d_vocab
    distinct, counts = tokens.unique(dim=0, return_counts=True)
    got = dict(zip(map(tuple, distinct.tolist()), counts.tolist(), strict=True))
    assert got.keys() <= sequences.keys()
    # Pearson's statistic has mean cells - 1 and about variance 2 (cells - 1), plus what rare
    # cells add; a wrong distribution is off by a share of `drawn`.
    expected = {tokens: p * drawn for tokens, p in sequences.items()}
    statistic = sum((got.get(t, 0) - e) ** 2 / e for t, e in expected.items())
    cells = len(expected)
    spread = math.sqrt(2 * cells + sum(1 / e for e in expected.values()))
    assert abs(statistic - (cells - 1)) < 5 * spread


@EACH
def test_predictable_is_where_the_best_predictor_can_tell(task, describe):
    """Certain there (as far as noise allows), and told by nothing but chance elsewhere."""
    sequences = listed(task, describe)
    pasts = bayes(sequences)
    inputs = torch.tensor([tokens[:-1] for tokens in sequences])
    told = task.predictable(inputs)
    assert told.shape == inputs.shape and told.dtype == torch.bool and told.any()
    for row, marks in zip(inputs.tolist(), told.tolist(), strict=True):
        for t, mark in enumerate(marks):
            choices = [p for p in pasts[tuple(row[: t + 1])].values() if p]
            if mark and not isinstance(task, NoisyRetrieval):
                assert len(choices) == 1
            if mark and isinstance(task, NoisyRetrieval):
                assert len(choices) == task.n_shown  # each place is possible
            if not mark and not isinstance(task, Repeated):
                last_key = isinstance(task, Retrieval) and task.n_keys == task.n_pairs
                assert len(choices) > 1 or last_key
            if not mark and isinstance(task, Repeated):
                last_chance = t + 1 >= task.longest or t + 1 < task.shortest
                assert len(choices) > 1 or last_chance or task.shortest == task.longest


@pytest.mark.parametrize("case", [6, 7, 8])
def test_noisy_answers_floor_and_best_accuracy(case):
    task, describe = CASES[case]
    sequences = listed(task, describe)
    pasts = bayes(sequences)
    loss = losses(pasts, task.seq)
    answers = list(range(task.n_shown, task.n_ctx, 2))
    for t in answers:
        assert task.answer_floor == pytest.approx(loss[t], abs=1e-9)
        best = sum(max(next_.values()) for past, next_ in pasts.items() if len(past) == t + 1)
        assert task.best_accuracy == pytest.approx(best, abs=1e-9)


def test_noisy_retrieval_is_solved_by_one_softmax_of_dot_products():
    """The head that its docstring describes reaches answer_floor and best_accuracy."""
    task = NoisyRetrieval(n_shown=5, n_queries=3, n_bits=6, flip=0.15)
    inputs, targets = task.batch(20_000, torch.Generator().manual_seed(0))
    queries, keys, places = task.match(inputs, targets)
    assert queries.shape == (20_000, 3, 6) and keys.shape == (20_000, 5, 6)
    assert places.shape == (20_000, 3)
    scores = queries @ keys.transpose(1, 2) * math.log(0.85 / 0.15) / 2
    loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), places.flatten())
    # 60000 answers: a standard error of about 0.004 and 0.002.
    assert loss.item() == pytest.approx(task.answer_floor, abs=0.016)
    accuracy = (scores.argmax(-1) == places).double().mean()
    assert accuracy.item() == pytest.approx(task.best_accuracy, abs=0.008)


def test_match_shows_the_bits_of_keys_and_queries():
    task = NoisyRetrieval(n_shown=2, n_queries=2, n_bits=3, flip=0.1)
    # keys 0b001 and 0b110; query 0b011 means place 0, query 0b110 place 1
    queries, keys, places = task.match(
        torch.tensor([[1, 6, 3, 8, 6]]), torch.tensor([[6, 3, 8, 6, 9]])
    )
    assert keys.tolist() == [[[1, -1, -1], [-1, 1, 1]]]
    assert queries.tolist() == [[[1, 1, -1], [-1, 1, 1]]]
    assert places.tolist() == [[0, 1]]


def test_the_books_figures():
    assert Reversal(n=8, d_vocab=10).floor == pytest.approx(7 / 15 * math.log(10))
    assert Reversal(n=8, d_vocab=10).floor == pytest.approx(1.0745, abs=1e-4)
    assert Copy(n=8, d_vocab=10).floor == Reversal(n=8, d_vocab=10).floor


@EACH
def test_a_seed_fixes_the_batches(task, describe):
    first = task.batch(64, torch.Generator().manual_seed(5))
    again = task.batch(64, torch.Generator().manual_seed(5))
    other = task.batch(64, torch.Generator().manual_seed(6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    generator = torch.Generator().manual_seed(5)
    task.batch(64, generator)
    assert not torch.equal(task.batch(64, generator)[0], first[0])  # and it moves on
    before = torch.get_rng_state()
    task.batch(64, generator)
    assert torch.equal(before, torch.get_rng_state())  # nothing is drawn from anywhere else


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 9), d_vocab=st.integers(2, 13), batch_size=st.integers(1, 5))
def test_reversal_and_copy_say_what_they_do(n, d_vocab, batch_size):
    for task, second in ((Reversal(n, d_vocab), lambda x: x.flip(1)), (Copy(n, d_vocab), None)):
        inputs, targets = task.batch(batch_size)
        tokens = torch.cat([inputs[:, :1], targets], dim=1)
        half = tokens[:, :n]
        assert torch.equal(tokens[:, n:], second(half) if second else half)
        assert task.predictable(inputs).sum(1).tolist() == [n] * batch_size


@EACH
def test_accuracy_counts_predictable_targets_only(task, describe):
    inputs, targets = task.batch(50, torch.Generator().manual_seed(0))
    told = task.predictable(inputs)
    perfect = torch.nn.functional.one_hot(targets, task.d_vocab).float()
    wrong = 1 - perfect
    right_where_told = torch.where(told.unsqueeze(2), perfect, wrong)
    assert task.accuracy(right_where_told, inputs, targets) == 1
    assert task.accuracy(perfect + wrong - right_where_told, inputs, targets) == 0
    one = wrong.clone()
    row, column = told.nonzero()[0].tolist()
    one[row, column] = perfect[row, column]
    assert task.accuracy(one, inputs, targets) == pytest.approx(1 / told.sum().item())


def test_batches_are_contiguous_and_tasks_are_frozen():
    task = Reversal(3, 5)
    assert all(x.is_contiguous() for x in task.batch(2))
    with pytest.raises(AttributeError):
        task.n = 7


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: Reversal(0, 5), ["n", "0"]),
        (lambda: Copy(3, 2.5), ["d_vocab", "2.5"]),
        (lambda: Reversal(True, 5), ["n", "True"]),
        (lambda: Reversal(3, 5).batch(0), ["batch_size", "0"]),
        (lambda: Retrieval(4, 1, 3, 2), ["n_keys >= n_pairs", "3 < 4"]),
        (lambda: Retrieval(4, 1, 5, 0), ["n_values", "0"]),
        (lambda: NoisyRetrieval(4, 1, 0, 0.1), ["n_bits", "0"]),
        (lambda: NoisyRetrieval(2, 0, 3, 0.1), ["n_queries", "0"]),
        (lambda: NoisyRetrieval(2, 1, 3, 0.0), ["flip", "0.0"]),
        (lambda: NoisyRetrieval(2, 1, 3, 0.5), ["flip", "0.5"]),
        (lambda: Repeated(4, 3, 9, 9), ["longest >= shortest", "3 < 4"]),
        (lambda: Repeated(2, 4, 9, 3), ["d_vocab >= longest", "3 < 4"]),
        (lambda: Repeated(2, 4, 4, 9), ["seq >= longest + 1", "4 < 5"]),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError) as error:
        call()
    for word in words:
        assert word in str(error.value)
