"""The same decoder as other libraries build it: sizes, weights where they can be carried over.

Each function takes this project's `Decoder` and gives a module whose `logits(tokens)` are
those of the same architecture. Dropout is 0 and no keys are cached in all of them.
"""

import contextlib
import importlib.util
import io
import math
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

PINNED = "python -m pip install -r benchmarks/requirements.txt"


class Incomparable(RuntimeError):
    """What should be the same is not; says where."""


class MissingPeer(Incomparable):
    """A library to compare with is not there; says which, and how to get it."""


def transformers_gpt2(model, attention):
    """transformers' GPT-2 with the weights of `model`; attention is "eager" or "sdpa"."""
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError:
        raise MissingPeer(f"transformers is not installed: {PINNED}") from None
    sizes = model.config
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=sizes.d_vocab,
            n_positions=sizes.n_ctx,
            n_embd=sizes.d_model,
            n_head=sizes.n_heads,
            n_layer=sizes.n_layers,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
            attn_implementation=attention,
        )
    )
    for parameter, values in _gpt2_pairs(theirs.transformer, model):
        _copy(parameter, values)
    theirs.logits = lambda tokens: theirs(input_ids=tokens, use_cache=False).logits
    return theirs


class TorchEncoder(nn.Module):
    """`torch.nn.TransformerEncoder` with a causal mask, pre-norm, and what makes it a decoder."""

    def __init__(self, model):
        super().__init__()
        sizes = model.config
        layer = nn.TransformerEncoderLayer(
            sizes.d_model,
            sizes.n_heads,
            sizes.d_mlp,
            dropout=0.0,
            activation=partial(F.gelu, approximate="tanh"),
            batch_first=True,
            norm_first=True,
        )
        self.embed = nn.Embedding(sizes.d_vocab, sizes.d_model)
        self.place = nn.Embedding(sizes.n_ctx, sizes.d_model)
        norm = nn.LayerNorm(sizes.d_model)
        self.encoder = nn.TransformerEncoder(
            layer, sizes.n_layers, norm, enable_nested_tensor=False
        )
        mask = nn.Transformer.generate_square_subsequent_mask(sizes.n_ctx)
        self.register_buffer("mask", mask, persistent=False)
        self._carry_over(model)

    def logits(self, tokens):
        seq = tokens.shape[1]
        resid = self.embed(tokens) + self.place.weight[:seq]  # (batch, seq, d_model)
        resid = self.encoder(resid, mask=self.mask[:seq, :seq], is_causal=True)
        return F.linear(resid, self.embed.weight)  # (batch, seq, d_vocab)

    def _carry_over(self, model):
        pairs = [(self.embed.weight, model.W_E), (self.place.weight, model.positions.W_pos)]
        pairs += _norm_pairs(self.encoder.norm, model.norm)
        for layer, block in zip(self.encoder.layers, model.blocks, strict=True):
            attn, mlp = block.attn, block.mlp
            heads = layer.self_attn
            pairs += _norm_pairs(layer.norm1, block.norm1) + _norm_pairs(layer.norm2, block.norm2)
            pairs += [
                (heads.in_proj_weight, torch.cat([attn.W_Q, attn.W_K, attn.W_V], dim=1).T),
                (heads.in_proj_bias, torch.cat([attn.b_Q, attn.b_K, attn.b_V])),
                (heads.out_proj.weight, attn.W_O.T),
                (heads.out_proj.bias, attn.b_O),
                (layer.linear1.weight, mlp.W_in.T),
                (layer.linear1.bias, mlp.b_in),
                (layer.linear2.weight, mlp.W_out.T),
                (layer.linear2.bias, mlp.b_out),
            ]
        for parameter, values in pairs:
            _copy(parameter, values)


def x_transformers(model):
    """x-transformers' decoder with the weights of `model`.

    Its attention and its norms have no biases: with those of a fresh `model`, which are zero,
    the logits are the same.
    """
    try:
        from x_transformers import Decoder, TransformerWrapper
    except ImportError:
        raise MissingPeer(f"x-transformers is not installed: {PINNED}") from None
    sizes = model.config
    layers = Decoder(
        dim=sizes.d_model,
        depth=sizes.n_layers,
        heads=sizes.n_heads,
        attn_dim_head=sizes.d_head,
        attn_flash=True,
        ff_mult=sizes.d_mlp / sizes.d_model,
        ff_custom_activation=nn.GELU(approximate="tanh"),
    )
    theirs = TransformerWrapper(
        num_tokens=sizes.d_vocab,
        max_seq_len=sizes.n_ctx,
        attn_layers=layers,
        tie_embedding=True,
        tie_embedding_scale=1.0,
    )
    for parameter, values in _x_pairs(theirs, model):
        _copy(parameter, values)
    theirs.logits = lambda tokens: theirs(tokens)  # the module itself would be its own part
    return theirs


def nanogpt(model, folder):
    """nanoGPT's model, from `model.py` in a folder that the user names, with weights of its own.

    Its GELU is the exact one, not the approximation: the loss differs in the fourth digit.
    """
    path = Path(folder) / "model.py"
    if not path.is_file():
        raise MissingPeer(f"expected nanoGPT's model.py in {folder}, found none")
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    module = importlib.util.module_from_spec(spec)
    sizes = model.config
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its size
        spec.loader.exec_module(module)
        theirs = module.GPT(
            module.GPTConfig(
                block_size=sizes.n_ctx,
                vocab_size=sizes.d_vocab,
                n_layer=sizes.n_layers,
                n_head=sizes.n_heads,
                n_embd=sizes.d_model,
                dropout=0.0,
                bias=True,
            )
        )
    # Without targets it gives the last position's logits only.
    theirs.logits = lambda tokens: theirs(tokens, tokens)[0]
    for parameter, values in _gpt2_pairs(theirs.transformer, model, linear=True):
        _copy(parameter, values)
    return theirs


def _gpt2_pairs(theirs, model, linear=False):
    """Parameters named as in GPT-2 and what belongs there; nn.Linear holds (d_out, d_in)."""

    def turned(w):
        return w.T if linear else w

    pairs = [(theirs.wte.weight, model.W_E), (theirs.wpe.weight, model.positions.W_pos)]
    pairs += _norm_pairs(theirs.ln_f, model.norm)
    for layer, block in zip(theirs.h, model.blocks, strict=True):
        attn, mlp = block.attn, block.mlp
        pairs += _norm_pairs(layer.ln_1, block.norm1) + _norm_pairs(layer.ln_2, block.norm2)
        pairs += [
            (layer.attn.c_attn.weight, turned(torch.cat([attn.W_Q, attn.W_K, attn.W_V], dim=1))),
            (layer.attn.c_attn.bias, torch.cat([attn.b_Q, attn.b_K, attn.b_V])),
            (layer.attn.c_proj.weight, turned(attn.W_O)),
            (layer.attn.c_proj.bias, attn.b_O),
            (layer.mlp.c_fc.weight, turned(mlp.W_in)),
            (layer.mlp.c_fc.bias, mlp.b_in),
            (layer.mlp.c_proj.weight, turned(mlp.W_out)),
            (layer.mlp.c_proj.bias, mlp.b_out),
        ]
    return pairs


def _x_pairs(theirs, model):
    layers = theirs.attn_layers.layers
    # It multiplies its positions by this.
    scale = math.sqrt(model.config.d_model)
    pairs = [
        (theirs.token_emb.emb.weight, model.W_E),
        (theirs.pos_emb.emb.weight, scale * model.positions.W_pos),
        _gamma_pair(theirs.attn_layers.final_norm, model.norm),
    ]
    for index, block in enumerate(model.blocks):
        (norm1, attn, _), (norm2, dense, _) = layers[2 * index], layers[2 * index + 1]
        first, last = dense.ff[0][0], dense.ff[2]
        pairs += [
            _gamma_pair(norm1[0], block.norm1),
            _gamma_pair(norm2[0], block.norm2),
            (attn.to_q.weight, block.attn.W_Q.T),
            (attn.to_k.weight, block.attn.W_K.T),
            (attn.to_v.weight, block.attn.W_V.T),
            (attn.to_out.weight, block.attn.W_O.T),
            (first.weight, block.mlp.W_in.T),
            (first.bias, block.mlp.b_in),
            (last.weight, block.mlp.W_out.T),
            (last.bias, block.mlp.b_out),
        ]
    return pairs


def _norm_pairs(theirs, ours):
    return [(theirs.weight, ours.w), (theirs.bias, ours.b)]


def _gamma_pair(theirs, ours):
    # Its norms may keep how far their scale is from 1.
    return theirs.gamma, ours.w - float(theirs.unit_offset)


def _copy(parameter, values):
    if parameter.shape != values.shape:
        raise ValueError(f"expected weights of {tuple(parameter.shape)}, got {tuple(values.shape)}")
    with torch.no_grad():
        parameter.copy_(values)


def count(module):
    """Parameters, each tensor once."""
    return sum(p.numel() for p in module.parameters())


def absent_biases(model):
    """Parameters that x-transformers' version of `model` has not: of attention and of norms."""
    names = ("attn.b_", "norm.b", "norm1.b", "norm2.b")
    return sum(p.numel() for n, p in model.named_parameters() if any(part in n for part in names))
