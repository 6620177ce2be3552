"""The whole decoder: embed, blocks, norm, unembed."""

import math

import torch
from torch import nn

from decoder.block import Block
from decoder.checks import check_ids, check_tokens
from decoder.norm import LayerNorm
from decoder.positions import Learned


class TiedUnembed(nn.Module):
    """Score each token of the vocabulary with the vector that also embeds it.

    Source: Press and Wolf 2017. Built in chapters/09-decoder.
    """

    def forward(self, resid, W_E):
        """resid (batch, seq, d_model) and W_E (d_vocab, d_model) -> (batch, seq, d_vocab)."""
        return resid @ W_E.T


class Decoder(nn.Module):
    """A decoder-only language model with the architecture of GPT-2.

    Args:
        config: Its sizes.

    `positions`, `norm`, `unembed` and each of `blocks` are plain attributes: another
    piece of the same signature can be put in their place. New weights come from torch's
    global random generator; `torch.manual_seed` before making a model fixes them.

    Raises:
        ValueError: from `forward`, tokens that are no (batch, seq) int64 tensor, an id
            outside the vocabulary, or more positions than n_ctx.

    Source: Radford et al. 2019, section 2.3. Built in chapters/09-decoder.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.W_E = nn.Parameter(0.02 * torch.randn(config.d_vocab, config.d_model))
        self.positions = Learned(config.n_ctx, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model)
        self.unembed = TiedUnembed()
        self._shrink_what_is_added()

    def forward(self, tokens, cache=None):
        """Predict the token after each position.

        Args:
            tokens: Ids, (batch, seq), int64.
            cache: Keys and values of the positions before them (`generate.KeyValueCache`),
                to which theirs are added.

        Returns:
            logits, (batch, seq, d_vocab), unnormalised log-probabilities.
        """
        start = 0 if cache is None else cache.length
        self._check(tokens, start)
        resid = self.positions(self.W_E[tokens], start)  # (batch, seq, d_model)
        for layer, block in enumerate(self.blocks):
            resid = block(resid, self.positions, None if cache is None else cache[layer])
        return self.unembed(self.norm(resid), self.W_E)  # (batch, seq, d_vocab)

    def _shrink_what_is_added(self):
        # 2 * n_layers outputs are added up; each starts smaller so that their sum does not grow
        # with depth (Radford et al. 2019, section 2.3).
        with torch.no_grad():
            for block in self.blocks:
                block.attn.W_O /= math.sqrt(2 * self.config.n_layers)
                block.mlp.W_out /= math.sqrt(2 * self.config.n_layers)

    def _check(self, tokens, start):
        n_ctx = self.config.n_ctx
        check_tokens(tokens)
        if start + tokens.shape[1] > n_ctx:
            cached = f" after {start} cached" if start else ""
            raise ValueError(
                f"expected at most n_ctx={n_ctx} positions, got {tokens.shape[1]}{cached}"
            )
        check_ids(tokens, self.config.d_vocab)
