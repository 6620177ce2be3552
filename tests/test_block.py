"""The block, against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import LayerCache, assert_near, randomise, torch_heads, torch_heads_gradients
from torch import nn
from torch.testing import assert_close

from bookkit.checks import WRONG_MASKS, WithPattern, check_causal, leaks
from decoder import Config
from decoder.attention import causal_mask
from decoder.block import Block
from decoder.positions import Positions

SIZE = st.integers(1, 7)


def sizes(d_model=14, n_heads=7, d_head=None, d_mlp=11):
    return Config(1, 1, d_model, n_heads, 1, d_head=d_head, d_mlp=d_mlp)


def torch_block(block):
    """`torch.nn.TransformerEncoderLayer` with the weights of ours."""
    d_model, d_mlp = block.mlp.W_in.shape
    theirs = nn.TransformerEncoderLayer(
        d_model,
        block.attn.n_heads,
        d_mlp,
        dropout=0,
        activation=lambda x: F.gelu(x, approximate="tanh"),
        norm_first=True,
        batch_first=True,
        dtype=block.mlp.W_in.dtype,
    )
    theirs.self_attn = torch_heads(block.attn)
    with torch.no_grad():
        for ours, name in PAIRS.items():
            weight = block.get_parameter(ours)
            theirs.get_parameter(name).copy_(weight.T if weight.ndim == 2 else weight)
    return theirs


PAIRS = {
    "norm1.w": "norm1.weight",
    "norm1.b": "norm1.bias",
    "norm2.w": "norm2.weight",
    "norm2.b": "norm2.bias",
    "mlp.W_in": "linear1.weight",
    "mlp.b_in": "linear1.bias",
    "mlp.W_out": "linear2.weight",
    "mlp.b_out": "linear2.bias",
}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), SIZE, st.integers(1, 5), SIZE, SIZE, st.integers(0, 10**6))
def test_block_equals_torch(batch, seq, n_heads, d_head, d_mlp, seed):
    config = sizes(n_heads * d_head, n_heads, d_mlp=d_mlp)
    compare_with_torch(config, batch, seq, torch.float64, 1e-12, seed)


@pytest.mark.parametrize(
    "n_heads, d_head, d_mlp, seq", [(3, 5, 11, 7), (5, 2, 3, 13), (1, 7, 2, 5)]
)
def test_block_equals_torch_in_float32(n_heads, d_head, d_mlp, seq):
    config = sizes(n_heads * d_head, n_heads, d_mlp=d_mlp)
    compare_with_torch(config, 2, seq, torch.float32, 1e-5, seed=0)


def compare_with_torch(config, batch, seq, dtype, near, seed):
    torch.manual_seed(seed)
    d_model = config.d_model
    block = randomise(Block(config).to(dtype), std=0.2, seed=seed)
    theirs = torch_block(block)
    # Vectors of one or two numbers are no test of a norm's gradient: it is a difference of
    # almost equal numbers there. Their entries are spread out instead.
    x = torch.randn(batch, seq, d_model, dtype=dtype) + torch.arange(d_model)
    x.requires_grad_()
    out, expected = block(x), theirs(x, src_mask=~causal_mask(seq, seq))  # there, True blocks
    assert_near(out, expected, near)

    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    ours, x.grad = x.grad, None
    (expected * weight).sum().backward()
    assert_near(ours, x.grad, near)
    for name, gradient in torch_heads_gradients(theirs.self_attn).items():
        assert_near(block.attn.get_parameter(name).grad, gradient, near)
    for name, their_name in PAIRS.items():
        gradient = theirs.get_parameter(their_name).grad
        gradient = gradient.T if gradient.ndim == 2 else gradient
        assert_near(block.get_parameter(name).grad, gradient, near)


def test_sizes_come_from_the_config():
    block = Block(sizes(14, 3, d_head=5, d_mlp=11))
    assert (block.attn.n_heads, block.attn.d_head, block.attn.W_Q.shape) == (3, 5, (14, 15))
    assert (block.mlp.W_in.shape, block.norm1.w.shape) == ((14, 11), (14,))
    assert block.norm2.b.shape == (14,)


@given(SIZE, st.integers(1, 5), SIZE, SIZE, st.integers(0, 10**6))
@settings(deadline=None)
def test_two_residual_additions(d_model, n_heads, d_head, seq, seed):
    torch.manual_seed(seed)
    block = randomise(Block(sizes(d_model, n_heads, d_head)).double(), seed=seed)
    resid = torch.randn(2, seq, d_model, dtype=torch.float64)
    middle = resid + block.attn(block.norm1(resid))
    assert_close(block(resid), middle + block.mlp(block.norm2(middle)), rtol=1e-12, atol=1e-12)


def test_what_came_in_is_left_as_it_was():
    block, resid = randomise(Block(sizes()).double()), torch.randn(2, 5, 14).double()
    before = resid.clone()
    block(resid)
    assert torch.equal(resid, before)


def test_a_block_is_causal_and_every_wrong_mask_shows():
    torch.manual_seed(0)
    block, x = randomise(Block(sizes()).double()), torch.randn(2, 11, 14).double()
    check_causal(block, x)
    for make_pattern in WRONG_MASKS.values():
        block.attn.attend = WithPattern(make_pattern)
        assert leaks(block, x)


class Turned(Positions):
    def rotate(self, x, start=0):
        return x * torch.arange(start + 1, start + 1 + x.shape[-2]).to(x)[:, None]


@pytest.mark.parametrize("positions", [None, Turned()])
def test_hands_positions_and_cache_to_its_attention(positions):
    torch.manual_seed(0)
    block, x = randomise(Block(sizes()).double()), torch.randn(2, 7, 14).double()
    cache, whole = LayerCache(), block(x, positions)
    parts = [block(part, positions, cache) for part in (x[:, :3], x[:, 3:])]
    assert cache.length == 7
    assert_close(torch.cat(parts, dim=1), whole, rtol=1e-12, atol=1e-12)
    if positions is not None:
        assert (whole - block(x)).abs().max() > 1e-3


def test_a_skip_can_be_left_out_in_three_lines():
    class NoAttentionSkip(Block):
        def forward(self, resid, positions=None, cache=None):
            resid = self.attn(self.norm1(resid), positions, cache)
            return resid + self.mlp(self.norm2(resid))

    torch.manual_seed(0)
    block, resid = randomise(Block(sizes()).double()), torch.randn(2, 5, 14).double()
    without = NoAttentionSkip(sizes()).double()
    without.load_state_dict(block.state_dict())
    with torch.no_grad():
        for piece in (block.mlp, without.mlp):
            piece.W_out.zero_()
            piece.b_out.zero_()
    assert_close(block(resid) - resid, without(resid), rtol=1e-12, atol=1e-12)


def test_names_the_width_that_does_not_fit():
    with pytest.raises(ValueError, match=r"expected x of .*14.*, got \(2, 5, 13\)"):
        Block(sizes())(torch.zeros(2, 5, 13))
