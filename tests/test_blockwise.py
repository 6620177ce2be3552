"""Attention in blocks: the same numbers and gradients as the whole, without the whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import randomise
from torch.testing import assert_close

from decoder import Config, Decoder
from decoder import blockwise as module
from decoder.attention import attention, causal_mask, scaled_dot_product
from decoder.blockwise import BlockwiseAttend, blockwise_attention
from decoder.cache import KeyValueCache
from decoder.efficient import fuse
from decoder.interpret import capture
from decoder.loss import cross_entropy
from decoder.positions import ALiBi
from decoder.scores import Additive, Cosine, dot_product

close = dict(rtol=1e-9, atol=1e-9)


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@st.composite
def problems(draw):
    """q, k, v, mask, bias and a block, so that blocks divide a length or leave a rest."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    seq_q = draw(st.integers(1, 13))
    seq_k = seq_q + draw(st.integers(0, 7))
    lead = draw(st.sampled_from([(), (2,), (2, 3)]))
    q, k, v = drawn(*lead, seq_q, 3), drawn(*lead[1:], seq_k, 3), drawn(*lead, seq_k, 5)
    mask = draw(st.sampled_from(["none", "causal", "causal function", "some", "blocks"]))
    if mask == "some":
        mask = torch.rand(*lead, seq_q, seq_k) < 0.3
        mask[..., torch.arange(seq_q), torch.randint(seq_k, (seq_q,))] = True
    elif mask == "blocks":  # most blocks hidden, for one row all but the last key
        mask = torch.zeros(seq_q, seq_k, dtype=torch.bool)
        mask[:, 0] = mask[0, -1] = True
        mask[0, 0] = seq_k == 1
    else:
        mask = {"none": None, "causal": causal_mask(seq_q, seq_k)}.get(mask, causal_mask)
    bias = torch.randn(seq_q, seq_k, dtype=torch.float64) * 3 if draw(st.booleans()) else None
    score = draw(st.sampled_from([scaled_dot_product, dot_product, Cosine(0.3).double()]))
    return q, k, v, mask, bias, score, draw(st.integers(1, 15))


@settings(max_examples=150, deadline=None)
@given(problems())
def test_blocks_give_what_the_whole_gives(problem):
    q, k, v, mask, bias, score, block = problem
    made = mask(q.shape[-2], k.shape[-2]) if callable(mask) else mask
    expected, _ = attention(q, k, v, made, bias, score)
    z = blockwise_attention(q, k, v, mask, bias, score, block)
    assert_close(z, expected, **close)
    direction = torch.randn_like(z)
    for ours, theirs in zip(
        torch.autograd.grad(z, (q, k, v), direction),
        torch.autograd.grad(expected, (q, k, v), direction),
        strict=True,
    ):
        assert_close(ours, theirs, **close)


@pytest.mark.parametrize("mask", [None, causal_mask, causal_mask(5, 7)])
def test_gradients_are_those_of_finite_differences(mask):
    torch.manual_seed(0)
    bias = torch.randn(5, 7, dtype=torch.float64)
    inputs = drawn(2, 5, 3), drawn(2, 7, 3), drawn(2, 7, 2)
    assert torch.autograd.gradcheck(
        lambda q, k, v: blockwise_attention(q, k, v, mask, bias, block=3), inputs
    )


@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_large_scores_stay_finite(shift):
    torch.manual_seed(0)
    q, k, v = torch.randn(7, 3), torch.randn(7, 3), torch.randn(7, 5)
    bias = shift * (1 + torch.arange(7.0)).expand(7, 7)  # far from 0 and each other
    expected, _ = attention(q, k, v, causal_mask(7, 7), bias)
    assert_close(blockwise_attention(q, k, v, causal_mask, bias, block=2), expected)


def test_in_float32_the_difference_stays_below_1e_5():
    torch.manual_seed(0)
    q, k, v = (torch.randn(4, 700, 32) for _ in range(3))
    expected, _ = attention(q, k, v, causal_mask(700, 700))
    assert (blockwise_attention(q, k, v, causal_mask) - expected).abs().max() < 1e-5


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """The most numbers in any tensor made, and the products of matrices counted."""

    def __init__(self):
        super().__init__()
        self.numbers = self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            # What a tensor occupies, not what it shows: an expanded one is small.
            self.numbers = max(self.numbers, out.untyped_storage().nbytes() // out.itemsize)
        self.products += "bmm" in str(func)
        return out


@pytest.mark.parametrize("mask", [None, causal_mask])
def test_no_tensor_grows_with_the_square_of_the_length(mask):
    q, k, v = (torch.randn(1, 512, 2, requires_grad=True) for _ in range(3))
    with Largest() as seen:
        blockwise_attention(q, k, v, mask, block=16).sum().backward()
    assert 16 * 16 <= seen.numbers <= 512 * 2
    with Largest() as plain:
        attention(q, k, v, causal_mask(512, 512))[0].sum().backward()
    assert plain.numbers == 512 * 512


def test_blocks_that_are_all_hidden_are_never_computed():
    q, k, v = (torch.randn(1, 12, 2) for _ in range(3))
    counts = []
    for mask in (None, causal_mask, causal_mask(12, 12)):
        with Largest() as seen:
            blockwise_attention(q, k, v, mask, block=3)
        counts.append(seen.products)
    assert counts == [2 * 16, 2 * 10, 2 * 10]


def test_the_causal_mask_is_not_made(monkeypatch):
    def refused(*sizes, **how):
        assert max(sizes[0]) <= 3
        return made(*sizes, **how)

    made = torch.ones
    monkeypatch.setattr(module.torch, "ones", refused)
    q, k, v = (torch.randn(1, 12, 2) for _ in range(3))
    assert blockwise_attention(q, k, v, causal_mask, block=3).shape == (1, 12, 2)


CONFIG = Config(d_vocab=29, n_ctx=13, d_model=12, n_heads=3, n_layers=2)
TOKENS = torch.randint(29, (2, 11), generator=torch.Generator().manual_seed(0))


def decoder(change=lambda model: model, block=None):
    torch.manual_seed(0)
    model = randomise(Decoder(CONFIG).double(), seed=1)
    model.positions = ALiBi(3).double()
    change(model)
    for piece in model.blocks:
        if block is not None:
            piece.attn.attend = BlockwiseAttend(block=block)
    return model


@pytest.mark.parametrize("change", [lambda model: model, fuse])
def test_a_decoder_learns_and_caches_the_same(change):
    ours, theirs = decoder(change, block=4), decoder()
    for model in (ours, theirs):
        cross_entropy(model(TOKENS), TOKENS.flip(1)).backward()
    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(our.grad, their.grad, **close)
    cache = KeyValueCache(CONFIG)
    with torch.no_grad():
        parts = [
            ours(TOKENS[:, :6], cache),
            ours(TOKENS[:, 6:7], cache),
            ours(TOKENS[:, 7:], cache),
        ]
        assert_close(torch.cat(parts, dim=1), theirs(TOKENS), **close)
        with capture(ours) as trace:
            ours(TOKENS)
    with pytest.raises(ValueError, match="its attention gave no pattern"):
        trace.pattern[0]


def test_bad_input():
    q, k, v = drawn(2, 3), drawn(5, 3), drawn(5, 7)
    with pytest.raises(ValueError, match="a block of at least 1, got 0"):
        blockwise_attention(q, k, v, block=0)
    with pytest.raises(ValueError, match="a constant bias"):
        blockwise_attention(q, k, v, bias=drawn(2, 5))
    with pytest.raises(ValueError, match="a bias that broadcasts"):
        blockwise_attention(q, k, v, bias=torch.zeros(5, 2))
    with pytest.raises(ValueError, match="a score that is a dot product, got Additive"):
        blockwise_attention(q, k, v, score=Additive(3).double())
    with pytest.raises(ValueError, match="1 <= seq_q <= seq_k, got seq_q=5, seq_k=2"):
        blockwise_attention(k, q, torch.randn(2, 7).double(), causal_mask)
    blind = torch.ones(2, 5, dtype=torch.bool)
    blind[1] = False
    with pytest.raises(ValueError, match=r"the mask's row \[1\] has none"):
        blockwise_attention(q, k, v, blind)
    with pytest.raises(ValueError, match="q and k of the same d_head"):
        blockwise_attention(v, k, v)
