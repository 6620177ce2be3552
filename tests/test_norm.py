"""Normalisation, against torch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import randomise
from torch import nn
from torch.testing import assert_close

from decoder.norm import LayerNorm, RMSNorm

OURS = {"layer": LayerNorm, "rms": RMSNorm}
THEIRS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}
each = pytest.mark.parametrize("kind", OURS)


def pair(kind, d_model, eps, dtype):
    ours = randomise(OURS[kind](d_model, eps).to(dtype))
    theirs = THEIRS[kind](d_model, eps=eps, dtype=dtype)
    with torch.no_grad():
        theirs.weight.copy_(ours.w)
        if kind == "layer":
            theirs.bias.copy_(ours.b)
    return ours, theirs


@each
@settings(max_examples=30, deadline=None)
@given(
    leading=st.lists(st.integers(1, 5), max_size=3),
    d_model=st.integers(7, 23),  # narrower vectors may be near constant: float32 cancels there
    scale=st.sampled_from([1e-4, 1.0, 1e3]),
    eps=st.sampled_from([1e-5, 1e-2]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_equals_torch(kind, leading, d_model, scale, eps, dtype, seed):
    ours, theirs = pair(kind, d_model, eps, dtype)
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(*leading, d_model, generator=generator, dtype=dtype) + 0.3) * scale
    weights = torch.randn(x.shape, generator=generator, dtype=dtype)
    results = []
    for norm in (ours, theirs):
        inp = x.clone().requires_grad_()
        out = norm(inp)
        (out * weights).sum().backward()
        grads = [p.grad for p in norm.parameters()]
        results.append([out, inp.grad * scale, *grads])
    near = 1e-6 if dtype == torch.float32 else 1e-12
    for a, b in zip(*results, strict=True):
        # Of the size of what is compared: sums over many positions round at their own size.
        size = max(1.0, b.abs().max().item(), x.abs().max().item() / scale)
        assert_close(a, b, rtol=near, atol=near * size)


@each
def test_default_eps_is_that_of_gpt2_and_inside_the_root(kind):
    assert OURS[kind](3).eps == 1e-5
    x = torch.full((1, 4), 1e-3) * torch.tensor([1.0, -1.0, 1.0, -1.0])
    # Mean square 1e-6, far below eps: 1e-3 / sqrt(1e-6 + 1e-5), where eps outside gives 0.99.
    assert OURS[kind](4)(x).abs().max().item() == pytest.approx(0.30151, abs=1e-5)


def test_layer_norm_divides_by_the_biased_deviation():
    out = LayerNorm(4)(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert out[0].tolist() == pytest.approx([1.73200] + [-0.57733] * 3, abs=1e-4)  # not 1.50


@each
def test_a_vector_of_zeros_gives_the_shift_alone(kind):
    norm = randomise(OURS[kind](5))
    expected = norm.b if kind == "layer" else torch.zeros(5)
    assert_close(norm(torch.zeros(2, 5)), expected.expand(2, 5), rtol=0, atol=0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), shift=st.floats(-9, 9), factor=st.floats(0.1, 9))
def test_what_each_norm_ignores(seed, shift, factor):
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    layer, rms = (randomise(OURS[kind](7, eps=0.0).double()) for kind in OURS)
    assert_close(layer(factor * x + shift), layer(x), rtol=1e-7, atol=1e-9)
    assert_close(rms(factor * x), rms(x), rtol=1e-9, atol=1e-9)
    if abs(shift) > 0.1:
        assert (rms(x + shift) - rms(x)).abs().max() > 1e-3


@each
def test_shares_of_parts_sum_to_the_whole(kind):
    norm = randomise(OURS[kind](7).double())
    parts = torch.randn(5, 2, 3, 7, generator=torch.Generator().manual_seed(0)).double()
    whole = parts.sum(dim=0)
    shares = [norm.linear(part, at=whole) for part in parts]
    constant = norm(torch.zeros(7, dtype=torch.float64))
    assert_close(sum(shares) + constant, norm(whole), rtol=1e-12, atol=1e-12)
    assert_close(norm.linear(3 * parts[0], whole), 3 * shares[0], rtol=1e-12, atol=1e-12)


@each
def test_each_vector_by_itself(kind):
    norm = randomise(OURS[kind](7))
    x = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    before = norm(x)
    x[1, 2] += torch.arange(7)
    assert torch.equal(norm(x)[0], before[0]) and torch.equal(norm(x)[1, :2], before[1, :2])
    assert not torch.equal(norm(x)[1, 2], before[1, 2])


@each
def test_another_width_is_named(kind):
    # A width of 1 would broadcast.
    for width in (1, 6):
        with pytest.raises(ValueError, match=rf"expected x of \(..., 7\), got \(2, {width}\)"):
            OURS[kind](7)(torch.zeros(2, width))
