"""Pieces as one step of the graph each: forward and backward derived by hand.

An elementwise piece costs what it moves, not what it computes: each operation reads and writes
every number once, and autograd keeps what lies between. Derived by hand, the same formulas work
in place, on two or three tensors in all. Torch has such kernels for some pieces (`layer_norm`);
these are for those that have none on a CPU, or a slow one.

Built in chapters/15-cost.
"""

import math

import torch
from torch.autograd.function import once_differentiable

# GELU's tanh form is x * sigmoid(x * (A + B x^2)), because (1 + tanh u) / 2 = sigmoid(2 u).
A = math.sqrt(8 / math.pi)
B = 0.044715 * A


PIECE = 2**18  # numbers, a megabyte: what one operation writes is in the cache for the next


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x = x.contiguous()
        gate, y = torch.empty_like(x), torch.empty_like(x)
        for xs, gates, ys in pieces(x, gate, y):
            # exp, in the sigmoid, is cheaper than tanh.
            torch.addcmul(x.new_tensor(A), xs, xs, value=B, out=gates).mul_(xs).sigmoid_()
            torch.mul(xs, gates, out=ys)
        ctx.save_for_backward(x, gate)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, gate = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        for xs, gates, ups, downs in pieces(x, gate, grad, grad_x):
            # d(x s)/dx = s (1 + (1 - s) x (A + 3 B x^2)), where s is the gate
            torch.addcmul(x.new_tensor(A), xs, xs, value=3 * B, out=downs).mul_(xs)
            downs.addcmul_(downs, gates, value=-1).add_(1).mul_(gates).mul_(ups)
        return grad_x


def pieces(*tensors):
    """Views of `PIECE` numbers of each tensor, one after the other; tensors of one shape."""
    return zip(*(tensor.reshape(-1).split(PIECE) for tensor in tensors), strict=True)


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (positive,) = ctx.saved_tensors
        return (positive * grad).mul_(2)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, eps):
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (..., 1)
        inverse = torch.rsqrt(size.square_().div_(x.shape[-1]).add_(eps))
        ctx.save_for_backward(x, w, inverse)
        return (x * inverse).mul_(w)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, w, inverse = ctx.saved_tensors
        unit = x * inverse  # (..., d_model), of mean square 1
        product = grad * unit
        grad_w = product.flatten(0, -2).sum(0)
        # What would lengthen x changes nothing: take it out.
        along = product.mul_(w).mean(dim=-1, keepdim=True)  # (..., 1)
        grad_x = torch.mul(grad, w, out=product).sub_(unit.mul_(along)).mul_(inverse)
        return grad_x, grad_w, None


class _CausalRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, scale, block):
        z, patterns = torch.empty_like(v), []
        for start in range(0, q.shape[1], block):
            stop = min(start + block, q.shape[1])
            scores = product(q[:, start:stop], k[:, :stop].mT, scale)  # (n, block, stop)
            # Adding -inf is several times faster than `masked_fill_` with a mask that broadcasts.
            scores[..., start:] += q.new_full((stop - start, stop - start), -math.inf).triu(1)
            patterns.append(scores.softmax(dim=-1))
            z[:, start:stop] = torch.bmm(patterns[-1], v[:, :stop])
        ctx.save_for_backward(q, k, v, z, *patterns)
        ctx.scale = scale
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, z, *patterns = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        mean = (grad * z).sum(dim=-1, keepdim=True)  # (n, seq, 1), of the weights' gradients
        start = 0
        for pattern in patterns:
            stop = pattern.shape[2]
            rows, start = slice(start, stop), stop
            grad_v[:, :stop].baddbmm_(pattern.mT, grad[:, rows])
            grad_scores = torch.bmm(grad[:, rows], v[:, :stop].mT).sub_(mean[:, rows]).mul_(pattern)
            grad_q[:, rows] = product(grad_scores, k[:, :stop], ctx.scale)
            grad_k[:, :stop].baddbmm_(grad_scores.mT, q[:, rows], alpha=ctx.scale)
        return grad_q, grad_k, grad_v, None, None


def gelu(x):
    """`GELU`, any shape."""
    if not torch.is_grad_enabled():  # nothing to derive: one call
        return torch.nn.functional.gelu(x, approximate="tanh")
    return _GELU.apply(x)


def squared_relu(x):
    """`SquaredReLU`, any shape."""
    return _SquaredReLU.apply(x)


def rms_norm(x, w, eps):
    """`RMSNorm`: x (..., d_model), w (d_model,)."""
    return _RMSNorm.apply(x, w, eps)


def causal_rows(q, k, v, scale, block=64):
    """Causal attention for short sequences: a block of queries at a time, with the keys they see.

    Nearly half of a causal pattern is zeros; these are not computed. What is, is kept for the
    backward pass: faster than computing it again, but memory grows with the square of seq.

    Args:
        q, k: Queries and keys, (batch, n_heads, seq, d_head).
        v: Values, (batch, n_heads, seq, d_value).
        scale: Factor of their dot products.
        block: Queries at a time.

    Returns:
        z, of the shape of v.
    """
    flat = (x.flatten(0, 1) for x in (q, k, v))  # (batch * n_heads, seq, d_head)
    return _CausalRows.apply(*flat, scale, block).unflatten(0, v.shape[:2])


def product(a, b, scale):
    """scale * a @ b for stacks of matrices, scaled within the product."""
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)
