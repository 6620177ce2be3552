"""Attention: every position mixes values from the positions it may look at."""

import math

import torch
from torch import nn

from decoder.positions import Positions


def scaled_dot_product(q, k):
    """Score each query against each key: their dot product over the root of their width.

    Args:
        q: Queries, (..., seq_q, d_head).
        k: Keys, (..., seq_k, d_head).

    Returns:
        scores, (..., seq_q, seq_k), unbounded and without units.

    Source: Vaswani et al. 2017, eq. 1. Built in chapters/02-attention; `scores.py` holds others.
    """
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., seq_q, seq_k)


def attention(q, k, v, mask=None, bias=None, score=scaled_dot_product):
    """Mix values by how well each query matches each key.

    Args:
        q: Queries, (..., seq_q, d_head).
        k: Keys, (..., seq_k, d_head).
        v: Values, (..., seq_k, d_value).
        mask: True where a query may attend, broadcastable to (..., seq_q, seq_k).
        bias: Added to the scores before the softmax, broadcastable to the same shape.
        score: What turns q and k into scores, (..., seq_q, seq_k).

    Returns:
        z, (..., seq_q, d_value), in the units of v, and pattern,
        (..., seq_q, seq_k): weights in [0, 1], each row summing to 1.

    Raises:
        ValueError: q and k differ in d_head, k and v differ in seq_k, the three are not of
            one floating-point type, the mask is not boolean, mask or bias does not fit, or
            a query has nothing that it may attend to.

    Source: Vaswani et al. 2017, eq. 1. Built in chapters/02-attention.
    """
    _check_shapes(q, k, v)
    scores = score(q, k)  # (..., seq_q, seq_k)
    if bias is not None:
        _check_fits("bias", bias, scores)
        scores = scores + bias
    if mask is not None:
        mask = _checked_mask(mask, scores)
        # Before the softmax: a weight removed after it would already have taken its share.
        scores = scores.masked_fill(~mask, -math.inf)
    pattern = scores.softmax(dim=-1)  # (..., seq_q, seq_k)
    return pattern @ v, pattern


def causal_mask(seq_q, seq_k):
    """Let each query see the keys up to its own position, none after it.

    The queries are the last seq_q of seq_k positions, as they are when earlier keys
    come from a cache: the last query sees every key.

    Args:
        seq_q: Queries.
        seq_k: Keys, at least as many.

    Returns:
        mask, (seq_q, seq_k), boolean, True where a query may attend.

    Raises:
        ValueError: there are no queries, or fewer keys than queries, so that the first
            query would see nothing.

    Source: Vaswani et al. 2017, section 3.2.3. Built in chapters/04-mask.
    """
    if not 1 <= seq_q <= seq_k:
        raise ValueError(f"expected 1 <= seq_q <= seq_k, got seq_q={seq_q}, seq_k={seq_k}")
    return torch.ones(seq_q, seq_k, dtype=torch.bool).tril(seq_k - seq_q)


class Attend(nn.Module):
    """`attention` as a module: hooks can read (z, pattern), another piece can stand in its place.

    Args:
        score: What turns q and k into scores; see `scores.py`.
    """

    def __init__(self, score=scaled_dot_product):
        super().__init__()
        self.score = score

    def forward(self, q, k, v, mask=None, bias=None):
        """`attention(q, k, v, mask, bias, score)`: returns z and pattern."""
        return attention(q, k, v, mask, bias, self.score)


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each with projections of its own.

    Args:
        d_model: Width of what comes in and goes out.
        n_heads: Heads.
        d_head: Width of each head's queries, keys and values.

    The parts that other chapters replace are plain attributes: `mask`, a function of
    (seq_q, seq_k), and `attend`, a module with the signature of `Attend`.

    Raises:
        ValueError: a size is not positive; from `forward`, x is not (batch, seq, d_model).

    Source: Vaswani et al. 2017, section 3.2.2; with biases, as in GPT-2.
    Built in chapters/06-heads.
    """

    def __init__(self, d_model, n_heads, d_head):
        super().__init__()
        if min(d_model, n_heads, d_head) < 1:
            raise ValueError(
                f"expected positive sizes, got d_model={d_model}, n_heads={n_heads}, "
                f"d_head={d_head}"
            )
        self.d_model, self.n_heads, self.d_head = d_model, n_heads, d_head
        width = n_heads * d_head
        # Head h owns columns h*d_head to (h+1)*d_head of W_Q, W_K, W_V, and those rows of W_O.
        self.W_Q = nn.Parameter(0.02 * torch.randn(d_model, width))
        self.W_K = nn.Parameter(0.02 * torch.randn(d_model, width))
        self.W_V = nn.Parameter(0.02 * torch.randn(d_model, width))
        self.W_O = nn.Parameter(0.02 * torch.randn(width, d_model))
        self.b_Q = nn.Parameter(torch.zeros(width))
        self.b_K = nn.Parameter(torch.zeros(width))
        self.b_V = nn.Parameter(torch.zeros(width))
        self.b_O = nn.Parameter(torch.zeros(d_model))
        self.mask = causal_mask
        self.attend = Attend()

    def forward(self, x, positions=None, cache=None):
        """Each position gathers from itself and the positions before it.

        Args:
            x: (batch, seq_q, d_model).
            positions: What rotates q and k and biases the scores; nothing if None.
            cache: This layer's earlier keys and values (`generate.LayerCache`), added to.

        Returns:
            (batch, seq_q, d_model).
        """
        if x.ndim != 3 or x.shape[-1] != self.d_model:
            raise ValueError(f"expected x of (batch, seq, {self.d_model}), got {tuple(x.shape)}")
        positions = Positions() if positions is None else positions
        start = 0 if cache is None else cache.length
        q = self._split(x @ self.W_Q + self.b_Q)  # (batch, n_heads, seq_q, d_head)
        k = self._split(x @ self.W_K + self.b_K)
        v = self._split(x @ self.W_V + self.b_V)
        q, k = positions.rotate(q, start), positions.rotate(k, start)
        if cache is not None:
            k, v = cache.append(k, v)  # (batch, n_heads, seq_k, d_head)
        seq_q, seq_k = q.shape[-2], k.shape[-2]
        z, _ = self.attend(q, k, v, self.mask(seq_q, seq_k), positions.bias(seq_q, seq_k))
        return z.transpose(1, 2).flatten(2) @ self.W_O + self.b_O  # (batch, seq_q, d_model)

    def _split(self, x):
        # (batch, seq, n_heads * d_head) -> (batch, n_heads, seq, d_head). Do not view straight
        # to (batch, n_heads, ...): that would deal positions out to heads.
        return x.view(*x.shape[:2], self.n_heads, self.d_head).transpose(1, 2)


def _check_shapes(q, k, v):
    shapes = f"got q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise ValueError(f"expected at least (seq, d_head) each, {shapes}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"expected q and k of the same d_head, {shapes}")
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"expected k and v of the same seq_k, {shapes}")
    if 0 in k.shape[-2:]:
        raise ValueError(f"expected at least one key, at least one wide, {shapes}")
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        types = f"got q {q.dtype}, k {k.dtype}, v {v.dtype}"
        raise ValueError(f"expected q, k and v of one floating-point type, {types}")
    if q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        return  # nearly always, and `broadcast_shapes` takes as long as a product
    try:
        torch.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    except RuntimeError:
        raise ValueError(f"expected leading dimensions that broadcast, {shapes}") from None


def _check_fits(name, given, scores):
    if given.shape == scores.shape[max(0, scores.ndim - given.ndim) :]:
        return
    try:
        if torch.broadcast_shapes(given.shape, scores.shape) == scores.shape:
            return
    except RuntimeError:
        pass
    raise ValueError(
        f"expected a {name} that broadcasts to {tuple(scores.shape)}, got {tuple(given.shape)}"
    )


def _checked_mask(mask, scores):
    if mask.dtype != torch.bool:
        raise ValueError(f"expected a boolean mask, True = may attend, got {mask.dtype}")
    _check_fits("mask", mask, scores)
    rows = mask.any(dim=-1)
    if not rows.all():
        blind = (~rows).nonzero()[0].tolist()
        raise ValueError(
            f"expected every query to have a key it may attend to; the mask's row {blind} has none"
        )
    return mask.to(scores.device)
