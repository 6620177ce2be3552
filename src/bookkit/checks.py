"""Checks that the tests and the chapters' exercises share, so that both ask the same of a piece."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from decoder.attention import scaled_dot_product

# (seq_q, seq_k, d_head, d_value) with leading dimensions: all different, so that nothing
# transposed can pass.
SHAPES = [((), 3, 5, 7, 11), ((2,), 5, 3, 11, 7), ((2, 3), 7, 13, 5, 11)]


def influence(function, x):
    """Which position of the input each position of the output depends on, found by changing it.

    Args:
        function: Anything that maps (batch, seq) or (batch, seq, width) to (batch, seq, ...).
        x: Ids that are not all 0, (batch, seq), or vectors, (batch, seq, width).

    Returns:
        (seq, seq), boolean: entry (i, j) is True if changing input j changes output i by
        even one bit. A NaN counts as changed, since nothing is equal to it.

    Raises:
        ValueError: x cannot be changed: ids that are all 0, or vectors whose entries are equal.
    """
    other = _changed(x)
    with torch.no_grad():
        before = function(x)
        columns = []
        for j in range(x.shape[1]):
            changed = x.clone()
            changed[:, j] = other[:, j]
            differs = (function(changed) != before).transpose(0, 1).flatten(1)
            columns.append(differs.any(dim=1))
    return torch.stack(columns, dim=1)


def leaks(function, x):
    """Where the future is seen: pairs (i, j) with j after i, output i changing with input j.

    Takes what `influence` takes; a causal function has none, [].
    """
    seen = influence(function, x)
    return [tuple(pair) for pair in seen.triu(1).nonzero().tolist()]


def check_causal(function, x):
    """Assert that each output depends on its own input and on no later one.

    Takes what `influence` takes. The first half keeps out what depends on nothing at all.

    Raises:
        AssertionError: an output does not see its own input, or sees a later one.
    """
    seen = influence(function, x)
    blind = (~seen.diagonal()).nonzero().flatten().tolist()
    assert not blind, f"output {blind[0]} does not depend on input {blind[0]}"
    ahead = seen.triu(1).nonzero().tolist()
    assert not ahead, "output {} depends on input {}, which comes later".format(*ahead[0])


def check_attention(function):
    """Assert that function(q, k, v, mask) is attention: z and pattern, for several shapes.

    Held against `torch.nn.functional.scaled_dot_product_attention`, in float64 to 1e-12,
    without a mask and with random ones that leave every query something to see.

    Raises:
        AssertionError: a shape, the pattern's rows or the values are wrong.
    """
    generator = torch.Generator().manual_seed(0)
    for lead, seq_q, seq_k, d_head, d_value in SHAPES:
        q, k, v = (
            torch.randn(*lead, *size, generator=generator, dtype=torch.float64)
            for size in ((seq_q, d_head), (seq_k, d_head), (seq_k, d_value))
        )
        mask = torch.rand(seq_q, seq_k, generator=generator) < 0.5
        mask[:, 0] = True
        for allowed in (None, mask):
            z, pattern = function(q, k, v, allowed)
            assert pattern.shape == (*lead, seq_q, seq_k), f"pattern is {tuple(pattern.shape)}"
            expected = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
            torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(pattern @ v, expected, rtol=1e-12, atol=1e-12)
            ones = torch.ones(*lead, seq_q, dtype=torch.float64)
            torch.testing.assert_close(pattern.sum(-1), ones, rtol=1e-12, atol=1e-12)


class WithPattern(nn.Module):
    """Stands in for `decoder.attention.Attend` and makes its pattern in another way.

    Args:
        make_pattern: (scores, mask) -> pattern, all (..., seq_q, seq_k); see `WRONG_MASKS`.
    """

    def __init__(self, make_pattern):
        super().__init__()
        self.make_pattern = make_pattern

    def forward(self, q, k, v, mask=None, bias=None):
        """As `attention`, without its checks: returns z and pattern."""
        scores = scaled_dot_product(q, k)
        if bias is not None:
            scores = scores + bias
        if mask is None:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool)
        pattern = self.make_pattern(scores, mask)
        return pattern @ v, pattern


def _filled(fill, shift=0):
    # shift: how many keys more than causal, for each query.
    def make_pattern(scores, mask):
        seq_q, seq_k = scores.shape[-2:]
        if shift:
            mask = torch.ones_like(mask).tril(seq_k - seq_q + shift)
        return scores.masked_fill(~mask, fill).softmax(-1)

    return make_pattern


# Nine ways to get the causal mask wrong, each as (scores, mask) -> pattern. The mask that
# comes in is right; what is done with it is not.
WRONG_MASKS = {
    "none": lambda scores, mask: scores.softmax(-1),
    "transposed": lambda scores, mask: scores.masked_fill(~mask.mT, -math.inf).softmax(-1),
    "one too far": _filled(-math.inf, shift=1),
    "one too short": _filled(-math.inf, shift=-1),
    "one too short, with -1e9": _filled(-1e9, shift=-1),
    "multiplied by zero before softmax": lambda scores, mask: (scores * mask).softmax(-1),
    "zeroed after softmax": lambda scores, mask: scores.softmax(-1) * mask,
    "softmax over queries": lambda scores, mask: scores.masked_fill(~mask, -math.inf).softmax(-2),
    "filled with 1e-9": _filled(1e-9),
}


def _changed(x):
    # Another input that differs at every position.
    if x.is_floating_point():
        # Rolled, not shifted by a constant: LayerNorm would take that away again.
        other = x.roll(1, dims=-1)
        same = (other == x).flatten(2).all(dim=-1) if x.ndim > 2 else other == x
    else:
        other = (x + 1) % (x.max() + 1)  # every id stays within those that are there
        same = other == x
    if same.any():
        raise ValueError(
            "expected ids that are not all 0, or vectors whose entries differ: "
            f"position {same.nonzero()[0].tolist()} of x cannot be changed"
        )
    return other
