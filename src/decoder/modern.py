"""What the field changed since GPT-2: pieces that stand in for those of the decoder."""

import math

import torch
from torch import nn

from decoder.attention import Attend
from decoder.norm import RMSNorm
from decoder.positions import Rotary
from decoder.scores import Cosine


class SquaredReLU(nn.Module):
    """Zero below zero, the square above it: an activation cheaper than GELU.

    Source: So et al. 2021 (Primer), section 4.2. Built in chapters/16-modern.
    """

    def forward(self, x):
        """Elementwise, any shape; in the square of the units of x."""
        return torch.relu(x).square()


class GatedMLP(nn.Module):
    """Dense layers in which one half of the neurons says how much of the other half passes.

    Args:
        d_model: Width of what comes in and goes out.
        d_mlp: Neurons. Three matrices for `MLP`'s two: equal parameters need two thirds of them.

    `activation` is a plain attribute, as in `MLP`.

    Source: Shazeer 2020, eq. 6 (SwiGLU, without biases). Built in chapters/16-modern.
    """

    def __init__(self, d_model, d_mlp):
        super().__init__()
        self.W_gate = nn.Parameter(0.02 * torch.randn(d_model, d_mlp))
        self.W_in = nn.Parameter(0.02 * torch.randn(d_model, d_mlp))
        self.W_out = nn.Parameter(0.02 * torch.randn(d_mlp, d_model))
        self.activation = nn.SiLU()

    def forward(self, x):
        """(..., d_model) -> (..., d_model), each position by itself."""
        if x.shape[-1] != self.W_in.shape[0]:
            raise ValueError(f"expected x of (..., {self.W_in.shape[0]}), got {tuple(x.shape)}")
        neurons = self.activation(x @ self.W_gate) * (x @ self.W_in)  # (..., d_mlp)
        return neurons @ self.W_out


class Unembed(nn.Module):
    """An unembedding of its own, which starts at zero: every token is equally likely at first.

    Args:
        d_model: Width of the residual stream.
        d_vocab: Tokens in the vocabulary.

    Built in chapters/16-modern.
    """

    def __init__(self, d_model, d_vocab):
        super().__init__()
        self.W_U = nn.Parameter(torch.zeros(d_model, d_vocab))

    def forward(self, resid, W_E=None):
        """resid (batch, seq, d_model) -> (batch, seq, d_vocab); the embedding is not asked."""
        return resid @ self.W_U


def zero_outputs(model):
    """Let every attention and every dense layer add nothing at first; returns the model.

    Source: the outputs of residual branches start at zero as in Zhang et al. 2019 (Fixup).
    """
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_O.zero_()
            block.mlp.W_out.zero_()
    return model


def modernise(model):
    """Put the pieces of this module in the places of a fresh decoder's; returns the model.

    Rotary positions for learned ones, RMSNorm for LayerNorm, queries and keys of length one with
    a learned temperature, squared ReLU for GELU, an unembedding of its own, and outputs that
    start at zero.

    Args:
        model: `Decoder`, not trained yet; d_head even.

    Built in chapters/16-modern.
    """
    config = model.config
    model.positions = Rotary(config.d_head)
    model.norm = RMSNorm(config.d_model)
    model.unembed = Unembed(config.d_model, config.d_vocab)
    for block in model.blocks:
        block.norm1, block.norm2 = RMSNorm(config.d_model), RMSNorm(config.d_model)
        # The first temperature gives scores as large as those of random q and k, scaled.
        block.attn.attend = Attend(Cosine(1 / math.sqrt(config.d_head)))
        block.mlp.activation = SquaredReLU()
    return zero_outputs(model)
