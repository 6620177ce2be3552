"""The fast twins: the same numbers, gradients and errors as the pieces they stand in for."""

import copy

import pytest
import torch
from pieces import randomise
from torch.testing import assert_close

from decoder import Config, Decoder, efficient
from decoder.attention import Attend, attention, causal_mask, scaled_dot_product
from decoder.by_hand import PIECE, causal_rows, gelu, rms_norm, squared_relu
from decoder.cache import KeyValueCache
from decoder.efficient import (
    FusedAttend,
    FusedGELU,
    FusedHeads,
    FusedLayerNorm,
    FusedMLP,
    FusedRMSNorm,
    FusedSquaredReLU,
    fuse,
)
from decoder.generate import generate
from decoder.interpret import capture
from decoder.loss import cross_entropy
from decoder.mlp import GELU
from decoder.modern import GatedMLP, SquaredReLU, modernise
from decoder.norm import RMSNorm
from decoder.positions import ALiBi, Rotary, Sinusoidal
from decoder.scores import Additive, Cosine, dot_product, negative_squared_distance
from decoder.train import Recipe, Training

CONFIG = Config(d_vocab=29, n_ctx=13, d_model=12, n_heads=3, n_layers=2)
TOKENS = torch.randint(29, (2, 11), generator=torch.Generator().manual_seed(0))
close = dict(rtol=1e-10, atol=1e-10)


def plain():
    torch.manual_seed(0)
    return randomise(Decoder(CONFIG).double(), seed=1)


def positioned(positions):
    model = plain()
    model.positions = positions.double()
    return model


def scored(score):
    model = plain()
    for block in model.blocks:
        block.attn.attend = Attend(score)
    return model


def modern():
    return randomise(modernise(Decoder(CONFIG)).double(), seed=1)


def gated():
    model = modern()
    for block in model.blocks:
        block.mlp = GatedMLP(12, 17).double()
    return randomise(model, seed=2)


def shared():
    model = plain()
    model.blocks[1].mlp = model.blocks[0].mlp
    return model


MODELS = {
    "plain": plain,
    "modern": modern,
    "gated": gated,
    "shared": shared,
    "rotary": lambda: positioned(Rotary(4)),
    "alibi": lambda: positioned(ALiBi(3)),
    "sinusoidal": lambda: positioned(Sinusoidal(12)),
    "cosine": lambda: scored(Cosine(0.3).double()),
    "dot product": lambda: scored(dot_product),
    "distance": lambda: scored(negative_squared_distance),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def learnt(model):
    """The loss, and its gradient with respect to each weight, by name."""
    loss = cross_entropy(model(TOKENS), TOKENS.flip(1))
    loss.backward()
    return {"loss": loss.detach()} | {name: w.grad for name, w in model.named_parameters()}


@every_model
def test_a_fused_decoder_has_the_same_loss_and_gradients(make):
    model, fused = make(), fuse(make())
    expected, seen = learnt(model), learnt(fused)
    assert seen.keys() == expected.keys()
    for name in expected:
        assert_close(seen[name], expected[name], **close)
        assert name == "loss" or expected[name].abs().max() > 0 or name.endswith("b_K")


@every_model
@pytest.mark.parametrize("split", [1, 4, 10])
def test_a_fused_decoder_goes_on_from_a_cache(make, split):
    model = fuse(make())
    cache = KeyValueCache(CONFIG)
    with torch.no_grad():
        whole = make()(TOKENS)
        parts = [model(TOKENS[:, :split], cache), model(TOKENS[:, split:], cache)]
    assert_close(torch.cat(parts, dim=1), whole, **close)


@every_model
def test_weights_joined_for_a_cache_are_good_as_long_as_its_keys(make):
    """A new cache, and one that was cleared, see weights that have changed since."""
    model, old = fuse(make()), KeyValueCache(CONFIG)
    with torch.no_grad():
        model(TOKENS, old)
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
        old.clear()
        expected = model(TOKENS)
        for cache in (old, KeyValueCache(CONFIG)):
            assert_close(model(TOKENS, cache), expected, **close)
            # Nothing is joined twice for one cache.
            assert cache[0].joined is not None
            joined = cache[0].joined
            model(TOKENS[:, :1], cache)
            assert cache[0].joined is joined


@every_model
def test_a_fused_decoder_writes_the_same(make):
    how = dict(max_new_tokens=20, temperature=0)
    assert torch.equal(generate(fuse(make()), TOKENS, **how), generate(make(), TOKENS, **how))


def test_every_piece_that_has_a_twin_became_it():
    kinds = {type(module) for module in fuse(plain()).modules()}
    assert {FusedAttend, FusedHeads, FusedMLP, FusedLayerNorm, FusedGELU} <= kinds
    kinds = {type(module) for module in fuse(modern()).modules()}
    assert {FusedAttend, FusedHeads, FusedMLP, FusedRMSNorm, FusedSquaredReLU} <= kinds


def test_fusing_is_in_place_keeps_the_weights_and_may_be_done_twice():
    model = plain()
    before = dict(model.named_parameters())
    assert fuse(fuse(model)) is model
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(after[name] is weight for name, weight in before.items())
    model.load_state_dict(plain().state_dict())
    plain().load_state_dict(model.state_dict())


def test_what_has_no_twin_stays():
    class Halved(GELU):
        def forward(self, x):
            return x / 2

    model = scored(Additive(4).double())
    model.blocks[0].mlp.activation = Halved()
    fuse(model)
    assert type(model.blocks[0].attn.attend) is Attend
    assert type(model.blocks[0].mlp.activation) is Halved
    assert type(model.blocks[1].mlp.activation) is FusedGELU


def test_training_goes_the_same_way():
    def losses(model):
        batches = lambda step: (TOKENS, TOKENS.roll(step, dims=1))  # noqa: E731
        training = Training(model, batches, Recipe(steps=7, learning_rate=0.01))
        return torch.tensor([record["train_loss"] for record in training])

    expected = losses(plain())
    assert expected[-1] < expected[0]
    assert_close(losses(fuse(plain())), expected)


def test_an_optimizer_made_before_goes_on():
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.blocks[0].attn.W_Q.detach().clone()
    cross_entropy(fuse(model)(TOKENS), TOKENS).backward()
    optimizer.step()
    assert not torch.equal(model.blocks[0].attn.W_Q, before)


def test_there_is_no_pattern_to_read_and_the_error_says_how_to_get_one():
    model = fuse(plain())
    with capture(model) as trace, torch.no_grad():
        model(TOKENS)
    with capture(original := plain()) as expected, torch.no_grad():
        original(TOKENS)
    assert_close(trace.z[1], expected.z[1], **close)
    assert_close(trace.neurons[1], expected.neurons[1], **close)
    with pytest.raises(ValueError, match="Fused attention never holds one"):
        trace.pattern[0]
    for block in model.blocks:
        block.attn.attend = Attend()
    with capture(model) as trace, torch.no_grad():
        model(TOKENS)
    assert_close(trace.pattern[1], expected.pattern[1], **close)


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def some_mask(seq_q, seq_k):
    mask = torch.rand(seq_q, seq_k) < 0.5
    mask[:, 0] = True
    return mask


@pytest.mark.parametrize("seq_q, seq_k", [(7, 7), (3, 7), (1, 7), (1, 1)])
@pytest.mark.parametrize("which", ["none", "causal", "causal function", "some", "some per head"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("score", [scaled_dot_product, dot_product, Cosine(0.3).double()])
def test_attention_is_that_of_attend(seq_q, seq_k, which, biased, score):
    torch.manual_seed(0)
    q, k, v = drawn(2, 3, seq_q, 5), drawn(2, 3, seq_k, 5), drawn(2, 3, seq_k, 5)
    mask = {
        "none": None,
        "causal": causal_mask(seq_q, seq_k),
        "causal function": causal_mask,
        "some": some_mask(seq_q, seq_k),
        "some per head": torch.stack([some_mask(seq_q, seq_k) for _ in range(3)]),
    }[which]
    bias = drawn(3, seq_q, seq_k) if biased else None
    made = mask(seq_q, seq_k) if callable(mask) else mask
    expected, _ = attention(q, k, v, made, bias, score)
    z, pattern = FusedAttend(score)(q, k, v, mask, bias)
    assert pattern is None
    assert_close(z, expected, **close)
    inputs = [x for x in (q, k, v, bias) if x is not None]
    direction = torch.randn_like(z)
    for ours, theirs in zip(
        torch.autograd.grad(z, inputs, direction),
        torch.autograd.grad(expected, inputs, direction),
        strict=True,
    ):
        assert_close(ours, theirs, **close)


def test_leading_dimensions_broadcast_as_for_attend():
    q, k, v = drawn(2, 1, 3, 5), drawn(3, 7, 5), drawn(7, 11)
    z, _ = FusedAttend()(q, k, v, causal_mask(3, 7))
    assert_close(z, attention(q, k, v.expand(3, 7, 11), causal_mask(3, 7))[0], **close)


def test_the_causal_mask_is_not_made_and_another_one_is():
    asked = []

    def windowed(seq_q, seq_k):
        asked.append((seq_q, seq_k))
        return causal_mask(seq_q, seq_k) & ~causal_mask(seq_q, seq_k).tril(-3)

    model, fused = plain(), fuse(plain())
    for block in [*model.blocks, *fused.blocks]:
        block.attn.mask = windowed
    assert_close(fused(TOKENS), model(TOKENS), **close)
    assert asked == 4 * [(11, 11)]


@pytest.mark.parametrize(
    "args",
    [
        (drawn(2, 4), drawn(5, 3), drawn(5, 7)),
        (drawn(2, 3), drawn(5, 3), drawn(6, 7)),
        (drawn(2, 3), drawn(5, 3), drawn(5, 7).float()),
        (drawn(2, 3), drawn(5, 3), drawn(5, 7), torch.ones(2, 5)),
        (drawn(2, 3), drawn(5, 3), drawn(5, 7), torch.ones(5, 2, dtype=torch.bool)),
        (drawn(2, 3), drawn(5, 3), drawn(5, 7), torch.zeros(2, 5, dtype=torch.bool)),
        (drawn(2, 3), drawn(5, 3), drawn(5, 7), None, torch.ones(5, 2)),
        (drawn(5, 3), drawn(2, 3), drawn(2, 7), causal_mask),
    ],
)
def test_bad_input_is_named_as_by_attend(args):
    with pytest.raises(ValueError, match="^expected") as error:
        FusedAttend()(*args)
    with pytest.raises(ValueError) as expected:
        attention(*[x(5, 2) if callable(x) else x for x in args])
    assert str(error.value) == str(expected.value)


def test_other_bad_input():
    with pytest.raises(ValueError, match="a score that is a dot product, got Additive"):
        FusedAttend(Additive(3))
    block = fuse(plain()).blocks[0]
    with pytest.raises(ValueError, match=r"x of \(batch, seq, 12\), got \(2, 12\)"):
        block.attn(torch.zeros(2, 12))
    for piece in (block.mlp, block.norm1, fuse(RMSNorm(12))):
        with pytest.raises(ValueError, match=r"x of \(\.\.\., 12\), got \(2, 3\)"):
            piece(torch.zeros(2, 3))


@pytest.mark.parametrize(
    "ours, theirs",
    [(gelu, GELU()), (squared_relu, SquaredReLU())],
)
def test_derivatives_by_hand(ours, theirs):
    x = torch.linspace(-9, 9, 61, dtype=torch.float64).view(1, 61).requires_grad_()
    assert_close(ours(x), theirs(x), **close)
    assert torch.autograd.gradcheck(ours, x)
    kept = x.detach().clone()
    ours(x).sum().backward()
    assert torch.equal(x, kept)  # what is done in place is not done to the input


@pytest.mark.parametrize("ours, theirs", [(gelu, GELU()), (squared_relu, SquaredReLU())])
def test_more_numbers_than_a_piece_in_any_layout(ours, theirs):
    torch.manual_seed(0)
    x = torch.randn(PIECE // 512 + 3, 2, 512, dtype=torch.float64).transpose(0, 1)
    x.requires_grad_()
    direction = torch.randn(x.shape, dtype=torch.float64)
    for f in (ours, theirs):
        y = f(x)
        (gradient,) = torch.autograd.grad(y, x, direction)
        if f is ours:
            expected = y, gradient
    assert_close((y, gradient), expected, **close)


@pytest.mark.parametrize("seq", [1, 5, 6])
def test_causal_attention_by_rows(seq):
    torch.manual_seed(0)
    q, k, v = drawn(1, 2, seq, 3), drawn(1, 2, seq, 3), drawn(1, 2, seq, 5)
    expected, _ = attention(q, k, v, causal_mask(seq, seq))
    assert_close(causal_rows(q, k, v, 3**-0.5, block=3), expected, **close)
    assert torch.autograd.gradcheck(lambda q, k, v: causal_rows(q, k, v, 0.7, block=3), (q, k, v))


@pytest.mark.parametrize("seq, rows", [(159, False), (160, True), (512, True), (513, False)])
def test_rows_stand_in_at_middle_lengths_and_give_the_same(seq, rows, monkeypatch):
    calls = []
    monkeypatch.setattr(
        efficient, "causal_rows", lambda *args: calls.append(seq) or causal_rows(*args)
    )
    torch.manual_seed(0)
    q, k, v = drawn(1, 2, seq, 3), drawn(1, 2, seq, 3), drawn(1, 2, seq, 5)
    expected, _ = attention(q, k, v, causal_mask(seq, seq))
    z, _ = FusedAttend()(q, k, v, causal_mask)
    assert_close(z, expected, **close)
    assert calls == rows * [seq]
    FusedAttend()(q, k, v, causal_mask, torch.zeros(seq, seq).double())
    FusedAttend()(q[:, :1], k, v, causal_mask)
    FusedAttend()(q[..., -3:, :], k, v, causal_mask)
    assert calls == rows * [seq]


def test_derivatives_of_the_norm_by_hand():
    torch.manual_seed(0)
    x, w = drawn(2, 3, 5), drawn(5)
    eps = 0.3  # large, so that it matters
    inverse = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    assert_close(rms_norm(x, w, eps), x * inverse * w, **close)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, eps), (x, w))


@pytest.mark.parametrize("ours", [gelu, squared_relu])
def test_large_numbers_stay_finite(ours):
    x = torch.tensor([-1e4, -30.0, 0.0, 30.0, 1e4], requires_grad=True)
    y = ours(x)
    y.sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all()
    assert y[2] == 0


def test_a_copy_stays_fused():
    model = copy.deepcopy(fuse(plain()))
    assert type(model.blocks[0].attn) is FusedHeads
    assert_close(model(TOKENS), plain()(TOKENS), **close)
