"""Tasks that show the same tokens twice or more: backwards, once again, over and over."""

import math
from dataclasses import dataclass

import torch

from decoder.checks import check_sizes
from decoder.tasks.base import Task, check_enough, distinct


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
        check_sizes(n=self.n, d_vocab=self.d_vocab)

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
        check_sizes(**vars(self))
        check_enough("longest", self.longest, "shortest", self.shortest)
        check_enough("d_vocab", self.d_vocab, "longest", self.longest)
        check_enough("seq", self.seq, "longest + 1", self.longest + 1)

    @property
    def floor(self):
        lengths = range(self.shortest, self.longest + 1)
        blocks = [sum(math.log(self.d_vocab - i) for i in range(1, n)) for n in lengths]
        return (math.log(len(lengths)) + sum(blocks) / len(blocks)) / self.n_ctx

    def sequences(self, batch_size, generator=None):
        block = distinct(self.d_vocab, self.longest, batch_size, generator)
        length = torch.randint(
            self.shortest, self.longest + 1, (batch_size, 1), generator=generator
        )
        return block.gather(1, torch.arange(self.seq) % length)

    def predictable(self, inputs):
        """Where the input token came before, so that its successor did: (batch, n_ctx)."""
        same = inputs.unsqueeze(2) == inputs.unsqueeze(1)  # (batch, n_ctx, n_ctx)
        return same.tril(-1).any(dim=2)
