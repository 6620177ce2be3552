"""Position schemes, against their papers' formulas and code, and against transformers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import Cache, randomise
from torch.testing import assert_close
from transformers import GPTNeoXConfig, LlamaConfig
from transformers.models.gpt_neox import modeling_gpt_neox as neox
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.llama import modeling_llama as llama

from decoder import Config, Decoder
from decoder.attention import MultiHeadAttention
from decoder.positions import ALiBi, Learned, Positions, Rotary, Sinusoidal, angles

SIZES = Config(d_vocab=17, n_ctx=13, d_model=22, n_heads=5, n_layers=2, d_head=6, d_mlp=7)
SCHEMES = {
    "none": lambda c: Positions(),
    "learned": lambda c: Learned(c.n_ctx, c.d_model),
    "sinusoidal": lambda c: Sinusoidal(c.d_model),
    "rotary": lambda c: Rotary(c.d_head),
    "alibi": lambda c: ALiBi(c.n_heads),
}
each_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def decoder_with(scheme, config=SIZES):
    model = Decoder(config)
    model.positions = SCHEMES[scheme](config)
    return randomise(model.double())


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unmasked(seq_q, seq_k):
    return torch.ones(seq_q, seq_k, dtype=torch.bool)


# What every scheme does


@each_scheme
@pytest.mark.parametrize("split", range(1, 11))
def test_after_a_cache_positions_go_on(scheme, split):
    model, tokens = decoder_with(scheme), torch.arange(22).view(2, 11) * 5 % 17
    cache = Cache(SIZES.n_layers)
    parts = [model(part, cache) for part in tokens.split([split, 11 - split], dim=1)]
    assert_close(torch.cat(parts, dim=1), model(tokens), rtol=1e-10, atol=1e-10)


@each_scheme
def test_order_matters(scheme):
    model = decoder_with(scheme)
    tokens = torch.tensor([[3, 5, 7, 11, 2]])
    swapped = torch.tensor([[5, 3, 7, 11, 2]])
    # Two causal layers tell the order apart even without positions: what the second reads at
    # position 1 depends on what came before it.
    assert (model(tokens)[:, -1] - model(swapped)[:, -1]).abs().max() > 1e-3


@each_scheme
def test_one_causal_layer_needs_a_scheme_to_know_the_order_of_what_came_before(scheme):
    config = Config(d_vocab=17, n_ctx=13, d_model=22, n_heads=5, n_layers=1, d_head=6)
    model = decoder_with(scheme, config)
    last = model(torch.tensor([[3, 5, 7, 11, 2]]))[0, -1]
    swapped = model(torch.tensor([[7, 3, 11, 5, 2]]))[0, -1]
    if scheme == "none":
        assert_close(last, swapped, rtol=1e-12, atol=1e-12)
    else:
        assert (last - swapped).abs().max() > 1e-3


@each_scheme
@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(7)))
def test_unmasked_attention_is_equivariant_to_permutation_without_positions_only(scheme, order):
    positions, x = randomise(SCHEMES[scheme](SIZES).double()), randn(2, 7, 22)
    attn = randomise(MultiHeadAttention(22, 5, 6).double())
    attn.mask = unmasked

    def attend(x):
        return attn(positions(x), positions)

    gap = (attend(x[:, order]) - attend(x)[:, order]).abs().max()
    assert (gap < 1e-12) == (scheme == "none" or order == list(range(7)))


@each_scheme
def test_weights_can_be_exchanged_where_nothing_is_learned(scheme):
    names = decoder_with(scheme).state_dict().keys()
    expected = {"positions.W_pos"} if scheme == "learned" else set()
    assert {name for name in names if name.startswith("positions")} == expected


@each_scheme
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_stays(scheme, dtype):
    model = decoder_with(scheme).to(dtype)
    logits = model(torch.tensor([[3, 5, 7]]))
    assert logits.dtype == dtype
    near = {torch.float32: 1e-4, torch.float64: 1e-12, torch.bfloat16: 0.5}[dtype]
    exact = decoder_with(scheme)(torch.tensor([[3, 5, 7]]))
    assert_close(logits.double(), exact, rtol=near, atol=near)


@each_scheme
def test_generating_first_does_not_stop_training(scheme):
    # Tables made in inference mode could not be used in training.
    with torch.inference_mode():
        decoder_with(scheme)(torch.tensor([[3, 5, 7, 2]]))
    model = decoder_with(scheme)
    model(torch.tensor([[3, 5, 7, 2]])).sum().backward()
    assert model.W_E.grad.abs().sum() > 0


@each_scheme
def test_the_first_position_is_0(scheme):
    positions = SCHEMES[scheme](SIZES)
    resid, x = randn(2, 3, 22), randn(2, 3, 6)
    assert torch.equal(positions(resid), positions(resid, start=0))
    assert torch.equal(positions.rotate(x), positions.rotate(x, start=0))


@each_scheme
def test_device_stays(scheme):
    # The device of no numbers stands for any other; torch refuses to mix it with the CPU's.
    positions = SCHEMES[scheme](SIZES).to("meta")
    resid, x = torch.empty(2, 3, 22, device="meta"), torch.empty(2, 3, 6, device="meta")
    assert positions(resid).device == positions.rotate(x).device == resid.device


# None


def test_the_base_class_does_nothing():
    positions, x = Positions(), randn(2, 5, 7)
    assert positions(x, start=3) is x
    assert positions.rotate(x, start=3) is x
    assert positions.bias(3, 5) is None


# Learned


def test_learned_adds_the_vector_of_each_position():
    learned, resid = Learned(11, 7), randn(2, 3, 7, dtype=torch.float32)
    expected = resid + torch.nn.functional.embedding(torch.tensor([5, 6, 7]), learned.W_pos)
    assert_close(learned(resid, start=5), expected, rtol=0, atol=0)
    learned(resid, start=8)
    with pytest.raises(ValueError, match="below n_ctx=11, got 9 to 11"):
        learned(resid, start=9)


# Sinusoidal


def sinusoids(n, d_model):
    return Sinusoidal(d_model)(torch.zeros(1, n, d_model, dtype=torch.float64))[0]


@settings(max_examples=25, deadline=None)
@given(position=st.integers(0, 10**4), pair=st.integers(0, 10), halves=st.integers(11, 30))
def test_sinusoidal_is_the_papers_formula(position, pair, halves):
    d_model = 2 * halves
    vector = Sinusoidal(d_model)(randn(2, 1, d_model), start=position) - randn(2, 1, d_model)
    angle = position / 10000 ** (2 * pair / d_model)
    expected = torch.tensor([math.sin(angle), math.cos(angle)], dtype=torch.float64)
    assert_close(vector[1, 0, 2 * pair : 2 * pair + 2], expected, rtol=0, atol=1e-10)


def test_sinusoids_dot_products_depend_on_the_offset_alone():
    vectors = sinusoids(19, 14)
    products = vectors @ vectors.T
    for offset in range(19):
        diagonal = products.diagonal(offset)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-12)
    assert products[0].std() > 0.5  # and they do depend on it


def test_weights_in_between_destroy_that():
    vectors = sinusoids(19, 14)
    scores = vectors @ randn(14, 5) @ randn(5, 14, seed=1) @ vectors.T
    assert scores.diagonal(3).std() > 0.5


def test_sinusoidal_names_bad_sizes():
    with pytest.raises(ValueError, match="expected an even d_model, got 7"):
        Sinusoidal(7)
    with pytest.raises(ValueError, match=r"expected \(..., seq, 14\), got \(2, 3, 7\)"):
        Sinusoidal(14)(randn(2, 3, 7))


# Rotary


def halves_first(d_head):
    """GPT-NeoX's order of a head's features, in terms of the paper's."""
    return torch.cat([torch.arange(0, d_head, 2), torch.arange(1, d_head, 2)])


def rotary_of_gptj(q, k, start, base):
    assert base == 10000  # it has no other
    table = gptj.create_sinusoidal_positions(start + q.shape[2], q.shape[3])[None, start:]
    sin, cos = table.chunk(2, dim=-1)
    # It takes (batch, seq, n_heads, d_head).
    return [gptj.apply_rotary_pos_emb(x.transpose(1, 2), sin, cos).transpose(1, 2) for x in (q, k)]


def rotary_of(module, config_class, embedding):
    def rotated(q, k, start, base):
        config = config_class(
            hidden_size=q.shape[1] * q.shape[3],
            num_attention_heads=q.shape[1],
            # All of the head's features turn; GPT-NeoX's default is a quarter of them.
            rope_parameters={
                "rope_type": "default",
                "rope_theta": base,
                "partial_rotary_factor": 1.0,
            },
        )
        at = torch.arange(start, start + q.shape[2])[None]
        return module.apply_rotary_pos_emb(q, k, *embedding(config)(q, at))

    return rotated


THEIRS = {
    "gptj": (rotary_of_gptj, torch.arange),
    "llama": (rotary_of(llama, LlamaConfig, llama.LlamaRotaryEmbedding), halves_first),
    "neox": (rotary_of(neox, GPTNeoXConfig, neox.GPTNeoXRotaryEmbedding), halves_first),
}


@pytest.mark.parametrize("start", [0, 23])
@pytest.mark.parametrize(
    "name, base",
    [("gptj", 10000.0), ("llama", 10000.0), ("llama", 500.0), ("neox", 10000.0), ("neox", 500.0)],
)
def test_rotary_equals_transformers(name, base, start):
    theirs, order = THEIRS[name]
    order, rotary = order(14), Rotary(14, base)
    q, k = (randn(2, 3, 11, 14, seed=seed, dtype=torch.float32) for seed in (0, 1))
    q_theirs, k_theirs = theirs(q[..., order], k[..., order], start, base)
    assert_close(rotary.rotate(q, start)[..., order], q_theirs, rtol=1e-5, atol=1e-5)
    assert_close(rotary.rotate(k, start)[..., order], k_theirs, rtol=1e-5, atol=1e-5)


class HalfSplit(Positions):
    """Rotary positions by the code of Llama in transformers."""

    def rotate(self, x, start=0):
        return THEIRS["llama"][0](x, x, start, 10000.0)[0]


def test_the_two_conventions_differ_by_the_order_of_columns():
    ours = randomise(MultiHeadAttention(11, 3, 14))
    theirs = MultiHeadAttention(11, 3, 14)
    theirs.load_state_dict(ours.state_dict())
    x = randn(2, 7, 11, dtype=torch.float32)
    plain = ours(x, Rotary(14))
    assert (theirs(x, HalfSplit()) - plain).abs().max() > 0.01  # same weights, other model
    columns = (torch.arange(3)[:, None] * 14 + halves_first(14)).flatten()
    with torch.no_grad():
        for name in ("W_Q", "W_K", "b_Q", "b_K"):
            weight = theirs.get_parameter(name)
            weight.copy_(weight[..., columns])
    assert_close(theirs(x, HalfSplit()), plain, rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(i=st.integers(0, 300), j=st.integers(0, 300), shift=st.integers(0, 700))
def test_rotary_scores_depend_on_the_offset_alone(i, j, shift):
    rotary, q, k = Rotary(10), randn(1, 10), randn(1, 10, seed=1)

    def score(i, j):
        return rotary.rotate(q, i) @ rotary.rotate(k, j).T

    assert_close(score(i, j), score(i + shift, j + shift), rtol=0, atol=1e-10)
    assert (score(i, j) - score(i + 1, j)).abs() > 1e-6  # and they do depend on it


def test_rotary_keeps_lengths_and_leaves_position_0_alone():
    x = randn(2, 3, 7, 10)
    turned = Rotary(10).rotate(x)
    assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-12, atol=0)
    assert_close(turned[:, :, 0], x[:, :, 0], rtol=0, atol=0)
    assert (turned[:, :, 1:] - x[:, :, 1:]).abs().amax(dim=-1).min() > 0.01


def test_rotary_turns_the_pairs_of_the_paper():
    x, base, position = randn(1, 6), 50.0, 3
    turned = Rotary(6, base).rotate(x, position)
    for pair in range(3):
        angle = position * base ** (-2 * pair / 6)
        a, b = x[0, 2 * pair].item(), x[0, 2 * pair + 1].item()
        expected = [
            a * math.cos(angle) - b * math.sin(angle),
            a * math.sin(angle) + b * math.cos(angle),
        ]
        assert turned[0, 2 * pair : 2 * pair + 2].tolist() == pytest.approx(expected, abs=1e-12)


def test_rotary_takes_any_memory_layout():
    x = randn(2, 5, 7)
    assert_close(Rotary(6).rotate(x[..., 1:]), Rotary(6).rotate(x[..., 1:].clone()))


def test_rotary_gradients():
    x = randn(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: Rotary(4).rotate(x, 5), x)


def test_far_positions_are_as_exact_as_near_ones():
    x = torch.ones(1, 2)
    turned = Rotary(2).rotate(x, 999_983)
    assert turned[0, 0].item() == pytest.approx(math.cos(999_983) - math.sin(999_983), abs=1e-6)
    assert angles(7, 8, 2).dtype == torch.float64


def test_two_rotaries_do_not_share_what_differs():
    x = randn(3, 6)
    assert (Rotary(6).rotate(x) - Rotary(6, 99.0).rotate(x)).abs().max() > 0.01
    assert (Rotary(6).rotate(x, 1) - Rotary(6).rotate(x, 2)).abs().max() > 0.01


def test_rotary_base_is_that_of_the_paper_and_may_be_anything_above_0():
    x = randn(3, 6)
    assert torch.equal(Rotary(6).rotate(x, 999), Rotary(6, base=10_000).rotate(x, 999))
    # At base 1 all pairs are turned by the position itself; below, the first turns slowest.
    expected = torch.view_as_complex(x.view(3, 3, 2)) * torch.exp(1j * torch.arange(3)[:, None])
    assert_close(Rotary(6, base=1).rotate(x), torch.view_as_real(expected).flatten(-2))
    assert Rotary(6, base=0.5).rotate(x).isfinite().all()


def test_rotary_names_bad_sizes():
    for size in (0, 7):
        with pytest.raises(ValueError, match=f"expected an even d_head, got {size}"):
            Rotary(size)
    with pytest.raises(ValueError, match="expected base above 0, got 0"):
        Rotary(6, base=0)
    with pytest.raises(ValueError, match=r"expected \(..., seq, 6\), got \(2, 3, 4\)"):
        Rotary(6).rotate(randn(2, 3, 4))


# ALiBi


def published_slopes(n):
    """`get_slopes` of the code that Press et al. published."""

    def get_slopes_power_of_2(n):
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        ratio = start
        return [start * ratio**i for i in range(n)]

    if math.log2(n).is_integer():
        return get_slopes_power_of_2(n)
    closest = 2 ** math.floor(math.log2(n))
    return get_slopes_power_of_2(closest) + published_slopes(2 * closest)[0::2][: n - closest]


@pytest.mark.parametrize("n_heads", range(1, 131))
def test_alibi_slopes_are_exactly_the_published_ones(n_heads):
    assert torch.equal(ALiBi(n_heads).slopes, torch.tensor(published_slopes(n_heads)))


def test_alibi_slopes_of_eight_heads_as_printed_in_the_paper():
    assert ALiBi(8).slopes.tolist() == [2.0**-m for m in range(1, 9)]


@settings(max_examples=25, deadline=None)
@given(n_heads=st.integers(1, 13), seq_q=st.integers(1, 9), cached=st.integers(0, 9))
def test_alibi_bias_is_minus_slope_times_distance(n_heads, seq_q, cached):
    alibi, seq_k = ALiBi(n_heads), seq_q + cached
    bias = alibi.bias(seq_q, seq_k)
    assert bias.shape == (n_heads, seq_q, seq_k)
    for head, slope in enumerate(published_slopes(n_heads)):
        for row in range(seq_q):
            expected = [-slope * (row + cached - j) for j in range(seq_k)]
            assert bias[head, row].tolist() == pytest.approx(expected, rel=1e-6)
    # The queries are the last ones, and a longer past only adds keys in front.
    assert torch.equal(bias, alibi.bias(seq_k, seq_k)[:, cached:])
    assert torch.equal(bias, alibi.bias(seq_q, seq_k + 3)[:, :, 3:])


def test_alibi_moves_with_the_model():
    alibi = ALiBi(3)
    assert alibi.double().bias(2, 3).dtype == torch.float64
    assert alibi.to("meta").bias(2, 3).device.type == "meta"
    assert not alibi.state_dict() and not list(alibi.parameters())


def test_alibi_names_bad_sizes():
    with pytest.raises(ValueError, match="expected n_heads above 0, got 0"):
        ALiBi(0)
    for seq_q, seq_k in ((0, 3), (4, 3)):
        with pytest.raises(ValueError, match=f"got seq_q={seq_q}, seq_k={seq_k}"):
            ALiBi(2).bias(seq_q, seq_k)
