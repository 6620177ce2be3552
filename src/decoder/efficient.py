"""The same pieces, faster: torch's fused kernels behind the signatures of what they stand in for.

Each class changes how `forward` computes and nothing else: same parameters under the same names,
same numbers up to rounding. So `fuse` can turn a piece into its fast twin where it stands.
"""

import math

import torch
import torch.nn.functional as F

from decoder.attention import (
    Attend,
    MultiHeadAttention,
    _check_fits,
    _check_shapes,
    _checked_mask,
    causal_mask,
    scaled_dot_product,
)
from decoder.by_hand import causal_rows, gelu, rms_norm, squared_relu
from decoder.mlp import GELU, MLP
from decoder.modern import SquaredReLU
from decoder.norm import LayerNorm, RMSNorm, _check_width
from decoder.positions import Positions
from decoder.scores import Cosine, _unit, dot_product


class LazyMask(Attend):
    """An `Attend` that `FusedHeads` hands the mask to as a function, so that it need not be made.

    `mask` may be a tensor, or a function of (seq_q, seq_k) such as `causal_mask`.
    """


class FusedAttend(LazyMask):
    """`Attend` in one call, which never holds the pattern: it returns z and None.

    Args:
        score: `scaled_dot_product`, `dot_product` or a `Cosine`: what is a dot product of
            something.

    Raises:
        ValueError: score is another one; from `forward`, as `attention`.

    Built in chapters/15-cost.
    """

    def __init__(self, score=scaled_dot_product):
        if not is_dot_product(score):
            raise ValueError(f"expected a score that is a dot product, got {score!r}")
        super().__init__(score)

    def forward(self, q, k, v, mask=None, bias=None):
        """`attention(q, k, v, mask, bias, score)`, without its pattern: returns z and None."""
        _check_shapes(q, k, v)
        # The kernel's own causal mask counts from the first key, ours from the last.
        causal = mask is causal_mask and bias is None and q.shape[-2] == k.shape[-2] > 1
        mask = None if causal else _additive(mask, bias, q, k)
        q, k, scale = as_dot_product(self.score, q, k)
        if causal and q.shape == k.shape and q.shape[:-1] == v.shape[:-1] and rows_are_faster(q):
            return causal_rows(q, k, v, scale), None
        if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:  # `broadcast_shapes` is slow
            lead = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
            q, k, v = (x.expand(*lead, *x.shape[-2:]) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale), None


class FusedHeads(MultiHeadAttention):
    """`MultiHeadAttention` with one product for q, k and v, and a mask only where it is needed.

    Built in chapters/15-cost.
    """

    def forward(self, x, positions=None, cache=None):
        """As `MultiHeadAttention.forward`."""
        if x.ndim != 3 or x.shape[-1] != self.d_model:
            raise ValueError(f"expected x of (batch, seq, {self.d_model}), got {tuple(x.shape)}")
        positions = Positions() if positions is None else positions
        start = 0 if cache is None else cache.length
        q, k, v = self._project(x, cache)  # (batch, n_heads, seq_q, d_head) each
        q, k = positions.rotate(q, start), positions.rotate(k, start)
        if cache is not None:
            k, v = cache.append(k, v)  # (batch, n_heads, seq_k, d_head)
        seq_q, seq_k = q.shape[-2], k.shape[-2]
        mask = self.mask if isinstance(self.attend, LazyMask) else self.mask(seq_q, seq_k)
        z, _ = self.attend(q, k, v, mask, positions.bias(seq_q, seq_k))
        return linear(z.transpose(1, 2).flatten(2), self.W_O, self.b_O)

    def _project(self, x, cache):
        # One product for all three. Joining the weights costs a long text nothing, but a single
        # token a tenth of its time: a cache, which is good for these weights only, keeps them.
        joined = None if cache is None else cache.joined
        if joined is None:
            W = torch.cat([self.W_Q, self.W_K, self.W_V], dim=1)  # (d_model, 3 * n_heads * d_head)
            joined = W, torch.cat([self.b_Q, self.b_K, self.b_V])
        if cache is not None:
            cache.joined = joined
        qkv = linear(x, *joined).view(*x.shape[:2], 3, self.n_heads, self.d_head)
        return qkv.permute(2, 0, 3, 1, 4)


class FusedMLP(MLP):
    """`MLP` whose products add their biases. Built in chapters/15-cost."""

    def forward(self, x):
        """(..., d_model) -> (..., d_model), each position by itself."""
        if x.shape[-1] != self.W_in.shape[0]:
            raise ValueError(f"expected x of (..., {self.W_in.shape[0]}), got {tuple(x.shape)}")
        neurons = self.activation(linear(x, self.W_in, self.b_in))  # (..., d_mlp)
        return linear(neurons, self.W_out, self.b_out)


class FusedLayerNorm(LayerNorm):
    """`LayerNorm` in one call. Built in chapters/15-cost."""

    def forward(self, x):
        """(..., d_model) -> (..., d_model), each vector by itself."""
        _check_width(x, self.w)
        return F.layer_norm(x, self.w.shape, self.w, self.b, self.eps)


class FusedRMSNorm(RMSNorm):
    """`RMSNorm` in one step of the graph. Built in chapters/15-cost."""

    def forward(self, x):
        """(..., d_model) -> (..., d_model), each vector by itself."""
        _check_width(x, self.w)
        return rms_norm(x, self.w, self.eps)


class FusedGELU(GELU):
    """`GELU` in one step of the graph. Built in chapters/15-cost."""

    def forward(self, x):
        """Elementwise, any shape; in the units of x."""
        return gelu(x)


class FusedSquaredReLU(SquaredReLU):
    """`SquaredReLU` in one step of the graph. Built in chapters/15-cost."""

    def forward(self, x):
        """Elementwise, any shape; in the square of the units of x."""
        return squared_relu(x)


TWINS = {
    Attend: FusedAttend,
    MultiHeadAttention: FusedHeads,
    MLP: FusedMLP,
    LayerNorm: FusedLayerNorm,
    RMSNorm: FusedRMSNorm,
    GELU: FusedGELU,
    SquaredReLU: FusedSquaredReLU,
}


def fuse(model):
    """Turn each piece of a decoder that has a fast twin into it, in place; returns the model.

    The pieces keep their weights (the very tensors, so an optimizer made before goes on), their
    hooks and their places. What has no twin stays as it is: subclasses, and scores that are no
    dot product. `capture` finds no pattern afterwards; put `Attend()` back to read one.

    Args:
        model: `Decoder`, or any module.

    Built in chapters/15-cost.
    """
    for piece in model.modules():
        if type(piece) is not Attend or is_dot_product(piece.score):
            # A twin differs from its piece by `forward` alone: only the class has to change.
            piece.__class__ = TWINS.get(type(piece), type(piece))
    return model


def linear(x, W, b):
    """x @ W + b in one product: (..., rows), (rows, columns), (columns,) -> (..., columns)."""
    return torch.addmm(b, x.reshape(-1, x.shape[-1]), W).view(*x.shape[:-1], W.shape[1])


def rows_are_faster(q):
    """Whether `causal_rows` beats torch's kernel, which looks at the zeros too; as measured."""
    return q.ndim == 4 and q.device.type == "cpu" and 160 <= q.shape[2] <= 512


def is_dot_product(score):
    """Whether `as_dot_product` knows this score."""
    return score in (scaled_dot_product, dot_product) or type(score) is Cosine


def as_dot_product(score, q, k):
    """q, k and scale whose dot products, times scale, are score(q, k)."""
    if score is scaled_dot_product:
        return q, k, 1 / math.sqrt(q.shape[-1])
    if score is dot_product:
        return q, k, 1.0
    # The temperature divides seq_q * d_head numbers here, not seq_q * seq_k scores.
    return _unit(q) / score.log_temperature.exp(), _unit(k), 1.0


def _additive(mask, bias, q, k):
    """Mask and bias as the one thing that the kernel takes; None if there is nothing to add."""
    seq_q, seq_k = q.shape[-2], k.shape[-2]
    if callable(mask):
        # The last query sees every key: it alone needs no mask.
        mask = None if mask is causal_mask and seq_q == 1 else mask(seq_q, seq_k)
    if mask is None and bias is None:
        return None
    lead = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    scores = q.new_empty(()).expand(*lead, seq_q, seq_k)  # their shape, without their memory
    if mask is not None:
        mask = _checked_mask(mask, scores)
    if bias is None:
        return mask
    _check_fits("bias", bias, scores)
    bias = bias if mask is None else bias.masked_fill(~mask, -math.inf)
    return bias.to(q.dtype).expand(scores.shape)  # the fast kernel wants all dimensions
