"""Attention, its mask and its heads, against torch's own."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import LayerCache, assert_near, randomise, torch_heads, torch_heads_gradients
from torch.testing import assert_close

from bookkit.checks import (
    WRONG_MASKS,
    WithPattern,
    check_attention,
    check_causal,
    influence,
    leaks,
)
from decoder.attention import (
    Attend,
    MultiHeadAttention,
    attention,
    causal_mask,
    scaled_dot_product,
)
from decoder.positions import Positions

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
SIZE = st.integers(1, 7)


@st.composite
def problems(draw):
    """q, k, v, mask, bias of random shapes; the leading dimensions broadcast."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    seq_q, seq_k, d_head, d_value = (draw(SIZE) for _ in range(4))
    lead = draw(st.lists(st.integers(1, 3), max_size=2))

    def leading():
        # Each dimension may be 1, and the first ones may be left out.
        dims = [draw(st.sampled_from([1, n])) for n in lead]
        return dims[draw(st.integers(0, len(dims))) :]

    q = torch.randn(*lead, seq_q, d_head, dtype=dtype)
    k = torch.randn(*leading(), seq_k, d_head, dtype=dtype)
    v = torch.randn(*leading(), seq_k, d_value, dtype=dtype)
    mask = bias = None
    if draw(st.booleans()):
        mask = torch.rand(*leading(), seq_q, seq_k) < draw(st.sampled_from([0.1, 0.5, 0.9]))
        mask[..., torch.arange(seq_q), torch.randint(seq_k, (seq_q,))] = True
    if draw(st.booleans()):
        bias = torch.randn(*leading(), seq_q, seq_k, dtype=dtype)
    return q, k, v, mask, bias


def torch_attention(q, k, v, mask, bias):
    # Torch takes either a mask or a bias; -inf in a bias is a mask.
    if bias is not None:
        mask = bias if mask is None else bias.masked_fill(~mask, -math.inf)
    lead = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q, k, v = (x.expand(*lead, *x.shape[-2:]) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@settings(max_examples=150, deadline=None)
@given(problems())
def test_attention_equals_torch(problem):
    q, k, v, mask, bias = problem
    near = TOLERANCE[q.dtype]
    inputs = [x.requires_grad_() for x in (q, k, v, bias) if x is not None]
    z, pattern = attention(q, k, v, mask, bias)
    expected = torch_attention(q, k, v, mask, bias)
    assert_near(z, expected, near)
    weight = torch.randn_like(z)
    ours = torch.autograd.grad((z * weight).sum(), inputs)
    theirs = torch.autograd.grad((expected * weight).sum(), inputs)
    for our, their in zip(ours, theirs, strict=True):
        assert_near(our, their, near)

    assert pattern.shape[-2:] == (q.shape[-2], k.shape[-2])
    assert (pattern >= 0).all()
    assert_near(pattern.sum(-1), torch.ones_like(pattern[..., 0]), near)
    assert_near(pattern @ v, z, near)
    if mask is not None:
        assert not pattern.masked_fill(mask, 0).any()  # exactly nothing where it may not look


def test_attention_passes_the_readers_check():
    check_attention(attention)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda q, k, v, mask: attention(q * 1.001, k, v, mask),  # scale
        lambda q, k, v, mask: attention(q, k, v),  # mask forgotten
        lambda q, k, v, mask: (attention(q, k, v, mask)[0], attention(q, k, v)[1]),
        lambda q, k, v, mask: (attention(q, k, v, mask)[0], attention(q, k, v, mask)[1].mT),
        lambda q, k, v, mask: tuple(x.float().double() for x in attention(q, k, v, mask)),
    ],
)
def test_the_readers_check_catches(wrong):
    with pytest.raises(AssertionError):
        check_attention(wrong)


@given(seq_q=SIZE, seq_k=SIZE, seed=st.integers(0, 10**6))
def test_order_of_the_keys_does_not_matter(seq_q, seq_k, seed):
    torch.manual_seed(seed)
    q, k, v = (torch.randn(n, d).double() for n, d in ((seq_q, 3), (seq_k, 3), (seq_k, 5)))
    order = torch.randperm(seq_k)
    (z, pattern), (z2, pattern2) = attention(q, k, v), attention(q, k[order], v[order])
    assert_close(z, z2)
    assert_close(pattern[:, order], pattern2)


def test_scores_divide_by_the_root_of_the_width():
    q, k = torch.ones(2, 9), torch.ones(3, 9)
    assert_close(scaled_dot_product(q, k), torch.full((2, 3), 3.0))


def test_large_scores_and_biases_stay_finite():
    q, k, v = torch.full((2, 3), 1e15), torch.randn(5, 3), torch.randn(5, 7)
    z, pattern = attention(q, k, v, causal_mask(2, 5), bias=torch.full((2, 5), -1e30))
    assert z.isfinite().all() and pattern.isfinite().all()


def test_an_empty_batch_is_no_error():
    z, pattern = attention(*tensors((0, 2, 3), (0, 5, 3), (0, 5, 7)), causal_mask(2, 5))
    assert (z.shape, pattern.shape) == ((0, 2, 7), (0, 2, 5))


def test_the_mask_goes_where_the_scores_are():
    z, _ = attention(*(x.to("meta") for x in tensors()), causal_mask(2, 5))
    assert z.is_meta and z.shape == (2, 7)


def test_another_score_stands_in():
    q, k, v = torch.randn(2, 3), torch.randn(5, 3), torch.randn(5, 7)

    def uniform(q, k):
        return torch.zeros(q.shape[-2], k.shape[-2])

    for z, pattern in (attention(q, k, v, score=uniform), Attend(uniform)(q, k, v)):
        assert_close(pattern, torch.full((2, 5), 0.2))
        assert_close(z, v.mean(0).expand(2, 7))


def test_attend_hands_on_everything():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3), torch.randn(5, 3), torch.randn(5, 7)
    bias = torch.randn(2, 5)
    for given_, expected in zip(
        Attend()(q, k, v, causal_mask(2, 5), bias),
        attention(q, k, v, causal_mask(2, 5), bias, scaled_dot_product),
        strict=True,
    ):
        assert torch.equal(given_, expected)


def tensors(q=(2, 3), k=(5, 3), v=(5, 7)):
    return torch.zeros(q), torch.zeros(k), torch.zeros(v)


blind = torch.ones(2, 2, 5, dtype=torch.bool)
blind[1, 0] = False


@pytest.mark.parametrize(
    "args, message",
    [
        (tensors(q=(3,)), "at least (seq, d_head) each, got q (3,), k (5, 3), v (5, 7)"),
        (tensors(k=(3,)), "at least (seq, d_head) each, got q (2, 3), k (3,), v (5, 7)"),
        (tensors(v=(7,)), "at least (seq, d_head) each, got q (2, 3), k (5, 3), v (7,)"),
        (tensors(q=(2, 4)), "q and k of the same d_head, got q (2, 4), k (5, 3), v (5, 7)"),
        (tensors(v=(6, 7)), "k and v of the same seq_k, got q (2, 3), k (5, 3), v (6, 7)"),
        (tensors(k=(0, 3), v=(0, 7)), "at least one key, at least one wide, got q (2, 3), k (0"),
        (tensors(q=(2, 0), k=(5, 0)), "at least one key, at least one wide, got q (2, 0), k (5"),
        (
            tensors(q=(2, 2, 3), k=(3, 5, 3)),
            "leading dimensions that broadcast, got q (2, 2, 3), k (3, 5, 3), v (5, 7)",
        ),
        (
            tensors(q=(2, 2, 3), v=(3, 5, 7)),
            "leading dimensions that broadcast, got q (2, 2, 3), k (5, 3), v (3, 5, 7)",
        ),
        (
            [x.long() for x in tensors()],
            "of one floating-point type, got q torch.int64, k torch.int64, v torch.int64",
        ),
        (
            [*tensors()[:2], tensors()[2].double()],
            "of one floating-point type, got q torch.float32, k torch.float32, v torch.float64",
        ),
        (
            [tensors()[0].double(), *tensors()[1:]],
            "of one floating-point type, got q torch.float64, k torch.float32, v torch.float32",
        ),
        ((*tensors(), torch.ones(2, 5)), "a boolean mask, True = may attend, got torch.float32"),
        (
            (*tensors(), torch.ones(5, 2, dtype=torch.bool)),
            "a mask that broadcasts to (2, 5), got (5, 2)",
        ),
        (
            (*tensors(), torch.ones(3, 2, 5, dtype=torch.bool)),  # would make three of one
            "a mask that broadcasts to (2, 5), got (3, 2, 5)",
        ),
        ((*tensors(), None, torch.ones(5, 2)), "a bias that broadcasts to (2, 5), got (5, 2)"),
        (
            (*tensors(), None, torch.ones(3, 2, 5)),
            "a bias that broadcasts to (2, 5), got (3, 2, 5)",
        ),
        (
            (*tensors(q=(2, 2, 3)), blind),
            "every query to have a key it may attend to; the mask's row [1, 0] has none",
        ),
    ],
)
def test_names_what_is_wrong(args, message):
    with pytest.raises(ValueError) as error:
        attention(*args)
    assert str(error.value).startswith("expected ") and message in str(error.value)


# The mask.


@given(SIZE, st.integers(0, 5))
def test_last_query_sees_every_key_and_each_earlier_one_fewer(seq_q, cached):
    mask = causal_mask(seq_q, seq_q + cached)
    assert mask.dtype == torch.bool and mask.shape == (seq_q, seq_q + cached)
    for i, row in enumerate(mask.tolist()):
        visible = cached + i + 1
        assert row == [True] * visible + [False] * (seq_q + cached - visible)


@given(SIZE, SIZE)
def test_later_queries_alone_see_what_they_saw_among_all(seq_q, cached):
    assert torch.equal(
        causal_mask(seq_q, seq_q + cached), causal_mask(seq_q + cached, seq_q + cached)[cached:]
    )


def test_mask_is_written_out():
    assert causal_mask(2, 3).tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize("seq_q, seq_k", [(0, 3), (0, 0), (-1, 2), (4, 3)])
def test_mask_names_lengths_that_make_no_sense(seq_q, seq_k):
    message = f"expected 1 <= seq_q <= seq_k, got seq_q={seq_q}, seq_k={seq_k}"
    with pytest.raises(ValueError) as error:
        causal_mask(seq_q, seq_k)
    assert str(error.value) == message


# The nine wrong masks of chapter 4, and what each of three tests says of them.


def masked_attention(make_pattern):
    """A layer without residual, in which nothing but the mask keeps the future out."""
    torch.manual_seed(0)
    attn = random_heads(7, 3, 5)
    if make_pattern is not None:
        attn.attend = WithPattern(make_pattern)
    return attn, torch.randn(2, 11, 7, dtype=torch.float64)


def pattern_of(attn, x):
    seen = []
    handle = attn.attend.register_forward_hook(lambda module, args, out: seen.append(out[1]))
    attn(x)
    handle.remove()
    return seen[0]


def rows_sum_to_one(pattern):
    return torch.allclose(pattern.sum(-1), torch.ones_like(pattern[..., 0]))


def zero_above_diagonal(pattern):
    return not pattern.triu(1).any()


@pytest.mark.parametrize("name", WRONG_MASKS)
def test_causality_catches_every_wrong_mask(name):
    attn, x = masked_attention(WRONG_MASKS[name])
    assert leaks(attn, x)
    with pytest.raises(AssertionError, match="output .* depend"):
        check_causal(attn, x)


def test_causality_lets_the_right_mask_pass():
    for make_pattern in (
        None,
        lambda scores, mask: scores.masked_fill(~mask, -math.inf).softmax(-1),
    ):
        attn, x = masked_attention(make_pattern)
        check_causal(attn, x)
        assert torch.equal(influence(attn, x), torch.ones(11, 11, dtype=torch.bool).tril())


def test_weaker_tests_miss_some_wrong_masks():
    caught_by_rows, missed_by_zeros = set(), set()
    for name, make_pattern in WRONG_MASKS.items():
        pattern = pattern_of(*masked_attention(make_pattern))
        if not rows_sum_to_one(pattern):
            caught_by_rows.add(name)
        if zero_above_diagonal(pattern):
            missed_by_zeros.add(name)
    assert caught_by_rows == {"one too short", "zeroed after softmax", "softmax over queries"}
    assert missed_by_zeros == {"zeroed after softmax", "softmax over queries"}


def test_check_causal_catches_what_sees_nothing():
    with pytest.raises(AssertionError, match="output 0 does not depend on input 0"):
        check_causal(torch.zeros_like, torch.randn(2, 3, 5))


@pytest.mark.parametrize("x", [torch.zeros(2, 3).long(), torch.ones(2, 3, 5), torch.randn(2, 3, 1)])
def test_influence_names_what_cannot_be_changed(x):
    with pytest.raises(ValueError, match=r"position \[0, 0\] of x cannot be changed"):
        influence(lambda x: x, x)


# The heads.


def random_heads(d_model, n_heads, d_head, dtype=torch.float64):
    return randomise(MultiHeadAttention(d_model, n_heads, d_head).to(dtype))


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    seq=SIZE,
    n_heads=st.integers(1, 5),
    d_head=SIZE,
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 10**6),
)
def test_heads_equal_torch(batch, seq, n_heads, d_head, dtype, seed):
    torch.manual_seed(seed)
    d_model, near = n_heads * d_head, TOLERANCE[dtype]
    attn = random_heads(d_model, n_heads, d_head, dtype)
    theirs = torch_heads(attn)
    x = torch.randn(batch, seq, d_model, dtype=dtype, requires_grad=True)
    out = attn(x)
    # There, True blocks.
    expected, their_pattern = theirs(
        x, x, x, attn_mask=~causal_mask(seq, seq), average_attn_weights=False
    )
    assert_near(out, expected, near)
    assert_near(pattern_of(attn, x), their_pattern, near)

    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    ours, x.grad = x.grad, None
    (expected * weight).sum().backward()
    assert_near(ours, x.grad, near)
    for name, gradient in torch_heads_gradients(theirs).items():
        assert_near(getattr(attn, name).grad, gradient, near)


@settings(max_examples=40, deadline=None)
@given(SIZE, st.integers(1, 5), SIZE, SIZE, st.integers(0, 10**6))
def test_heads_are_separate_and_their_outputs_add_up(d_model, n_heads, d_head, seq, seed):
    torch.manual_seed(seed)
    attn = random_heads(d_model, n_heads, d_head)  # n_heads * d_head need not be d_model
    x = torch.randn(2, seq, d_model, dtype=torch.float64)
    total = attn.b_O
    for h in range(n_heads):
        own = slice(h * d_head, (h + 1) * d_head)
        q, k, v = (
            x @ W[:, own] + b[own]
            for W, b in ((attn.W_Q, attn.b_Q), (attn.W_K, attn.b_K), (attn.W_V, attn.b_V))
        )
        z, pattern = attention(q, k, v, causal_mask(seq, seq))
        total = total + z @ attn.W_O[own]
        assert_close(pattern_of(attn, x)[:, h], pattern, rtol=1e-12, atol=1e-12)
    assert_close(attn(x), total, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["W_Q", "W_K", "W_V", "b_Q", "b_K", "b_V"])
def test_a_heads_weights_change_no_other_heads_pattern(name):
    torch.manual_seed(0)
    attn, x = random_heads(7, 3, 5), torch.randn(2, 11, 7, dtype=torch.float64)
    before = pattern_of(attn, x)
    with torch.no_grad():
        getattr(attn, name)[..., 5:10] += 1  # head 1
    differs = (pattern_of(attn, x) != before).transpose(0, 1).flatten(1).any(1).tolist()
    # A bias of the keys adds the same to all scores of a query: rounding apart, it does nothing.
    if name == "b_K":
        assert_close(pattern_of(attn, x), before, rtol=1e-12, atol=1e-12)
        differs[1] = False
    assert differs == [False, name in ("W_Q", "W_K", "b_Q"), False]


def test_new_heads_start_small_without_biases():
    torch.manual_seed(0)
    attn = MultiHeadAttention(97, 7, 13)
    assert dict(attn.named_parameters()).keys() == {
        f"{kind}_{which}" for kind in "Wb" for which in "QKVO"
    }
    for which in "QKVO":
        W, b = getattr(attn, f"W_{which}"), getattr(attn, f"b_{which}")
        assert W.shape == ((91, 97) if which == "O" else (97, 91))
        assert W.std().item() == pytest.approx(0.02, rel=0.03) and abs(W.mean().item()) < 1e-3
        assert b.shape == W.shape[1:] and not b.any()


def test_another_mask_stands_in():
    attn, x = random_heads(7, 3, 5), torch.randn(2, 11, 7, dtype=torch.float64)
    attn.mask = lambda seq_q, seq_k: torch.ones(seq_q, seq_k, dtype=torch.bool)
    assert influence(attn, x).all()


class Recorded(Positions):
    """Turns and biases in a way that shows what it was asked."""

    def rotate(self, x, start=0):
        return x * torch.arange(start + 1, start + 1 + x.shape[-2], dtype=x.dtype)[:, None]

    def bias(self, seq_q, seq_k):
        return torch.arange(seq_q * seq_k, dtype=torch.float64).view(seq_q, seq_k) / 10


def test_positions_turn_queries_and_keys_and_bias_scores():
    torch.manual_seed(0)
    attn, x = random_heads(7, 1, 5), torch.randn(2, 3, 7, dtype=torch.float64)
    place = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)[:, None]
    z, _ = attention(
        (x @ attn.W_Q + attn.b_Q) * place,
        (x @ attn.W_K + attn.b_K) * place,
        x @ attn.W_V + attn.b_V,
        causal_mask(3, 3),
        Recorded().bias(3, 3),
    )
    assert_close(attn(x, Recorded()), z @ attn.W_O + attn.b_O, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("positions", [None, Recorded()])
@pytest.mark.parametrize("split", range(1, 7))
def test_a_cache_goes_on_where_it_was(split, positions):
    torch.manual_seed(0)
    attn, x = random_heads(7, 3, 5), torch.randn(2, 7, 7, dtype=torch.float64)
    if positions is not None:  # as ALiBi: the bias of a pair depends on the two positions only
        positions.bias = lambda seq_q, seq_k: torch.linspace(0, 1, 49).view(7, 7)[
            seq_k - seq_q : seq_k, :seq_k
        ]
    cache = LayerCache()
    parts = [attn(part, positions, cache) for part in (x[:, :split], x[:, split:])]
    assert_close(torch.cat(parts, dim=1), attn(x, positions), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MultiHeadAttention(0, 3, 5), "positive sizes, got d_model=0, n_heads=3, d_head=5"),
        (lambda: MultiHeadAttention(7, 0, 5), "positive sizes, got d_model=7, n_heads=0, d_head=5"),
        (lambda: MultiHeadAttention(7, 3, 0), "positive sizes, got d_model=7, n_heads=3, d_head=0"),
        (lambda: MultiHeadAttention(7, 3, 5)(torch.zeros(2, 5)), "(batch, seq, 7), got (2, 5)"),
        (
            lambda: MultiHeadAttention(7, 3, 5)(torch.zeros(2, 11, 5)),
            "(batch, seq, 7), got (2, 11, 5)",
        ),
        (lambda: MultiHeadAttention(7, 3, 5)(torch.zeros(2, 7)), "(batch, seq, 7), got (2, 7)"),
        (
            lambda: MultiHeadAttention(7, 3, 5)(torch.zeros(2, 0, 7)),
            "1 <= seq_q <= seq_k, got seq_q=0, seq_k=0",
        ),
    ],
)
def test_heads_name_what_is_wrong(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value).startswith("expected ") and message in str(error.value)


def test_the_smallest_heads_are_allowed():
    assert MultiHeadAttention(1, 1, 1)(torch.ones(1, 1, 1)).shape == (1, 1, 1)
