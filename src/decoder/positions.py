"""Positions: how a decoder knows the order of its tokens.

`Positions()` is none at all, and the interface; `Learned`, `Sinusoidal`, `Rotary` and `ALiBi`
are the others. To use one, put it in place: `model.positions = Rotary(model.config.d_head)`.
"""

from functools import lru_cache

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


class Sinusoidal(Positions):
    """Add a fixed vector to every position: pairs of sine and cosine, from fast to slow.

    Feature 2k is the sine and feature 2k + 1 the cosine of position / 10000^(2k / d_model).
    There are no weights, and no longest sequence but that of the decoder.

    Args:
        d_model: Width of the residual stream, even. The sinusoids have a root mean square of
            0.7, whatever the size of the embeddings they are added to; the paper multiplies
            those by the root of d_model.

    Raises:
        ValueError: d_model is odd, so that a sine would lack its cosine; from `forward`,
            resid is not d_model wide.

    Source: Vaswani et al. 2017, section 3.5. Built in chapters/05-position.
    """

    def __init__(self, d_model):
        super().__init__()
        self.d_model = _even("d_model", d_model)

    def forward(self, resid, start=0):
        """Add the vector of each position: (batch, seq, d_model) -> the same."""
        _check_width(resid, self.d_model)
        end = start + resid.shape[-2]
        return resid + _sinusoids(start, end, self.d_model, resid.dtype, resid.device)


class Rotary(Positions):
    """Turn each query and key by an angle that grows with its position.

    Features 2k and 2k + 1 are a point in a plane; it is turned by position / base^(2k / d_head)
    radians. A query and a key are turned by the same, so their dot product keeps only the
    difference of their positions.

    The pairs are neighbours, (0, 1), (2, 3), ..., as in the paper, Meta's Llama and GPT-J.
    GPT-NeoX, and Llama in transformers, pair feature k with feature k + d_head / 2. The model
    is the same, its weights are not: within each head the columns of W_Q and W_K (and of their
    biases) come in the order 0, 2, 4, ..., 1, 3, 5, ... there.

    Args:
        d_head: Width of a head, even.
        base: Sets the slowest turn; larger for longer sequences.

    Raises:
        ValueError: d_head is odd, or base not positive; from `rotate`, x is not d_head wide.

    Source: Su et al. 2021, eq. 14, 15 and 34. Built in chapters/05-position.
    """

    def __init__(self, d_head, base=10000.0):
        super().__init__()
        if not base > 0:
            raise ValueError(f"expected base above 0, got {base}")
        self.d_head, self.base = _even("d_head", d_head), base

    def rotate(self, x, start=0):
        """Turn queries or keys: (..., seq, d_head) -> the same."""
        _check_width(x, self.d_head)
        # Complex multiplication is rotation. There is none for half precision.
        wide = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
        end = start + x.shape[-2]
        turns = _turns(start, end, self.d_head, self.base, wide.dtype, x.device)
        points = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))  # (..., seq, d_head / 2)
        return torch.view_as_real(points * turns).flatten(-2).to(x.dtype)


class ALiBi(Positions):
    """Attention with linear biases: the further back a key, the lower its score.

    Nothing is added to the residual stream. Each head subtracts its own slope times the
    distance: some heads see only what is near, some nearly all there is.

    Args:
        n_heads: Heads. The slopes of 2^m heads are the powers of 2^(-8 / 2^m), from 1/2 to 1/256
            for eight. Between two powers of two, those of the lower one come first, then every
            other one of the higher.

    The slopes are no weights: they move with `.to`, and a state dict does not hold them.

    Raises:
        ValueError: n_heads is not positive; from `bias`, more queries than keys.

    Source: Press et al. 2022, section 3, and the slopes of its published code.
    Built in chapters/05-position.
    """

    def __init__(self, n_heads):
        super().__init__()
        if n_heads < 1:
            raise ValueError(f"expected n_heads above 0, got {n_heads}")
        lower = 2 ** (n_heads.bit_length() - 1)  # the largest power of two up to n_heads
        slopes = [2 ** (-8 * head / lower) for head in range(1, lower + 1)]
        slopes += [2 ** (-4 * head / lower) for head in range(1, 2 * lower, 2)]
        self.register_buffer("slopes", torch.tensor(slopes[:n_heads]), persistent=False)

    def bias(self, seq_q, seq_k):
        """-slope * (i - j) for query i and key j: (n_heads, seq_q, seq_k).

        Keys after the query get more than 0; the causal mask takes them out.
        """
        if not 1 <= seq_q <= seq_k:
            raise ValueError(f"expected 1 <= seq_q <= seq_k, got seq_q={seq_q}, seq_k={seq_k}")
        i = torch.arange(seq_k - seq_q, seq_k, device=self.slopes.device)
        j = torch.arange(seq_k, device=self.slopes.device)
        return -self.slopes[:, None, None] * (i[:, None] - j)


def angles(start, end, width, base=10000.0):
    """position / base^(2k / width) in radians, for positions from start to end and k < width / 2.

    Returns:
        (end - start, width / 2), float64, so that far positions are as exact as near ones.
    """
    frequencies = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.arange(start, end)[:, None] * frequencies


# Every layer of a forward pass asks for the same turns, so the last ones are kept. They may be
# asked for first while generating in inference mode, and must serve for training all the same.
@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _turns(start, end, d_head, base, dtype, device):
    """Points on the unit circle, (end - start, d_head / 2), complex."""
    turn = angles(start, end, d_head, base)
    return torch.complex(turn.cos().to(dtype), turn.sin().to(dtype)).to(device)


@lru_cache(maxsize=4)
def _sinusoids(start, end, d_model, dtype, device):
    """The vectors that `Sinusoidal` adds, (end - start, d_model)."""
    turn = angles(start, end, d_model)
    return torch.stack((turn.sin(), turn.cos()), dim=-1).flatten(-2).to(device, dtype)


def _even(name, size):
    if size < 2 or size % 2:
        raise ValueError(f"expected an even {name}, got {size}: features are taken in pairs")
    return size


def _check_width(x, width):
    if x.shape[-1] != width:
        raise ValueError(f"expected (..., seq, {width}), got {tuple(x.shape)}")
