"""Capture, ablation, logit lens, attribution and head scores, each recomputed another way."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import Cache, randomise
from torch import nn
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from decoder import Config, Decoder
from decoder.attention import Attend, causal_mask
from decoder.block import Block
from decoder.gpt2 import load_gpt2
from decoder.interpret import (
    ablate_heads,
    capture,
    contributions,
    direct_logits,
    duplicate_token_score,
    first_token_score,
    head_scores,
    induction_score,
    logit_attribution,
    logit_lens,
    mean_z,
    previous_token_score,
    repeated_tokens,
)
from decoder.norm import RMSNorm
from decoder.positions import ALiBi, Positions, Rotary

SIZES = Config(d_vocab=17, n_ctx=13, d_model=11, n_heads=5, n_layers=3, d_head=6, d_mlp=7)
TOKENS = torch.arange(18).view(2, 9) * 7 % 17
close = {"rtol": 1e-10, "atol": 1e-10}


def decoder(config=SIZES):
    return randomise(Decoder(config).double())


def traced(model, tokens=TOKENS):
    with capture(model) as trace:
        model(tokens)
    return trace


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class FusedAttend(nn.Module):
    """What `efficient.py` puts in place: no pattern."""

    def forward(self, q, k, v, mask=None, bias=None):
        z = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return z, None


class NoNorm(Block):
    def forward(self, resid, positions=None, cache=None):
        resid = resid + self.attn(resid, positions, cache)
        return resid + self.mlp(resid)


class NoSkip(Block):
    def forward(self, resid, positions=None, cache=None):
        return self.mlp(self.norm2(self.attn(self.norm1(resid), positions, cache)))


class AttentionOnly(Block):
    def forward(self, resid, positions=None, cache=None):
        return resid + self.attn(self.norm1(resid), positions, cache)


class DenseOnly(Block):
    def forward(self, resid, positions=None, cache=None):
        return resid + self.mlp(self.norm2(resid))


class InPlace(Block):
    def forward(self, resid, positions=None, cache=None):
        resid += self.attn(self.norm1(resid), positions, cache)
        resid += self.mlp(self.norm2(resid))
        return resid


def with_blocks(block_class, layers=(0, 1, 2)):
    model = Decoder(SIZES)
    for layer in layers:
        model.blocks[layer] = block_class(SIZES)
    return randomise(model.double())


# Capture


def check_trace(model, trace, tokens=TOKENS):
    """Everything follows from the weights and from the stream that was read."""
    assert_close(trace.embed, model.W_E[tokens], **close)
    assert_close(trace.embed + trace.positions, trace.resid[0], **close)
    assert len(trace.resid) == len(model.blocks) + 1
    for layer, block in enumerate(model.blocks):
        attn, mlp, resid = block.attn, block.mlp, trace.resid[layer]
        x = block.norm1(resid)
        v = (x @ attn.W_V + attn.b_V).unflatten(-1, (5, 6)).transpose(1, 2)
        q = (x @ attn.W_Q + attn.b_Q).unflatten(-1, (5, 6)).transpose(1, 2)
        k = (x @ attn.W_K + attn.b_K).unflatten(-1, (5, 6)).transpose(1, 2)
        scores = (q @ k.mT / 6**0.5).masked_fill(~causal_mask(9, 9), -torch.inf)
        assert_close(trace.pattern[layer], scores.softmax(-1), **close)
        assert_close(trace.z[layer], trace.pattern[layer] @ v, **close)
        z = trace.z[layer].transpose(1, 2).flatten(2)
        assert_close(trace.attn_out[layer], z @ attn.W_O + attn.b_O, **close)
        middle = resid + trace.attn_out[layer]
        neurons = nn.functional.gelu(block.norm2(middle) @ mlp.W_in + mlp.b_in, approximate="tanh")
        assert_close(trace.neurons[layer], neurons, **close)
        assert_close(trace.mlp_out[layer], neurons @ mlp.W_out + mlp.b_out, **close)
        assert_close(trace.resid[layer + 1], middle + trace.mlp_out[layer], **close)
    assert_close(trace.logits, model.norm(trace.resid[-1]) @ model.W_E.T, **close)


def test_capture_reads_everything():
    model = decoder()
    check_trace(model, traced(model))


def test_capture_runs_the_model_once_and_changes_nothing():
    model, calls = decoder(), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    plain = model(TOKENS)
    with capture(model) as trace:
        assert hooks(model) > 1
        logits = model(TOKENS)
    assert torch.equal(logits, plain) and torch.equal(trace.logits, plain)
    assert len(calls) == 2


def test_hooks_are_gone_afterwards_also_after_an_exception():
    model = decoder()
    traced(model)
    assert hooks(model) == 0
    with pytest.raises(ValueError, match="expected ids"), capture(model):
        model(TOKENS + 17)
    assert hooks(model) == 0
    with pytest.raises(KeyError), ablate_heads(model, {(0, 0): 0}):
        raise KeyError
    assert hooks(model) == 0
    del model.blocks[2].attn.attend  # an error while the hooks are being set
    model.positions = None
    with pytest.raises(AttributeError), capture(model):
        pass
    assert hooks(model) == 0


def share_the_dense_layers(model):
    for block in model.blocks:
        block.mlp = model.blocks[0].mlp


def share_the_attention(model):
    for block in model.blocks:
        block.attn = model.blocks[0].attn


def share_the_activation(model):
    for block in model.blocks:
        block.mlp.activation = model.blocks[0].mlp.activation


def share_the_block(model):
    model.blocks = nn.ModuleList([model.blocks[0]] * 3)


@pytest.mark.parametrize(
    "share",
    [share_the_dense_layers, share_the_attention, share_the_activation, share_the_block],
)
def test_shared_pieces_are_read_in_every_layer(share):
    model = decoder()
    share(model)
    trace = traced(model)
    check_trace(model, trace)
    assert (trace.neurons[0] - trace.neurons[1]).abs().max() > 0.01
    assert (trace.pattern[1] - trace.pattern[2]).abs().max() > 0.01


def test_shared_in_some_layers_only():
    model = decoder()
    model.blocks[2].mlp = model.blocks[0].mlp
    check_trace(model, traced(model))


@pytest.mark.parametrize("scheme", [Positions(), Rotary(6), ALiBi(5)])
def test_schemes_that_add_nothing(scheme):
    model = decoder()
    model.positions = scheme
    trace = traced(model)
    assert not trace.positions.any()
    assert_close(trace.resid[0], model.W_E[TOKENS])


@pytest.mark.parametrize("block_class", [NoNorm, NoSkip, InPlace])
def test_substituted_blocks(block_class):
    model = with_blocks(block_class)
    trace = traced(model)
    assert_close(trace.embed + trace.positions, trace.resid[0])
    assert_close(trace.pattern[2].sum(-1), torch.ones(2, 5, 9, dtype=torch.float64))
    added = trace.attn_out[1] + trace.mlp_out[1]
    expected = trace.mlp_out[1] if block_class is NoSkip else trace.resid[1] + added
    assert_close(trace.resid[2], expected, **close)
    assert_close(trace.logits, model.norm(trace.resid[3]) @ model.W_E.T, **close)


def test_what_a_layer_lacks_is_named_when_it_is_asked_for():
    model = with_blocks(AttentionOnly, [1])
    model.blocks[0].attn.attend = FusedAttend()
    del model.blocks[2].mlp.activation
    model.blocks[2].mlp.activation = nn.functional.relu
    trace = traced(model)
    with pytest.raises(ValueError, match="no pattern in layer 0.*[Ff]used.*Attend()"):
        trace.pattern[0]
    with pytest.raises(ValueError, match="no neurons in layer 1"):
        trace.neurons[1]
    with pytest.raises(ValueError, match="no mlp_out in layer 1: its block called no `mlp`"):
        trace.mlp_out[1]
    with pytest.raises(ValueError, match="no neurons in layer -1.*module `mlp.activation`"):
        trace.neurons[-1]
    with pytest.raises(ValueError, match="no pattern in layer 0"):
        list(trace.pattern)
    assert trace.z[0].shape == trace.z[1].shape == (2, 5, 9, 6)
    assert trace.pattern.has(1) and not trace.pattern.has(0) and not trace.pattern.has(3)
    with pytest.raises(IndexError):
        trace.pattern[3]


def test_a_layer_without_attention_moves_no_other():
    model = with_blocks(DenseOnly, [0])
    trace = traced(model)
    assert not trace.pattern.has(0)
    assert_close(trace.resid[2], trace.resid[1] + trace.attn_out[1] + trace.mlp_out[1], **close)


def test_reading_before_a_forward_pass_is_named():
    with capture(decoder()) as trace:
        pass
    for values in (trace.pattern, trace.resid, trace.neurons):
        with pytest.raises(ValueError, match="call the model inside"):
            values[0]


def test_the_last_forward_pass_counts():
    model = decoder()
    with capture(model) as trace:
        model(TOKENS[:, :3] + 1)
        model(TOKENS)
    check_trace(model, trace)


def test_a_pass_that_broke_off_leaves_nothing_behind():
    model = decoder()
    broken = model.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with capture(model) as trace:
        with pytest.raises(ZeroDivisionError):
            model(TOKENS + 0)
        broken.remove()
        model(TOKENS)
    check_trace(model, trace)


def test_pieces_called_by_themselves_are_in_no_layer():
    model = decoder()
    with capture(model) as trace:
        model.blocks[0].mlp(torch.ones(11, dtype=torch.float64))
        model(TOKENS)
        model.blocks[2](torch.ones(2, 9, 11, dtype=torch.float64))
        model.blocks[0].mlp(torch.ones(11, dtype=torch.float64))
    check_trace(model, trace)


def test_with_a_cache_keys_reach_back():
    model, cache = decoder(), Cache(3)
    whole = traced(model)
    with capture(model) as trace:
        model(TOKENS[:, :7], cache)
        model(TOKENS[:, 7:], cache)
    assert trace.pattern[2].shape == (2, 5, 2, 9)
    for layer in range(3):
        assert_close(trace.pattern[layer], whole.pattern[layer][:, :, 7:], **close)
        assert_close(trace.resid[layer], whole.resid[layer][:, 7:], **close)


def test_copies_by_default_and_the_graph_on_request():
    model = decoder()
    trace = traced(model)
    assert not any(t.requires_grad for t in [*trace.z, *trace.resid, trace.logits, trace.embed])
    with capture(model, keep=lambda tensor: tensor) as trace:
        loss = model(TOKENS).square().sum()
    (grad,) = torch.autograd.grad(loss, trace.z[2])
    # Nudge one number of one head's z, and see how the loss moves.
    z, nudge = trace.z[2][:, 3].detach(), torch.zeros(2, 9, 6, dtype=torch.float64)
    nudge[1, 4, 2] = 1e-6
    losses = []
    for sign in (1, -1):
        with ablate_heads(model, {(2, 3): z + sign * nudge}):
            losses.append(model(TOKENS).square().sum().item())
    assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(grad[1, 3, 4, 2].item(), rel=1e-5)


# Ablation


def without_head(model, layer, head, mean=None):
    """The same by changing weights: the head's rows of W_O write nothing, or b_O the mean."""
    changed = decoder()
    changed.load_state_dict(model.state_dict())
    attn = changed.blocks[layer].attn
    with torch.no_grad():
        rows = attn.W_O[6 * head : 6 * head + 6]
        if mean is not None:
            attn.b_O += mean @ rows
        rows.zero_()
    return changed


@pytest.mark.parametrize("layer, head", [(0, 0), (1, 3), (2, 4)])
def test_ablation_equals_a_change_of_weights(layer, head):
    model = decoder()
    plain, mean = model(TOKENS), mean_z(traced(model))
    with ablate_heads(model, {(layer, head): 0}):
        zero = model(TOKENS)
    assert_close(zero, without_head(model, layer, head)(TOKENS), **close)
    mean = mean[layer, head]
    with ablate_heads(model, {(layer, head): mean}):
        averaged = model(TOKENS)
    assert_close(averaged, without_head(model, layer, head, mean)(TOKENS), **close)
    assert min((zero - plain).abs().max(), (averaged - zero).abs().max()) > 0.01
    assert torch.equal(model(TOKENS), plain)


def test_mean_z_is_over_batch_and_positions():
    trace = traced(decoder())
    means = mean_z(trace)
    assert means.shape == (3, 5, 6)
    assert_close(means[1, 4], trace.z[1][:, 4].reshape(18, 6).sum(0) / 18)


def test_several_heads_and_layers_at_once():
    model = decoder()
    heads = {(0, 2): 0, (0, 4): 0, (2, 1): 0}
    changed = model
    for layer, head in heads:
        changed = without_head(changed, layer, head)
    with ablate_heads(model, heads):
        assert_close(model(TOKENS), changed(TOKENS), **close)


def test_every_forward_pass_is_ablated():
    model = decoder()
    with ablate_heads(model, {(1, 3): 0}):
        assert torch.equal(model(TOKENS), model(TOKENS))


def test_each_forward_pass_has_to_ablate_by_itself():
    """What the first one did does not count for the second."""
    model = Decoder(Config(17, 9, 8, 2, 2))
    with ablate_heads(model, {(1, 0): 0}):
        model(TOKENS)
        model.blocks[1].attn.attend = Attend()  # without the hook
        with pytest.raises(ValueError, match=r"expected to replace heads \[\(1, 0\)\]"):
            model(TOKENS)


def test_a_shared_block_is_ablated_in_one_layer_only():
    model = decoder()
    share_the_block(model)
    trace = traced(model)
    with capture(model) as ablated, ablate_heads(model, {(1, 3): 0}):
        model(TOKENS)
    assert_close(ablated.z[0], trace.z[0])
    assert not ablated.z[1][:, 3].any() and ablated.z[2][:, 3].any()


def test_capture_reads_what_was_put_in_place_in_either_order():
    model, value = decoder(), torch.arange(6.0).double()
    with capture(model) as outer, ablate_heads(model, {(1, 3): value}), capture(model) as inner:
        model(TOKENS)
    for trace in (outer, inner):
        assert_close(trace.z[1][:, 3], value.expand(2, 9, 6))
        assert_close(trace.pattern[1], traced(model).pattern[1])  # where it looks stays


def test_what_a_head_says_elsewhere_can_be_put_in_its_place():
    model, other = decoder(), (TOKENS + 3) % 17
    elsewhere = traced(model, other)
    heads = {(2, head): elsewhere.z[2][:, head] for head in range(5)}
    with capture(model) as trace, ablate_heads(model, heads):
        model(TOKENS)
    assert_close(trace.attn_out[2], elsewhere.attn_out[2], **close)
    assert_close(trace.resid[2], traced(model).resid[2], **close)


def test_ablation_works_with_fused_attention():
    model, fused = decoder(), decoder()
    for block in fused.blocks:
        block.attn.attend = FusedAttend()
    with ablate_heads(model, {(1, 3): 0}), ablate_heads(fused, {(1, 3): 0}):
        ours, theirs = fused(TOKENS), model(TOKENS)
        assert_close(ours, theirs, **close)
        # Fused attention needs its output for the gradients: it may not be overwritten.
        ours.square().sum().backward(), theirs.square().sum().backward()
    assert_close(fused.blocks[1].attn.W_V.grad, model.blocks[1].attn.W_V.grad, **close)


def test_ablation_names_bad_input():
    model = decoder()
    for wrong in ((3, 0), (0, 5), (-1, 0), (0, -1)):
        message = rf"layer below 3 and head below 5, got \({wrong[0]}, {wrong[1]}\)"
        with pytest.raises(ValueError, match=message), ablate_heads(model, {wrong: 0}):
            pass
    misfit = ablate_heads(model, {(0, 1): torch.zeros(2, 7, 6)})
    with misfit, pytest.raises(ValueError, match=r"\(2, 9, 6\), got \(2, 7, 6\)"):
        model(TOKENS)
    model = with_blocks(DenseOnly, [1])
    with ablate_heads(model, {(1, 2): 0}), pytest.raises(ValueError, match=r"\[\(1, 2\)\]"):
        model(TOKENS)


# Logit lens and attribution


def test_logit_lens_ends_in_the_logits():
    model = decoder()
    trace = traced(model)
    lens = logit_lens(model, trace)
    assert lens.shape == (4, 2, 9, 17) and not lens.requires_grad
    assert_close(lens[3], trace.logits, **close)
    x = nn.functional.layer_norm(trace.resid[1], (11,), model.norm.w, model.norm.b)
    assert_close(lens[1], x @ model.W_E.T, **close)


class Untied(nn.Module):
    def __init__(self):
        super().__init__()
        self.W_U = nn.Parameter(torch.zeros(11, 17))
        self.b_U = nn.Parameter(torch.zeros(17))

    def forward(self, resid, W_E):
        return resid @ self.W_U + self.b_U


def variants():
    yield "plain", decoder()
    for name, scheme in (("none", Positions()), ("rotary", Rotary(6)), ("alibi", ALiBi(5))):
        model = decoder()
        model.positions = scheme
        yield name, model
    for name, attribute, piece in (
        ("rms", "norm", RMSNorm(11)),
        ("no norm", "norm", nn.Identity()),
        ("untied", "unembed", Untied()),
    ):
        model = Decoder(SIZES)
        setattr(model, attribute, piece)
        yield name, randomise(model.double())
    for block_class in (NoNorm, AttentionOnly, DenseOnly, InPlace):
        yield block_class.__name__, with_blocks(block_class)
    model = decoder()
    share_the_block(model)
    yield "shared", model
    for block in (model := decoder()).blocks:
        block.attn.attend = FusedAttend()
    yield "fused", model


@pytest.mark.parametrize("name, model", list(variants()))
def test_contributions_sum_to_the_logits(name, model):
    trace = traced(model)
    parts = contributions(model, trace)
    assert_close(sum(parts.values()), trace.resid[-1], **close)
    whole = sum(direct_logits(model, trace, part) for part in parts.values())
    targets = TOKENS.roll(-1, dims=1)
    said = logit_attribution(model, trace, targets)
    assert said.keys() == {*parts, "constant"}
    picked = nn.functional.one_hot(targets, 17).double()
    assert_close(sum(said.values()), (trace.logits * picked).sum(-1), **close)
    assert_close(sum(said.values()) - said["constant"], (whole * picked).sum(-1), **close)
    assert not any(part.requires_grad for part in [*parts.values(), *said.values()])


def test_sum_is_exact_in_float32_too():
    model = randomise(Decoder(SIZES))
    trace = traced(model)
    said = sum(logit_attribution(model, trace, TOKENS).values())
    logits = trace.logits.gather(-1, TOKENS[..., None])[..., 0]
    assert (said - logits).abs().max() < 1e-5 * trace.logits.abs().max()


def test_zero_logits_are_no_misfit():
    model = decoder()
    with torch.no_grad():
        model.norm.w.zero_(), model.norm.b.zero_()
    said = logit_attribution(model, traced(model), TOKENS)
    assert not any(part.any() for part in said.values())


def test_contributions_are_named_and_in_their_place():
    model = decoder()
    trace = traced(model)
    parts = contributions(model, trace)
    assert list(parts)[:9] == [
        *("embed", "positions", "L0.H0", "L0.H1", "L0.H2", "L0.H3", "L0.H4", "L0.b_O", "L0.mlp")
    ]
    assert len(parts) == 2 + 3 * 7
    rows = model.blocks[1].attn.W_O[18:24]
    assert_close(parts["L1.H3"], trace.z[1][:, 3] @ rows, **close)
    assert_close(parts["L1.mlp"], trace.mlp_out[1])
    assert_close(parts["L2.b_O"], model.blocks[2].attn.b_O.expand(2, 9, 11))


def test_direct_logits_are_what_ablation_takes_away_when_nothing_comes_after():
    # The last layer, without dense layers after it and without a norm: no indirect effect.
    model = with_blocks(AttentionOnly, [2])
    model.norm = nn.Identity()
    trace = traced(model)
    with ablate_heads(model, {(2, 1): 0}):
        ablated = model(TOKENS)
    direct = direct_logits(model, trace, contributions(model, trace)["L2.H1"])
    assert_close(direct, trace.logits - ablated, **close)


def test_the_scale_is_frozen_where_it_was():
    model = decoder()
    trace = traced(model)
    part = contributions(model, trace)["L0.mlp"]
    scale = (trace.resid[-1].var(-1, correction=0, keepdim=True) + model.norm.eps).sqrt()
    expected = (part - part.mean(-1, keepdim=True)) / scale * model.norm.w @ model.W_E.T
    assert_close(direct_logits(model, trace, part), expected, **close)


def test_attribution_names_what_it_cannot_take_apart():
    model = with_blocks(NoSkip, [1])
    with pytest.raises(ValueError, match="sum to the residual stream.*off by"):
        contributions(model, traced(model))
    model = decoder()
    trace = traced(model)
    with pytest.raises(ValueError, match=r"targets of \(2, 9\), got \(2, 8\)"):
        logit_attribution(model, trace, TOKENS[:, 1:])
    with pytest.raises(ValueError, match=r"part of \(2, 9, 11\), got \(9, 11\)"):
        direct_logits(model, trace, trace.embed[0])

    class Capped(nn.Module):
        def forward(self, resid, W_E):
            return 3 * torch.tanh(resid @ W_E.T / 3)

    model.unembed = Capped()
    with pytest.raises(ValueError, match="sum to the logits"):
        logit_attribution(model, traced(model), TOKENS)
    model.norm = nn.Tanh()
    with pytest.raises(ValueError, match="norm with a method `linear`, got Tanh"):
        direct_logits(model, trace, trace.embed)


# Head scores


def always(seq, key):
    """A head that puts all its attention on key(query)."""
    pattern = torch.zeros(1, 1, seq, seq)
    for query in range(seq):
        pattern[0, 0, query, key(query)] = 1
    return pattern


REPEATED = torch.tensor([[5, 3, 8, 1, 6, 5, 3, 8, 1, 6]])
HEADS = {
    "previous": lambda i: max(i - 1, 0),
    "first": lambda i: 0,
    "duplicate": lambda i: i - 5 if i >= 5 else i,
    "induction": lambda i: i - 4 if i >= 5 else i,
    "self": lambda i: i,
}
SCORES = {
    "previous": lambda pattern: previous_token_score(pattern),
    "first": lambda pattern: first_token_score(pattern),
    "duplicate": lambda pattern: duplicate_token_score(pattern, REPEATED),
    "induction": lambda pattern: induction_score(pattern, REPEATED),
}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("head", HEADS)
def test_each_score_finds_its_head_and_no_other(score, head):
    # Except that query 5 has seen its token at 0: there, first and duplicate are the same key.
    shared = {("first", "duplicate"): 1 / 5, ("duplicate", "first"): 1 / 8}
    expected = 1.0 if head == score else shared.get((head, score), 0.0)
    assert SCORES[score](always(10, HEADS[head])).tolist() == pytest.approx([expected])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), seq=st.integers(3, 9), d_vocab=st.integers(1, 4))
def test_scores_are_their_definitions(seed, seq, d_vocab):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(d_vocab, (3, seq), generator=generator)
    pattern = torch.randn(3, 2, seq, seq, generator=generator, dtype=torch.float64).softmax(-1)
    text = tokens.tolist()

    def keys(b, i, kind):
        if kind == "duplicate":
            return [j for j in range(i) if text[b][j] == text[b][i]]
        return [j for j in range(1, i) if text[b][j - 1] == text[b][i]]

    for kind, score in (("duplicate", duplicate_token_score), ("induction", induction_score)):
        rows = [(b, i) for b in range(3) for i in range(seq) if keys(b, i, kind)]
        if not rows:
            with pytest.raises(ValueError, match="some come again"):
                score(pattern, tokens)
            continue
        for head in range(2):
            mean = sum(pattern[b, head, i, keys(b, i, kind)].sum().item() for b, i in rows)
            assert score(pattern, tokens)[head].item() == pytest.approx(mean / len(rows))
    before = pattern[:, :, range(2, seq), range(1, seq - 1)].mean(dim=(0, 2))
    assert_close(previous_token_score(pattern), before)
    assert_close(first_token_score(pattern), pattern[:, :, 2:, 0].mean(dim=(0, 2)))


def test_scores_of_a_uniform_head_are_the_baseline():
    mask = causal_mask(10, 10).double()
    uniform = (mask / mask.sum(-1, keepdim=True)).expand(1, 3, 10, 10)
    expected = sum(1 / (i + 1) for i in range(5, 10)) / 5
    assert induction_score(uniform, REPEATED).tolist() == pytest.approx([expected] * 3)
    assert duplicate_token_score(uniform, REPEATED).tolist() == pytest.approx([expected] * 3)


def test_scores_name_bad_shapes():
    wide = torch.ones(1, 2, 3, 10)
    for score in SCORES.values():
        for pattern in (wide, torch.ones(2, 10, 10), torch.ones(1, 2, 2, 2)):
            with pytest.raises(ValueError, match=r"\(batch, n_heads, seq, seq\), got"):
                score(pattern)
    with pytest.raises(ValueError, match=r"tokens of \(1, 10\), got \(1, 9\)"):
        induction_score(always(10, lambda i: 0), REPEATED[:, 1:])


def test_scores_read_a_real_trace():
    model = decoder()
    before = 50 * torch.eye(9, dtype=torch.float64).roll(-1, dims=1)
    model.blocks[0].attn.attend = Attend(score=lambda q, k: q @ k.mT * 0 + before)
    tokens = REPEATED[:, :9]
    trace = traced(model, tokens)
    assert previous_token_score(trace.pattern[0]).min() > 0.999
    assert previous_token_score(trace.pattern[1]).max() < 0.999
    assert induction_score(trace.pattern[1], tokens).shape == (5,)


def test_repeated_tokens_differ_and_come_again():
    tokens = repeated_tokens(17, 7, 5, torch.Generator().manual_seed(1))
    assert tokens.shape == (5, 14) and torch.equal(tokens[:, :7], tokens[:, 7:])
    assert all(len(set(row)) == 7 for row in tokens[:, :7].tolist())
    assert len({tuple(row) for row in tokens.tolist()}) == 5 and tokens.max() < 17
    assert len(repeated_tokens(7, 7, 1).unique()) == 7
    with pytest.raises(ValueError, match="d_vocab >= period, got 6 < 7"):
        repeated_tokens(6, 7, 5)
    with pytest.raises(ValueError, match="period >= 2, got 1 < 2"):
        repeated_tokens(6, 1, 5)


def check_head_scores(model, tokens):
    """All at once equal each by itself; hooks and gradients are gone."""
    scores, trace = head_scores(model, tokens), traced(model, tokens)
    assert list(scores) == ["previous", "first", "duplicate", "induction"]
    for layer, pattern in enumerate(trace.pattern):
        assert_close(scores["previous"][layer], previous_token_score(pattern))
        assert_close(scores["first"][layer], first_token_score(pattern))
        assert_close(scores["duplicate"][layer], duplicate_token_score(pattern, tokens))
        assert_close(scores["induction"][layer], induction_score(pattern, tokens))
    assert hooks(model) == 0 and not scores["first"].requires_grad
    return scores


def test_head_scores_are_each_score_of_every_layer():
    scores = check_head_scores(decoder(), REPEATED)
    assert all(score.shape == (3, 5) for score in scores.values())


def test_chapter_13_works_on_a_gpt2_from_a_folder(tmp_path):
    config = GPT2Config(vocab_size=23, n_positions=16, n_embd=21, n_layer=2, n_head=3, n_inner=29)
    theirs = randomise(GPT2LMHeadModel(config).eval(), std=0.3)
    theirs.save_pretrained(tmp_path)  # config.json and model.safetensors
    model = load_gpt2(tmp_path)
    tokens = repeated_tokens(23, 8, 5, torch.Generator().manual_seed(0))
    scores = check_head_scores(model, tokens)
    assert scores["induction"].shape == (2, 3)
    with torch.no_grad():
        assert_close(model(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)
        mean = mean_z(traced(model, tokens))
        for put in (0, mean[1, 2]):
            with ablate_heads(model, {(1, 2): put}):
                assert (model(tokens) - theirs(tokens).logits).abs().max() > 0.01
