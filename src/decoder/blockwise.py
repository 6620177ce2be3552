"""Attention block by block: the whole pattern never exists, so memory grows with seq alone.

A softmax seems to need all scores of a query at once: their maximum and the sum of their
exponentials. Both can be kept up to date instead. When a later block brings a higher maximum,
what was summed before is shrunk by the exponential of the difference.
"""

import math

import torch
from torch.autograd.function import once_differentiable

from decoder.attention import (
    _check_fits,
    _check_shapes,
    _checked_mask,
    causal_mask,
    scaled_dot_product,
)
from decoder.efficient import LazyMask, as_dot_product, is_dot_product


def blockwise_attention(q, k, v, mask=None, bias=None, score=scaled_dot_product, block=128):
    """The z of `attention`, from blocks of (block, block) scores at a time.

    Args:
        q, k, v: As for `attention`.
        mask: As for `attention`, or `causal_mask` itself: it is then never made, and blocks above
            the diagonal are never looked at. Of any mask, blocks that hide all are skipped.
        bias: As for `attention`; a constant, through which no gradient flows.
        score: `scaled_dot_product`, `dot_product` or a `Cosine`.
        block: Queries, and keys, in a block.

    Returns:
        z, (..., seq_q, d_value). For the gradients, q, k, v, z and one number a query are kept;
        the blocks of the pattern are computed again.

    Raises:
        ValueError: as `attention`; block is below 1, the bias needs a gradient, or the score is
            another one.

    Source: Milakov and Gimelshein 2018, alg. 3 (the running softmax); Rabe and Staats 2021;
    Dao et al. 2022, alg. 1 and 4. Built in chapters/15-cost.
    """
    _check_shapes(q, k, v)
    if block < 1:
        raise ValueError(f"expected a block of at least 1, got {block}")
    if not is_dot_product(score):
        raise ValueError(f"expected a score that is a dot product, got {score!r}")
    lead = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    scores = q.new_empty(()).expand(*lead, q.shape[-2], k.shape[-2])  # a shape, without memory
    if mask is not None and (mask is not causal_mask or not 1 <= q.shape[-2] <= k.shape[-2]):
        mask = mask(*scores.shape[-2:]) if callable(mask) else mask
        mask = _checked_mask(mask, scores).expand(scores.shape)
    if bias is not None:
        _check_fits("bias", bias, scores)
        if bias.requires_grad:
            raise ValueError("expected a constant bias: blockwise attention gives it no gradient")
        bias = bias.expand(scores.shape)
    q, k, scale = as_dot_product(score, q, k)
    flat = (
        x.expand(*lead, *x.shape[-2:]).reshape(math.prod(lead), *x.shape[-2:]) for x in (q, k, v)
    )
    return _Blockwise.apply(*flat, mask, bias, scale, block).reshape(
        *lead, q.shape[-2], v.shape[-1]
    )


class BlockwiseAttend(LazyMask):
    """`Attend` in blocks: in a decoder, `attn.attend = BlockwiseAttend()`; there is no pattern.

    Args:
        score, block: As for `blockwise_attention`.

    Built in chapters/15-cost.
    """

    def __init__(self, score=scaled_dot_product, block=128):
        super().__init__(score)
        self.block = block

    def forward(self, q, k, v, mask=None, bias=None):
        """`blockwise_attention(q, k, v, mask, bias, score, block)`: returns z and None."""
        return blockwise_attention(q, k, v, mask, bias, self.score, self.block), None


class _Blockwise(torch.autograd.Function):
    """q (n, seq_q, d_head), k (n, seq_k, d_head), v (n, seq_k, d_value) -> (n, seq_q, d_value)."""

    @staticmethod
    def forward(ctx, q, k, v, mask, bias, scale, block):
        q = q * scale  # seq_q * d_head products, not seq_q * seq_k
        z = v.new_empty(len(q), q.shape[1], v.shape[2])
        log_sum = q.new_empty(*q.shape[:2], 1)  # of the exponentials of each query's scores
        for rows in blocks(q.shape[1], block):
            # Of the keys so far: highest score, sum of exponentials, their mixture of values.
            top = q.new_full((len(q), rows.stop - rows.start, 1), torch.finfo(q.dtype).min)
            total, mixed = torch.zeros_like(top), torch.zeros_like(z[:, rows])
            for columns, scores in scored(q, k, mask, bias, rows, block):
                higher = torch.maximum(top, scores.amax(dim=-1, keepdim=True))
                weights = scores.sub_(higher).exp_()  # (n, rows, columns)
                shrink = torch.exp(top - higher)
                total = total.mul_(shrink).add_(weights.sum(dim=-1, keepdim=True))
                mixed = mixed.mul_(shrink).baddbmm_(weights, v[:, columns])
                top = higher
            z[:, rows] = mixed.div_(total)
            log_sum[:, rows] = total.log_().add_(top)
        ctx.save_for_backward(q, k, v, z, log_sum)
        ctx.how = mask, bias, scale, block
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, z, log_sum = ctx.saved_tensors
        mask, bias, scale, block = ctx.how
        grad_q, grad_k, grad_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        # A softmax's scores get its weights' gradients less their weighted mean, which is this.
        mean = (grad * z).sum(dim=-1, keepdim=True)  # (n, seq_q, 1)
        for rows in blocks(q.shape[1], block):
            for columns, scores in scored(q, k, mask, bias, rows, block):
                weights = scores.sub_(log_sum[:, rows]).exp_()  # (n, rows, columns): the pattern
                grad_v[:, columns].baddbmm_(weights.mT, grad[:, rows])
                grad_scores = torch.bmm(grad[:, rows], v[:, columns].mT)
                grad_scores.sub_(mean[:, rows]).mul_(weights)
                grad_q[:, rows].baddbmm_(grad_scores, k[:, columns])
                grad_k[:, columns].baddbmm_(grad_scores.mT, q[:, rows])
        return grad_q.mul_(scale), grad_k, grad_v, None, None, None, None


def blocks(seq, block):
    """Slices that cover range(seq), the last one perhaps shorter."""
    return [slice(start, min(start + block, seq)) for start in range(0, seq, block)]


def scored(q, k, mask, bias, rows, block):
    """Yield, for the queries in `rows`, each block of keys that one of them sees, and the scores.

    Yields:
        columns, a slice, and scores, (n, rows, columns), biased, -inf where hidden.
    """
    for columns in blocks(k.shape[1], block):
        seen = visible(mask, rows, columns, k.shape[1] - q.shape[1], q.device)
        if seen is False:
            continue
        scores = torch.bmm(q[:, rows], k[:, columns].mT)
        if bias is not None:
            scores += bias[..., rows, columns].reshape(scores.shape)
        if seen is not True:
            # Several times faster than `masked_fill_` with a mask that broadcasts.
            scores += q.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)
        yield columns, scores


def visible(mask, rows, columns, earlier, device):
    """What a block's queries see of its keys: True for all, False for none, or their mask.

    Args:
        mask: (..., seq_q, seq_k), `causal_mask` or None.
        rows, columns: Slices.
        earlier: Keys before the first query's own, seq_k - seq_q.
    """
    if mask is None:
        return True
    if mask is not causal_mask:
        part = mask[..., rows, columns]
        seen = part.any()
        return bool(seen) if seen == part.all() else part.reshape(-1, *part.shape[-2:])
    first, last = rows.start + earlier, rows.stop - 1 + earlier  # keys that they see up to
    if last < columns.start:
        return False
    if columns.stop - 1 <= first:
        return True
    size = rows.stop - rows.start, columns.stop - columns.start
    return torch.ones(size, dtype=torch.bool, device=device).tril(first - columns.start)
