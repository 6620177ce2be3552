"""Every score: one signature, the definition it claims, gradients that exist."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoder import Config, Decoder, scores
from decoder.attention import Attend, MultiHeadAttention, attention, causal_mask

BATCH, HEADS, SEQ_Q, SEQ_K, D_HEAD, D_VALUE = 2, 3, 5, 7, 11, 13
NAMES = list(scores.every_score(1))


def make(*shape, seed=0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def q_k_v(seq_q=SEQ_Q, seq_k=SEQ_K, scale=1.0, dtype=torch.float64):
    q = make(BATCH, HEADS, seq_q, D_HEAD, seed=1, scale=scale, dtype=dtype)
    k = make(BATCH, HEADS, seq_k, D_HEAD, seed=2, scale=scale, dtype=dtype)
    return q, k, make(BATCH, HEADS, seq_k, D_VALUE, seed=3, dtype=dtype)


def fresh(name, dtype=torch.float64):
    torch.manual_seed(0)
    score = scores.every_score(D_HEAD)[name]
    return score.to(dtype) if isinstance(score, torch.nn.Module) else score


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(
    leading=st.lists(st.integers(1, 3), max_size=3),
    seq_q=st.integers(1, 5),
    extra=st.integers(0, 5),
)
def test_shapes_and_rows_that_sum_to_one(name, leading, seq_q, extra):
    q, k = make(*leading, seq_q, D_HEAD), make(*leading, seq_q + extra, D_HEAD, seed=1)
    v = make(*leading, seq_q + extra, D_VALUE, seed=2)
    score = fresh(name)
    assert score(q, k).shape == (*leading, seq_q, seq_q + extra)
    z, pattern = attention(q, k, v, causal_mask(seq_q, seq_q + extra), score=score)
    assert z.shape == (*leading, seq_q, D_VALUE)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(*leading, seq_q, dtype=q.dtype))


def by_hand(name, score, q, k):
    """The score of one query and one key, from the formula and in plain numbers."""
    dot = sum(a * b for a, b in zip(q, k, strict=True))
    width = len(q)
    if name == "scaled dot product":
        return dot / math.sqrt(width)
    if name == "dot product":
        return dot
    if name == "distance":
        return -sum((a - b) ** 2 for a, b in zip(q, k, strict=True)) / 2
    if name == "cosine":
        return dot / math.hypot(*q) / math.hypot(*k) / math.exp(score.log_temperature.item())
    if name == "linear kernel":
        phi_q, phi_k = (
            torch.nn.functional.elu(torch.tensor(x, dtype=torch.float64)) + 1 for x in (q, k)
        )
        return math.log(float((phi_q * phi_k).sum()))
    if name == "uniform":
        return 0.0
    if name == "bilinear":
        W = score.W.tolist()
        return sum(q[i] * W[i][j] * k[j] for i in range(width) for j in range(width))
    W, U, v = score.W.tolist(), score.U.tolist(), score.v.tolist()
    hidden = [sum(q[i] * W[i][j] + k[i] * U[i][j] for i in range(width)) for j in range(width)]
    return sum(v[j] * math.tanh(hidden[j]) for j in range(width))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "shared"])
def test_each_is_its_formula(name):
    q, k, _ = q_k_v()
    score = fresh(name)
    got = score(q, k)[1, 2].tolist()
    for i in range(SEQ_Q):
        for j in range(SEQ_K):
            expected = by_hand(name, score, q[1, 2, i].tolist(), k[1, 2, j].tolist())
            assert got[i][j] == pytest.approx(expected, abs=1e-9)


def test_scaled_dot_product_is_the_one_of_attention():
    from decoder import attention as module

    assert scores.scaled_dot_product is module.scaled_dot_product


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("shared", "uniform")])
def test_gradients_agree_with_finite_differences(name):
    q, k = make(2, 3, 5, seed=1).requires_grad_(), make(2, 4, 5, seed=2).requires_grad_()
    torch.manual_seed(0)
    score = scores.every_score(5)[name]
    weights = list(score.double().parameters()) if isinstance(score, torch.nn.Module) else []
    assert torch.autograd.gradcheck(lambda q, k, *_: score(q, k), (q, k, *weights))


def test_every_weight_of_a_learned_score_gets_a_gradient():
    q, k, v = q_k_v()
    for name in ("additive", "bilinear", "cosine"):
        score = fresh(name)
        z, _ = attention(q, k, v, score=score)
        z.square().sum().backward()
        for weight in score.parameters():
            assert weight.grad.abs().min() > 0, name


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 5))
def test_distance_is_dot_product_less_half_the_keys_length(seed, scale):
    q, k = make(SEQ_Q, D_HEAD, seed=seed, scale=scale), make(SEQ_K, D_HEAD, seed=seed + 1)
    distance = scores.negative_squared_distance(q, k)
    torch.testing.assert_close(distance, -torch.cdist(q, k).square() / 2)
    rest = distance - (scores.dot_product(q, k) - k.square().sum(-1) / 2)
    torch.testing.assert_close(rest, rest[:, :1].expand_as(rest))  # one constant a row
    unit = k / k.norm(dim=-1, keepdim=True)  # keys of equal length: the same weights
    torch.testing.assert_close(
        scores.negative_squared_distance(q, unit).softmax(-1),
        scores.dot_product(q, unit).softmax(-1),
    )


def test_cosine_sees_no_lengths_and_its_temperature_limits_the_odds():
    q, k, _ = q_k_v()
    score = scores.Cosine(temperature=1.0).double()
    assert score.log_temperature.item() == 0
    assert scores.Cosine(0.3).log_temperature.exp().item() == pytest.approx(0.3)
    torch.testing.assert_close(score(7 * q, k / 3), score(q, k))
    pattern = score(q, q).softmax(-1)
    odds = pattern.amax(-1) / pattern.amin(-1)
    assert odds.max() <= math.e**2
    assert fresh("cosine")(q, q).softmax(-1).amax() > pattern.amax()


def test_cosine_of_zeros_is_zero_and_so_is_no_gradient_nan():
    q = torch.zeros(SEQ_Q, D_HEAD, requires_grad=True)
    got = scores.Cosine()(q, torch.randn(SEQ_K, D_HEAD))
    got.sum().backward()
    assert (got == 0).all() and q.grad.isfinite().all()


def test_additive_and_bilinear_equal_torchs_layers():
    q, k, _ = q_k_v()
    additive, bilinear = fresh("additive"), fresh("bilinear")
    reference = torch.nn.Bilinear(D_HEAD, D_HEAD, 1, bias=False, dtype=q.dtype)
    reference.weight.data = bilinear.W.data.unsqueeze(0)
    pairs = (
        q.unsqueeze(3).expand(-1, -1, -1, SEQ_K, -1).contiguous(),
        k.unsqueeze(2).expand(-1, -1, SEQ_Q, -1, -1).contiguous(),
    )
    torch.testing.assert_close(bilinear(q, k), reference(*pairs).squeeze(-1))
    # Luong's "concat" with Bahdanau's two matrices stacked is the additive score.
    W = torch.cat([additive.W, additive.U])
    torch.testing.assert_close(additive(q, k), torch.tanh(torch.cat(pairs, -1) @ W) @ additive.v)


@pytest.mark.parametrize("cached", [0, 3])
def test_shared_is_what_attention_is_when_both_projections_are_one(cached):
    torch.manual_seed(0)
    attn, tied = MultiHeadAttention(6, 3, 5), MultiHeadAttention(6, 3, 5)
    with torch.no_grad():
        for weight in attn.parameters():
            weight.normal_()
    tied.load_state_dict(attn.state_dict())
    tied.W_Q, tied.b_Q = tied.W_K, tied.b_K
    attn.attend = Attend(scores.shared)
    x = torch.randn(2, 7, 6)
    torch.testing.assert_close(attn(x), tied(x))
    q, k, v = q_k_v(seq_q=SEQ_K - cached)
    got, _ = attention(q, k, v, causal_mask(SEQ_K - cached, SEQ_K), score=scores.shared)
    whole, _ = attention(k, k, v, causal_mask(SEQ_K, SEQ_K))
    torch.testing.assert_close(got, whole[..., cached:, :])


def test_uniform_averages():
    q, k, v = q_k_v()
    z, _ = attention(q, k, v, score=scores.uniform)
    torch.testing.assert_close(z, v.mean(-2, keepdim=True).expand_as(z))
    _, pattern = attention(k, k, v, causal_mask(SEQ_K, SEQ_K), score=scores.uniform)
    assert pattern[0, 0, 2, :3].tolist() == pytest.approx([1 / 3] * 3)
    assert scores.uniform(q[:, :1], k).shape == (BATCH, HEADS, SEQ_Q, SEQ_K)


@pytest.mark.parametrize("name", NAMES)
def test_any_score_can_stand_in_a_decoder_and_learn(name):
    torch.manual_seed(0)
    model = Decoder(Config(d_vocab=7, n_ctx=6, d_model=10, n_heads=2, n_layers=1))
    model.blocks[0].attn.attend = Attend(scores.every_score(5)[name])
    tokens = torch.randint(7, (3, 6))
    logits = model(tokens)
    logits.logsumexp(-1).sum().backward()
    assert logits.shape == (3, 6, 7)
    grad = model.blocks[0].attn.W_K.grad
    assert (grad is None) == (name == "uniform")
    if grad is not None:
        assert grad.isfinite().all() and grad.abs().max() > 0
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 7
    torch.testing.assert_close(model(changed)[:, :4], logits[:, :4])  # still causal


# Linear attention: parallel, recurrent, and where it is numerically hard.


def plain_linear_attention(q, k, v, mask):
    """Katharopoulos et al. 2020, eq. 4, with torch's own elu."""
    phi_q, phi_k = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
    weights = (phi_q @ phi_k.transpose(-2, -1)) * mask
    return weights @ v / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_linear_attention_parallel_recurrent_and_plain_agree(dtype, tolerance, scale):
    q, k, v = (x.requires_grad_() for x in q_k_v(SEQ_K, SEQ_K, scale, dtype))
    mask = causal_mask(SEQ_K, SEQ_K)
    parallel, _ = attention(q, k, v, mask, score=scores.linear_kernel)
    recurrent, _ = scores.linear_recurrent(q, k, v)
    plain = plain_linear_attention(q, k, v, mask)
    weight = torch.randn_like(plain)
    expected = torch.autograd.grad((plain * weight).sum(), (q, k, v))
    for z in (parallel, recurrent):
        torch.testing.assert_close(z, plain, atol=tolerance, rtol=tolerance)
        gradients = torch.autograd.grad((z * weight).sum(), (q, k, v))
        for got, want in zip(gradients, expected, strict=True):
            torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


@settings(max_examples=25, deadline=None)
@given(seq=st.integers(1, 12), cut=st.integers(0, 12), seed=st.integers(0, 10**6))
def test_linear_attention_goes_on_from_its_state(seq, cut, seed):
    cut = min(cut, seq - 1)
    q, k = make(2, seq, 3, seed=seed), make(2, seq, 3, seed=seed + 1)
    v = make(2, seq, 5, seed=seed + 2)
    whole, last = scores.linear_recurrent(q, k, v)
    state = None
    if cut:
        _, state = scores.linear_recurrent(q[:, :cut], k[:, :cut], v[:, :cut])
    rest, state = scores.linear_recurrent(q[:, cut:], k[:, cut:], v[:, cut:], state)
    torch.testing.assert_close(rest, whole[:, cut:])
    assert state.S.shape == last.S.shape == (2, 3, 5)  # whatever seq is
    assert state.norm.shape == (2, 3)
    torch.testing.assert_close(state.S, last.S)
    torch.testing.assert_close(state.norm, last.norm)


def test_linear_step_is_one_turn_of_the_loop():
    q, k, v = q_k_v(SEQ_K, SEQ_K)
    whole, _ = scores.linear_recurrent(q, k, v)
    state = None
    for now in range(SEQ_K):
        z, state = scores.linear_step(q[..., now, :], k[..., now, :], v[..., now, :], state)
        torch.testing.assert_close(z, whole[..., now, :])


@pytest.mark.parametrize("shift_q,shift_k", [(-60, -60), (-200, 0), (0, -200), (-1000, -1000)])
def test_linear_kernel_survives_kernels_smaller_than_the_smallest_float(shift_q, shift_k):
    q, k, v = q_k_v(SEQ_K, SEQ_K, dtype=torch.float32)
    q, k = (q + shift_q).requires_grad_(), (k + shift_k).requires_grad_()
    plain = (torch.nn.functional.elu(q) + 1) @ (torch.nn.functional.elu(k) + 1).transpose(-2, -1)
    assert plain.min() == 0  # what this guards against does happen
    got = scores.linear_kernel(q, k)
    log_phi = [
        x.detach().double().clamp(max=0) + x.detach().double().relu().log1p() for x in (q, k)
    ]
    exact = (log_phi[0].unsqueeze(-2) + log_phi[1].unsqueeze(-3)).logsumexp(-1)
    torch.testing.assert_close(got.double(), exact, atol=1e-3, rtol=1e-5)
    z, pattern = attention(q, k, v, causal_mask(SEQ_K, SEQ_K), score=scores.linear_kernel)
    z.square().sum().backward()
    assert pattern.isfinite().all() and q.grad.isfinite().all() and k.grad.isfinite().all()
    assert q.grad.abs().max() > 0


def test_linear_kernel_where_no_shift_helps_is_finite():
    q = torch.tensor([[0.0, -500.0]], requires_grad=True)
    k = torch.tensor([[-500.0, 0.0], [-400.0, 0.0]], requires_grad=True)
    got = scores.linear_kernel(q, k)
    got.sum().backward()
    assert got.isfinite().all() and q.grad.isfinite().all() and k.grad.isfinite().all()
    assert (got < -80).all()


def test_linear_kernel_has_slope_one_at_zero():
    q = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    scores.linear_kernel(q, torch.zeros(1, 1, dtype=torch.float64)).backward()
    assert q.grad.item() == 1


def test_a_recurrent_step_with_tiny_queries_is_still_an_average():
    q, k, v = q_k_v(SEQ_K, SEQ_K, dtype=torch.float32)
    z, _ = scores.linear_recurrent(q - 300, k, v)
    parallel, _ = attention(q - 300, k, v, causal_mask(SEQ_K, SEQ_K), score=scores.linear_kernel)
    # A score near -300 has a resolution of 3e-5 in float32.
    torch.testing.assert_close(z, parallel, atol=2e-4, rtol=0)
    assert z.norm() > 1


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: scores.shared(torch.ones(5, 2), torch.ones(3, 2)), ["seq_q=5", "seq_k=3"]),
        (lambda: scores.Additive(3)(torch.ones(5, 2), torch.ones(5, 3)), ["(..., 3)", "(5, 2)"]),
        (lambda: scores.Bilinear(3)(torch.ones(5, 3), torch.ones(5, 7)), ["(..., 3)", "(5, 7)"]),
        (lambda: scores.Cosine(0.0), ["above 0", "0.0"]),
        (lambda: scores.Cosine(math.nan), ["above 0", "nan"]),
        (lambda: scores.Cosine(math.inf), ["above 0", "inf"]),
        (
            lambda: scores.linear_recurrent(torch.ones(5, 2), torch.ones(3, 2), torch.ones(3, 2)),
            ["(5, 2)", "(3, 2)"],
        ),
        (
            lambda: scores.linear_recurrent(torch.ones(3, 2), torch.ones(3, 2), torch.ones(5, 2)),
            ["v (5, 2)"],
        ),
        (lambda: scores.linear_recurrent(*[torch.ones(0, 2)] * 3), ["seq >= 1"]),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError) as error:
        call()
    for word in words:
        assert word in str(error.value)
