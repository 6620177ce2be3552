"""What all tasks share: batches, the ceiling, and what counts as predictable."""

import math

import torch

from decoder.checks import check_sizes


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
        check_sizes(batch_size=batch_size)
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


def distinct(n, drawn, batch_size, generator):
    """Different numbers below n, all orders equally likely: (batch, drawn)."""
    return torch.rand(batch_size, n, generator=generator).argsort(dim=1)[:, :drawn]


def check_enough(name, size, least_name, least):
    """Raise ValueError where `size` is below `least`; names both."""
    if size < least:
        raise ValueError(f"expected {name} >= {least_name}, got {size} < {least}")
