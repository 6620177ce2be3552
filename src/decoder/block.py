"""The block: attention, then the dense layers, each added to the residual stream."""

from torch import nn

from decoder.attention import MultiHeadAttention
from decoder.mlp import MLP
from decoder.norm import LayerNorm


class Block(nn.Module):
    """One layer of the decoder: two residual additions, normalised on the way in (pre-norm).

    Args:
        config: Sizes; d_model, n_heads, d_head and d_mlp are used.

    Source: Radford et al. 2019, section 2.3. Built in chapters/08-skips.
    """

    def __init__(self, config):
        super().__init__()
        self.norm1 = LayerNorm(config.d_model)
        self.attn = MultiHeadAttention(config.d_model, config.n_heads, config.d_head)
        self.norm2 = LayerNorm(config.d_model)
        self.mlp = MLP(config.d_model, config.d_mlp)

    def forward(self, resid, positions=None, cache=None):
        """(batch, seq, d_model) -> (batch, seq, d_model).

        `positions` and `cache` are handed to the attention; see `MultiHeadAttention.forward`.
        """
        resid = resid + self.attn(self.norm1(resid), positions, cache)
        resid = resid + self.mlp(self.norm2(resid))
        return resid
