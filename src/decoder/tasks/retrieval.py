"""Tasks that ask for what belongs to a key: plain, and with noise on the keys."""

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch

from decoder.checks import check_sizes
from decoder.tasks.base import Task, check_enough, distinct


@dataclass(frozen=True)
class Retrieval(Task):
    """Key, value, key, value, ...; then queries: a key again, and its value.

    A value has to learn which key it follows before a query can find it by that key: two steps,
    so two layers. Keys come first in the vocabulary, then values. The keys of a sequence are all
    different; its values need not be. Random are each key after the first, one of n_keys - i,
    each value, one of n_values, and each query, one of the n_pairs keys. Answers are certain:
    (sum_{i=1}^{n_pairs-1} ln(n_keys - i) + n_pairs ln n_values + n_queries ln n_pairs)
    over 2 n_pairs + 2 n_queries - 1 predictions.

    Args:
        n_pairs: Pairs in a sequence.
        n_queries: Queries after them, each a key of the sequence, with repetition.
        n_keys: Keys there are, at least n_pairs.
        n_values: Values there are.

    Source: Arora et al. 2023 (Zoology), section 3.1, with other proportions.
    """

    n_pairs: int
    n_queries: int
    n_keys: int
    n_values: int
    told_every = 2

    def __post_init__(self):
        check_sizes(**vars(self))
        check_enough("n_keys", self.n_keys, "n_pairs", self.n_pairs)

    @property
    def d_vocab(self):
        return self.n_keys + self.n_values

    @property
    def seq(self):
        return 2 * self.n_pairs + 2 * self.n_queries

    @property
    def first_told(self):
        return 2 * self.n_pairs

    @property
    def floor(self):
        keys = sum(math.log(self.n_keys - i) for i in range(1, self.n_pairs))
        values = self.n_pairs * math.log(self.n_values)
        return (keys + values + self.n_queries * math.log(self.n_pairs)) / self.n_ctx

    def sequences(self, batch_size, generator=None):
        keys = distinct(self.n_keys, self.n_pairs, batch_size, generator)
        values = self.n_keys + torch.randint(self.n_values, keys.shape, generator=generator)
        asked = _places(self.n_pairs, self.n_queries, batch_size, generator)
        return torch.cat(
            [_alternate(keys, values), _alternate(keys.gather(1, asked), values.gather(1, asked))],
            dim=1,
        )


@dataclass(frozen=True)
class NoisyRetrieval(Task):
    """Keys, then queries: a key with some of its bits flipped, and the place where that key was.

    One layer can do it, so that only the matching is on trial. Keys are strings of bits, drawn
    with repetition; they come first in the vocabulary, then one token for each place. A key
    that is h bits away from the query was meant with probability proportional to
    (flip / (1 - flip))^h: the softmax of the dot product of the bits, as +1 and -1, times
    ln((1 - flip) / flip) / 2. So one head is the best possible model, if its score can match
    many bits at the right temperature.

    Random are, after the first, each key's bits, n_bits ln 2; for a query, the place,
    ln n_shown, and the flips, H(flip) a bit. A query and its answer together show the
    place and the flips and nothing else, so by the chain rule the two predictions cost
    ln n_shown + n_bits H(flip); `answer_floor` is the answer's part of it.

    Args:
        n_shown: Keys in a sequence.
        n_queries: Queries after them, with repetition.
        n_bits: Bits in a key.
        flip: Probability that a bit of a query is wrong, above 0 and below 1/2.
    """

    n_shown: int
    n_queries: int
    n_bits: int
    flip: float
    told_every = 2

    def __post_init__(self):
        check_sizes(n_shown=self.n_shown, n_queries=self.n_queries, n_bits=self.n_bits)
        if not 0 < self.flip < 0.5:
            raise ValueError(f"expected flip above 0 and below 1/2, got {self.flip!r}")

    @property
    def n_keys(self):
        """2^n_bits."""
        return 2**self.n_bits

    @property
    def d_vocab(self):
        return self.n_keys + self.n_shown

    @property
    def seq(self):
        return self.n_shown + 2 * self.n_queries

    @property
    def first_told(self):
        return self.n_shown

    @property
    def floor(self):
        keys = (self.n_shown - 1) * self.n_bits * math.log(2)
        a_bit = -self.flip * math.log(self.flip) - (1 - self.flip) * math.log(1 - self.flip)
        query_and_answer = math.log(self.n_shown) + self.n_bits * a_bit
        return (keys + self.n_queries * query_and_answer) / self.n_ctx

    @property
    def answer_floor(self):
        """Lowest loss at the answers alone, nats: how unsure a query leaves one of its place."""
        return sum(p * -math.log(meant / total) for p, meant, _, total in self._cases())

    @property
    def best_accuracy(self):
        """Highest share of right answers: that of always naming the nearest key."""
        return sum(p * nearest / total for p, _, nearest, total in self._cases())

    def sequences(self, batch_size, generator=None):
        keys = torch.randint(self.n_keys, (batch_size, self.n_shown), generator=generator)
        asked = _places(self.n_shown, self.n_queries, batch_size, generator)
        flipped = torch.rand(*asked.shape, self.n_bits, generator=generator) < self.flip
        noise = (flipped * 2 ** torch.arange(self.n_bits)).sum(dim=2)  # (batch, n_queries)
        return torch.cat([keys, _alternate(keys.gather(1, asked) ^ noise, self.n_keys + asked)], 1)

    def match(self, inputs, targets):
        """A batch without the language model around it, to try a score by itself.

        Args:
            inputs: (batch, n_ctx), from `batch`.
            targets: (batch, n_ctx).

        Returns:
            queries (batch, n_queries, n_bits) and keys (batch, n_shown, n_bits), +1 and -1, and
            places (batch, n_queries): the index of the key that each query means. The lowest
            cross-entropy of softmax(score(queries, keys)) with places is `answer_floor`.
        """
        bits = 2 ** torch.arange(self.n_bits)
        signs = [
            ((tokens.unsqueeze(2) & bits) > 0) * 2.0 - 1.0
            for tokens in (inputs[:, self.n_shown :: 2], inputs[:, : self.n_shown])
        ]
        return *signs, targets[:, self.n_shown :: 2] - self.n_keys

    def _cases(self):
        # Each multiset of distances that the other keys can have, and each distance of the one
        # that was meant: its probability, and the weights (flip / (1 - flip))^h of the one that
        # was meant, of the nearest, and of all.
        n, others = self.n_bits, self.n_shown - 1
        odds = self.flip / (1 - self.flip)
        for distances in combinations_with_replacement(range(n + 1), others):
            p_others = math.factorial(others)
            for h in set(distances):
                times = distances.count(h)
                p_others *= (math.comb(n, h) / 2**n) ** times / math.factorial(times)
            weight = sum(odds**h for h in distances)
            for h in range(n + 1):
                p = p_others * math.comb(n, h) * self.flip**h * (1 - self.flip) ** (n - h)
                yield p, odds**h, odds ** min(distances + (h,)), odds**h + weight


def _places(n, drawn, batch_size, generator):
    return torch.randint(n, (batch_size, drawn), generator=generator)


def _alternate(first, second):
    # (batch, n) twice -> (batch, 2 * n): one of the first, one of the second, and so on.
    return torch.stack([first, second], dim=2).flatten(1)
