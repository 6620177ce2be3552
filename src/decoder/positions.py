"""Positions: how a decoder knows the order of its tokens."""

import torch
from torch import nn


class Positions(nn.Module):
    """No positions at all, and the three places where a scheme may come in.

    A scheme overrides what it needs and leaves the rest: what is added to the residual
    stream (learned, sinusoidal), a rotation of queries and keys (rotary), a bias on the
    scores (ALiBi). Any of them can be a `Decoder`'s `positions`.

    Built in chapters/05-position.
    """

    def forward(self, resid, start=0):
        """What enters the first block.

        Args:
            resid: Embedded tokens, (batch, seq, d_model).
            start: Position of the first of them; above 0 when earlier ones are cached.

        Returns:
            (batch, seq, d_model).
        """
        return resid

    def rotate(self, x, start=0):
        """What a head does to its queries and to its keys, (..., seq, d_head), before scoring."""
        return x

    def bias(self, seq_q, seq_k):
        """What is added to the scores, broadcastable to (batch, n_heads, seq_q, seq_k), or None.

        The queries are the last seq_q of the seq_k positions.
        """
        return None


class Learned(Positions):
    """A vector of its own for every position, learned like any weight.

    Args:
        n_ctx: Positions there are vectors for.
        d_model: Width of the residual stream.

    Raises:
        ValueError: from `forward`, a position at or beyond n_ctx.

    Source: Radford et al. 2019 (GPT-2). Built in chapters/05-position.
    """

    def __init__(self, n_ctx, d_model):
        super().__init__()
        self.W_pos = nn.Parameter(0.02 * torch.randn(n_ctx, d_model))

    def forward(self, resid, start=0):
        """Add the vector of each position: (batch, seq, d_model) -> the same."""
        n_ctx, end = self.W_pos.shape[0], start + resid.shape[-2]
        if end > n_ctx:
            raise ValueError(f"expected positions below n_ctx={n_ctx}, got {start} to {end - 1}")
        return resid + self.W_pos[start:end]
