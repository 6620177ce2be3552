"""The dense layers: what each position does with what it has gathered, on its own."""

import math

import torch
from torch import nn


class GELU(nn.Module):
    """GPT-2's activation: x times a smooth step, by its tanh approximation.

    Source: Hendrycks and Gimpel 2016, section 2. Built in chapters/07-dense.
    """

    def forward(self, x):
        """Elementwise, any shape; in the units of x."""
        # x * x * x, not x ** 3: pow is several times slower than two products.
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


class MLP(nn.Module):
    """Widen, bend, narrow: the same two dense layers at every position.

    Args:
        d_model: Width of what comes in and goes out.
        d_mlp: Width in between.

    `activation` is a plain attribute, any elementwise module; hooks read the neurons there.

    Raises:
        ValueError: from `forward`, x is not d_model wide.

    Source: Vaswani et al. 2017, eq. 2, with GELU for ReLU. Built in chapters/07-dense.
    """

    def __init__(self, d_model, d_mlp):
        super().__init__()
        self.W_in = nn.Parameter(0.02 * torch.randn(d_model, d_mlp))
        self.b_in = nn.Parameter(torch.zeros(d_mlp))
        self.W_out = nn.Parameter(0.02 * torch.randn(d_mlp, d_model))
        self.b_out = nn.Parameter(torch.zeros(d_model))
        self.activation = GELU()

    def forward(self, x):
        """(..., d_model) -> (..., d_model), each position by itself."""
        d_model = self.W_in.shape[0]
        if x.shape[-1] != d_model:
            raise ValueError(f"expected x of (..., {d_model}), got {tuple(x.shape)}")
        neurons = self.activation(x @ self.W_in + self.b_in)  # (..., d_mlp)
        return neurons @ self.W_out + self.b_out
