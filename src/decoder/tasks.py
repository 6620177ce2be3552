"""Toy tasks whose best possible loss is known.

Each makes random sequences by a rule, and states the lowest loss that any model can reach:
the entropy of a sequence given its first token, divided by the number of predictions. By the
chain rule that is also the sum of what is left to guess at each position, so each `floor` only
has to count the random choices that a sequence shows, in nats. All next-token predictions count.
Built in chapters/10-reversal; chapters 01, 03 and 13 use the others.
"""

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch


class Task:
    """What all tasks share. A task says how to draw `sequences`, and what it knows of them.

    A subclass has `d_vocab`, `seq` (tokens in a sequence; n_ctx is one less), `floor` (nats per
    token, over all predictions), `sequences(batch_size, generator)` -> (batch, seq) int64, and
    `predictable(inputs)`.
    """

    def batch(self, batch_size, generator=None):
        """Draw sequences; the targets are the inputs, one position on.

        Args:
            batch_size: Sequences, at least 1.
            generator: A `torch.Generator` on the CPU; torch's own if None.

        Returns:
            inputs and targets, (batch, n_ctx) int64 each.

        Raises:
            ValueError: batch_size is not a positive whole number.
        """
        _check_sizes(batch_size=batch_size)
        tokens = self.sequences(batch_size, generator)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    @property
    def n_ctx(self):
        """Positions a model needs: one less than the sequence has tokens."""
        return self.seq - 1

    @property
    def ceiling(self):
        """The loss, nats per token, of a model that knows nothing: ln d_vocab."""
        return math.log(self.d_vocab)

    def accuracy(self, logits, inputs, targets):
        """Share of the predictable targets that get the highest logit, in [0, 1].

        Args:
            logits: (batch, n_ctx, d_vocab).
            inputs: (batch, n_ctx), which with `predictable` tell what counts.
            targets: (batch, n_ctx).
        """
        right = logits.argmax(dim=-1) == targets  # (batch, n_ctx)
        return right[self.predictable(inputs).to(right.device)].float().mean().item()

    def predictable(self, inputs):
        """Where something in the past tells the target: (batch, n_ctx), boolean.

        Here: from `first_told` on, every `told_every`-th position.
        """
        position = torch.arange(self.n_ctx) - self.first_told
        told = (position >= 0) & (position % self.told_every == 0)
        return told.expand(inputs.shape)


@dataclass(frozen=True)
class Reversal(Task):
    """n random tokens, then the same backwards.

    The first half cannot be predicted: each token is drawn by itself, and costs ln d_vocab
    whatever the model. The first token is no target, so n - 1 remain. The second half can be
    predicted wholly. Of 2n - 1 predictions that leaves (n - 1) / (2n - 1) * ln d_vocab.
    A model that sees the future gets below it.

    Args:
        n: Tokens in the random half.
        d_vocab: Tokens to draw from.
    """

    n: int
    d_vocab: int
    told_every = 1

    def __post_init__(self):
        _check_sizes(n=self.n, d_vocab=self.d_vocab)

    @property
    def seq(self):
        return 2 * self.n

    @property
    def first_told(self):
        return self.n - 1

    @property
    def floor(self):
        return (self.n - 1) / (2 * self.n - 1) * math.log(self.d_vocab)

    def sequences(self, batch_size, generator=None):
        half = torch.randint(self.d_vocab, (batch_size, self.n), generator=generator)
        return torch.cat([half, self.again(half)], dim=1)

    def again(self, half):
        """The second half, made from the first."""
        return half.flip(1)


@dataclass(frozen=True)
class Copy(Reversal):
    """n random tokens, then the same again. The floor is that of `Reversal`, for its reasons.

    The token to copy is always n - 1 positions back: position alone finds it, with one layer.
    """

    def again(self, half):
        return half


class _Lookup(Task):
    # What the two retrievals share: pairs first in the vocabulary (key * n_values + value), then
    # keys alone, then values; pairs first in a sequence, then query, answer, query, answer.
    told_every = 2

    @property
    def d_vocab(self):
        return self.n_keys * self.n_values + self.n_keys + self.n_values

    @property
    def seq(self):
        return self.n_pairs + 2 * self.n_queries

    @property
    def first_told(self):
        return self.n_pairs

    def _lay_out(self, keys, values, queries, answers):
        pairs = keys * self.n_values + values  # (batch, n_pairs)
        queries = self.n_keys * self.n_values + queries  # (batch, n_queries)
        answers = self.n_keys * self.n_values + self.n_keys + answers
        return torch.cat([pairs, torch.stack([queries, answers], dim=2).flatten(1)], dim=1)

    def _asked(self, batch_size, generator):
        return torch.randint(self.n_pairs, (batch_size, self.n_queries), generator=generator)


@dataclass(frozen=True)
class Retrieval(_Lookup):
    """Key-value pairs, then queries: a key, and the value that was paired with it.

    A pair is one token, so that one layer can look it up and only the matching is on trial.
    The keys of a sequence are all different; its values need not be. Random are, after the
    first, each pair (n_keys - i keys are left for it, and n_values values), and each query,
    one of the n_pairs keys. Answers are certain. That makes
    sum_{i=1}^{n_pairs-1} ln((n_keys - i) n_values) + n_queries ln n_pairs
    over n_pairs - 1 + 2 n_queries predictions.

    Args:
        n_pairs: Pairs in a sequence.
        n_queries: Queries after them, each a key of the sequence, with repetition.
        n_keys: Keys there are, at least n_pairs.
        n_values: Values there are.
    """

    n_pairs: int
    n_queries: int
    n_keys: int
    n_values: int

    def __post_init__(self):
        _check_sizes(**vars(self))
        _check_enough("n_keys", self.n_keys, "n_pairs", self.n_pairs)

    @property
    def floor(self):
        pairs = sum(math.log((self.n_keys - i) * self.n_values) for i in range(1, self.n_pairs))
        return (pairs + self.n_queries * math.log(self.n_pairs)) / self.n_ctx

    def sequences(self, batch_size, generator=None):
        keys = _distinct(self.n_keys, self.n_pairs, batch_size, generator)
        values = torch.randint(self.n_values, keys.shape, generator=generator)
        asked = self._asked(batch_size, generator)
        return self._lay_out(keys, values, keys.gather(1, asked), values.gather(1, asked))


@dataclass(frozen=True)
class NoisyRetrieval(_Lookup):
    """`Retrieval` where a query shows its key with some of its bits flipped.

    Keys are strings of bits, drawn with repetition; values are all different, so that an answer
    tells which pair was meant. A pair whose key is h bits away from the query was meant with
    probability proportional to (flip / (1 - flip))^h: the softmax of the dot product of the
    bits, as +1 and -1, times ln((1 - flip) / flip) / 2. So one head can be the best possible
    model, if its score can match many bits at the right temperature.

    Random are, after the first pair, each key's bits, n_bits ln 2, and its value, one of
    n_values - i; for a query, the pair, ln n_pairs, and the flips, H(flip) a bit. A query and
    its answer together show the pair and the flips and nothing else, so the two predictions
    cost ln n_pairs + n_bits H(flip) by the chain rule; `answer_floor` is the answer's part.

    Args:
        n_pairs: Pairs in a sequence.
        n_queries: Queries after them, with repetition.
        n_bits: Bits in a key.
        n_values: Values there are, at least n_pairs.
        flip: Probability that a bit of a query is wrong, above 0 and below 1/2.
    """

    n_pairs: int
    n_queries: int
    n_bits: int
    n_values: int
    flip: float

    def __post_init__(self):
        _check_sizes(**{name: size for name, size in vars(self).items() if name != "flip"})
        _check_enough("n_values", self.n_values, "n_pairs", self.n_pairs)
        if not 0 < self.flip < 0.5:
            raise ValueError(f"expected flip above 0 and below 1/2, got {self.flip!r}")

    @property
    def n_keys(self):
        """2^n_bits."""
        return 2**self.n_bits

    @property
    def floor(self):
        pairs = sum(
            self.n_bits * math.log(2) + math.log(self.n_values - i) for i in range(1, self.n_pairs)
        )
        a_bit = -self.flip * math.log(self.flip) - (1 - self.flip) * math.log(1 - self.flip)
        query_and_answer = math.log(self.n_pairs) + self.n_bits * a_bit
        return (pairs + self.n_queries * query_and_answer) / self.n_ctx

    @property
    def answer_floor(self):
        """Lowest loss at the answers alone, nats: how unsure the query leaves one of its pair."""
        return sum(p * -math.log(meant / total) for p, meant, _, total in self._cases())

    @property
    def best_accuracy(self):
        """Highest share of right answers: that of always naming the nearest key's value."""
        return sum(p * best / total for p, _, best, total in self._cases())

    def _cases(self):
        # Each multiset of distances that the other pairs can have, and each distance of the pair
        # that was meant: its probability, and the weights (flip / (1 - flip))^h of the pair that
        # was meant, of the nearest, and of all.
        n, others = self.n_bits, self.n_pairs - 1
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

    def sequences(self, batch_size, generator=None):
        keys = torch.randint(self.n_keys, (batch_size, self.n_pairs), generator=generator)
        values = _distinct(self.n_values, self.n_pairs, batch_size, generator)
        asked = self._asked(batch_size, generator)
        flipped = torch.rand(*asked.shape, self.n_bits, generator=generator) < self.flip
        noise = (flipped * 2 ** torch.arange(self.n_bits)).sum(dim=2)  # (batch, n_queries)
        return self._lay_out(keys, values, keys.gather(1, asked) ^ noise, values.gather(1, asked))


@dataclass(frozen=True)
class Repeated(Task):
    """A random block over and over, of a length that differs from sequence to sequence.

    The tokens of a block are all different, so that a token that came before says exactly what
    comes next: what came after it then. That takes two steps, finding the earlier token and
    reading its successor, and no fixed distance replaces them, because the length is drawn anew.

    Random are the block's length, ln(longest - shortest + 1), and its tokens after the first,
    one of d_vocab - i each. All of it can be read off a sequence of more than `longest` tokens,
    so by the chain rule their sum, averaged over the lengths, is what all predictions cost.

    Args:
        shortest: Fewest tokens in a block.
        longest: Most.
        seq: Tokens in a sequence, more than longest.
        d_vocab: Tokens to draw from, at least longest.
    """

    shortest: int
    longest: int
    seq: int
    d_vocab: int

    def __post_init__(self):
        _check_sizes(**vars(self))
        _check_enough("longest", self.longest, "shortest", self.shortest)
        _check_enough("d_vocab", self.d_vocab, "longest", self.longest)
        _check_enough("seq", self.seq, "longest + 1", self.longest + 1)

    @property
    def floor(self):
        lengths = range(self.shortest, self.longest + 1)
        blocks = [sum(math.log(self.d_vocab - i) for i in range(1, n)) for n in lengths]
        return (math.log(len(lengths)) + sum(blocks) / len(blocks)) / self.n_ctx

    def sequences(self, batch_size, generator=None):
        block = _distinct(self.d_vocab, self.longest, batch_size, generator)
        length = torch.randint(
            self.shortest, self.longest + 1, (batch_size, 1), generator=generator
        )
        return block.gather(1, torch.arange(self.seq) % length)

    def predictable(self, inputs):
        """Where the input token came before, so that its successor did: (batch, n_ctx)."""
        same = inputs.unsqueeze(2) == inputs.unsqueeze(1)  # (batch, n_ctx, n_ctx)
        return same.tril(-1).any(dim=2)


@dataclass(frozen=True)
class ShuffledPairs(Task):
    """n_pairs pairs of tokens, then the same pairs in another order.

    `Repeated` without any order to go by: whatever the lengths and distances, the second token
    of a repeated pair is told by nothing but the successor that the first one had.

    All 2 n_pairs tokens are different. Random are the tokens of the first half after the very
    first, one of d_vocab - i each, and the order of the second, one of n_pairs!. That makes
    sum_{i=1}^{2 n_pairs - 1} ln(d_vocab - i) + ln(n_pairs!) over 4 n_pairs - 1 predictions.

    Args:
        n_pairs: Pairs.
        d_vocab: Tokens to draw from, at least 2 * n_pairs.
    """

    n_pairs: int
    d_vocab: int
    told_every = 2

    def __post_init__(self):
        _check_sizes(**vars(self))
        _check_enough("d_vocab", self.d_vocab, "2 * n_pairs", 2 * self.n_pairs)

    @property
    def seq(self):
        return 4 * self.n_pairs

    @property
    def first_told(self):
        return 2 * self.n_pairs

    @property
    def floor(self):
        tokens = sum(math.log(self.d_vocab - i) for i in range(1, 2 * self.n_pairs))
        return (tokens + math.lgamma(self.n_pairs + 1)) / self.n_ctx

    def sequences(self, batch_size, generator=None):
        tokens = _distinct(self.d_vocab, 2 * self.n_pairs, batch_size, generator)
        pairs = tokens.view(batch_size, self.n_pairs, 2)
        order = _distinct(self.n_pairs, self.n_pairs, batch_size, generator)
        again = pairs.gather(1, order.unsqueeze(2).expand_as(pairs))
        return torch.cat([tokens, again.flatten(1)], dim=1)


def _distinct(n, drawn, batch_size, generator):
    # (batch, drawn): different numbers below n, all orders equally likely.
    return torch.rand(batch_size, n, generator=generator).argsort(dim=1)[:, :drawn]


def _check_sizes(**sizes):
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"expected {name} to be a positive whole number, got {size!r}")


def _check_enough(name, size, least_name, least):
    if size < least:
        raise ValueError(f"expected {name} >= {least_name}, got {size} < {least}")
