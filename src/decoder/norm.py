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
    Built in chapters/08-skip.
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
        variance = (centred * centred).mean(dim=-1, keepdim=True)  # (..., 1)
        return centred * torch.rsqrt(variance + self.eps) * self.w + self.b


def _check_width(x, w):
    if x.shape[-1] != w.shape[0]:
        raise ValueError(f"expected x of (..., {w.shape[0]}), got {tuple(x.shape)}")
