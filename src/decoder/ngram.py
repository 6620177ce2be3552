"""How far counting goes: n-gram models, which a decoder has to beat on held-out text.

`NGram(1)`, `NGram(2)`, `NGram(3)` are the unigram, bigram and trigram models of chapter 11.
The smoothing is interpolated modified Kneser–Ney, the strongest of those compared by
Chen & Goodman 1998. It takes all its parameters from counts of the training text by formula:
there is nothing to choose on held-out text.
"""

from typing import NamedTuple

import torch

from decoder.checks import as_ids


class _Level(NamedTuple):
    """The n-grams of one length. A gram's context, all but its last token, is a place in the
    level below, so that a gram's key, context * d_vocab + token, stays small for any length."""

    keys: torch.Tensor  # (n_grams,), sorted
    kept: torch.Tensor  # (n_grams,) float64: count less discount
    total: torch.Tensor  # (n_contexts,) float64: counts by context
    freed: torch.Tensor  # (n_contexts,) float64: discounts by context


class NGram:
    """Predicts a token from the `order - 1` tokens before it.

        p(token | context) = (count - discount) / total + freed / total * p(token | shorter)

    where discount is one of three by whether count is 1, 2 or more; freed is the sum of the
    discounts in this context; shorter is the context without its first token. Below the
    unigram stands 1 / d_vocab, so that no token is impossible. In all but the longest
    grams, count is the number of different tokens seen before the gram, not of occurrences.
    A context never seen is passed over.

    Args:
        order: length of the longest grams, at least 1.
        d_vocab: tokens in the vocabulary.

    Raises:
        ValueError: order or d_vocab below 1.

    Source: Kneser & Ney 1995; Chen & Goodman 1998, "An empirical study of smoothing
    techniques for language modeling", section 3 (modified Kneser–Ney, interpolated).
    """

    def __init__(self, order, d_vocab):
        for name, value in {"order": order, "d_vocab": d_vocab}.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"expected {name} of at least 1, got {value!r}")
        self.order, self.d_vocab = order, d_vocab
        self._levels = []

    def fit(self, ids):
        """Count the grams of `ids`, (seq,) with seq at least `order`; returns the model."""
        ids = as_ids(ids, self.d_vocab)
        if len(ids) < self.order:
            raise ValueError(f"expected at least order = {self.order} tokens, got {len(ids)}")
        levels = []
        context, shorter = torch.zeros_like(ids), None  # (seq,): the empty context
        for length in range(1, self.order + 1):
            key = context * self.d_vocab + ids[length - 1 :]  # (seq - length + 1,)
            keys, gram, counts = torch.unique(key, return_inverse=True, return_counts=True)
            if length > 1:
                suffix = torch.empty_like(keys)  # each gram without its first token
                suffix[gram] = shorter[1:]  # what ends at its last token, one shorter
                levels[-1] = (levels[-1][0], torch.bincount(suffix, minlength=len(levels[-1][0])))
            levels.append((keys, counts))
            shorter, context = gram, gram[:-1]
        self._levels = [self._level(keys, counts) for keys, counts in levels]
        return self

    def _level(self, keys, counts):
        discount = _discounts(counts)[counts.clamp(max=3)]  # (n_grams,)
        context = keys // self.d_vocab
        return _Level(
            keys,
            counts - discount,
            torch.bincount(context, counts.double()),
            torch.bincount(context, discount),
        )

    def nats(self, ids):
        """Return -ln p of each token given those before it, (seq,) float64, in nats."""
        ids = as_ids(ids, self.d_vocab)
        contexts = [context[:-1] for context in self._contexts(ids)]  # order times (seq,)
        return -self._mixed(contexts, ids).log()

    def nats_per_token(self, ids):
        """Return the mean of `nats` over `ids`, (seq,) with seq at least 1, as a float."""
        if len(ids) == 0:
            raise ValueError("expected at least one token, got none")
        return self.nats(ids).mean().item()

    def distribution(self, context):
        """Return p of each token after `context`, (seq,), possibly empty: (d_vocab,) float64."""
        contexts = self._contexts(as_ids(context, self.d_vocab))
        tokens = torch.arange(self.d_vocab)
        return self._mixed([context[-1].expand(self.d_vocab) for context in contexts], tokens)

    def _contexts(self, ids):
        """Where each level has the tokens before each place, also the place after the last:
        a (seq + 1,) per level, -1 where it has not, or where too few tokens stand before."""
        if not self._levels:
            raise ValueError("expected a fitted model: call fit(ids) first")
        contexts = [ids.new_zeros(len(ids) + 1)]
        for level in self._levels[:-1]:
            gram = self._find(level, contexts[-1][:-1], ids)
            contexts.append(torch.cat([ids.new_tensor([-1]), gram]))
        return contexts

    def _find(self, level, context, token):
        key = context * self.d_vocab + token  # below 0, and so not found, where context is -1
        place = torch.searchsorted(level.keys, key).clamp(max=len(level.keys) - 1)
        return place.where(level.keys[place] == key, -1)

    def _mixed(self, contexts, tokens):
        p = torch.full(tokens.shape, 1 / self.d_vocab, dtype=torch.float64)
        for level, context in zip(self._levels, contexts, strict=True):
            gram = self._find(level, context, tokens)
            kept = level.kept[gram.clamp(min=0)].where(gram >= 0, 0)
            # A context may have been seen at the very end alone, with nothing after it.
            known = (context >= 0) & (context < len(level.total))
            context = context.where(known, 0)
            known &= level.total[context] > 0
            p = ((kept + level.freed[context] * p) / level.total[context]).where(known, p)
        return p


def _discounts(counts):
    """The discount for a count of 0, 1, 2, and 3 or more: Chen & Goodman's formulas.

    Half a gram is added to each number of grams, and each discount kept above 0, so that
    short or regular texts, where one of the numbers is 0, have discounts too.
    """
    n1, n2, n3, n4 = (int((counts == c).sum()) + 0.5 for c in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    discounts = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    return torch.tensor([0.0, *(max(d, 0.01) for d in discounts)], dtype=torch.float64)
