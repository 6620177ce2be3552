"""Normalisation: bring every position's vector to a known scale."""

import torch
from torch import nn


class LayerNorm(nn.Module):
    """Centre each vector, divide by its standard deviation, then scale and shift.

    Args:
        d_model: Width of the vectors.
        eps: Added to the variance, inside the root, so that a constant vector is no division by 0.

    Raises:
        ValueError: from `forward`, x is not d_model wide.

    Source: Ba et al. 2016, eq. 4; the variance is the biased one, as in PyTorch.
    Built in chapters/08-skips.
    """

    def __init__(self, d_model, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.w = nn.Parameter(torch.ones(d_model))
        self.b = nn.Parameter(torch.zeros(d_model))

    def forward(self, x):
        """(..., d_model) -> (..., d_model), each vector by itself."""
        _check_width(x, self.w)
        centred = x - x.mean(dim=-1, keepdim=True)
        return centred * inverse_rms(centred, self.eps) * self.w + self.b

    def linear(self, x, at):
        """The share of x in forward(at), where x is one of several parts that sum to `at`.

        Both are (..., d_model). The standard deviation is that of `at`, so this is linear in x,
        and the shares of all the parts sum to forward(at) - b.
        """
        centred = at - at.mean(dim=-1, keepdim=True)
        return (x - x.mean(dim=-1, keepdim=True)) * inverse_rms(centred, self.eps) * self.w


class RMSNorm(nn.Module):
    """Divide each vector by its root mean square, then scale: no centring, no shift.

    Args:
        d_model: Width of the vectors.
        eps: Added to the mean square, inside the root.

    Raises:
        ValueError: from `forward`, x is not d_model wide.

    Source: Zhang and Sennrich 2019, eq. 4. Built in chapters/16-modern.
    """

    def __init__(self, d_model, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.w = nn.Parameter(torch.ones(d_model))

    def forward(self, x):
        """(..., d_model) -> (..., d_model), each vector by itself."""
        _check_width(x, self.w)
        return x * inverse_rms(x, self.eps) * self.w

    def linear(self, x, at):
        """The share of x in forward(at), with the scale of `at`; see `LayerNorm.linear`."""
        return x * inverse_rms(at, self.eps) * self.w


def inverse_rms(x, eps):
    """One over the root mean square of each vector: (..., d_model) -> (..., 1)."""
    return torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + eps)


def _check_width(x, w):
    if x.shape[-1] != w.shape[0]:
        raise ValueError(f"expected x of (..., {w.shape[0]}), got {tuple(x.shape)}")
