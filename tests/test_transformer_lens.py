"""What `interpret` reads, changes and takes apart, against TransformerLens on the same weights."""

import pytest
import torch
from pieces import randomise
from torch.testing import assert_close
from transformer_lens.head_detector import (
    get_duplicate_token_head_detection_pattern,
    get_induction_head_detection_pattern,
    get_previous_token_head_detection_pattern,
)
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.patching import (
    get_act_patch_attn_out,
    get_act_patch_mlp_out,
    get_act_patch_resid_pre,
)
from transformers import GPT2Config, GPT2LMHeadModel

from decoder.gpt2 import load_gpt2
from decoder.interpret import (
    ablate_heads,
    capture,
    contributions,
    direct_logits,
    duplicate_token_score,
    induction_score,
    logit_lens,
    mean_z,
    patch,
    patching_grid,
    previous_token_score,
)

TOKENS = torch.randint(23, (2, 11), generator=torch.Generator().manual_seed(0))
near = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def both():
    """A small GPT-2 with random weights in both libraries; theirs with nothing folded."""
    config = GPT2Config(
        vocab_size=23,
        n_positions=13,
        n_embd=21,
        n_layer=2,
        n_head=3,
        n_inner=29,
        attn_implementation="eager",
    )
    theirs = randomise(GPT2LMHeadModel(config).eval(), std=0.3)
    ours = load_gpt2(theirs.state_dict(), n_heads=3)
    bridge = build_bridge_from_module(theirs, "GPT2LMHeadModel", hf_config=config)
    with capture(ours) as trace:
        ours(TOKENS)
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(TOKENS)
    assert_close(trace.logits, logits, **near)
    return ours, trace, bridge, cache


@pytest.mark.parametrize("layer", [0, 1])
def test_capture_equals_their_cache(both, layer):
    _, trace, _, cache = both
    assert_close(trace.pattern[layer], cache["pattern", layer], **near)
    assert_close(trace.z[layer], cache["z", layer].transpose(1, 2), **near)
    assert_close(trace.resid[layer], cache["resid_pre", layer], **near)
    assert_close(trace.resid[layer + 1], cache["resid_post", layer], **near)
    assert_close(trace.attn_out[layer], cache["attn_out", layer], **near)
    assert_close(trace.mlp_out[layer], cache["mlp_out", layer], **near)
    assert_close(trace.neurons[layer], cache["post", layer], **near)
    assert_close(trace.embed, cache["hook_embed"], **near)
    assert_close(trace.positions, cache["hook_pos_embed"], **near)


@pytest.mark.parametrize("layer, head, kind", [(0, 2, "zero"), (1, 0, "zero"), (0, 1, "mean")])
def test_ablation_equals_their_hooks(both, layer, head, kind):
    ours, trace, bridge, _ = both
    value = torch.zeros(7) if kind == "zero" else mean_z(trace)[layer, head]

    def replace(z, hook):  # (batch, seq, n_heads, d_head)
        z[:, :, head] = z[:, :, head].mean(dim=(0, 1)) if kind == "mean" else 0
        return z

    with torch.no_grad():
        name = f"blocks.{layer}.attn.hook_z"
        expected = bridge.run_with_hooks(TOKENS, fwd_hooks=[(name, replace)])
        with ablate_heads(ours, {(layer, head): value}):
            assert_close(ours(TOKENS), expected, **near)
    assert (expected - trace.logits).abs().max() > 0.01


def test_logit_lens_equals_their_accumulated_residual(both):
    ours, trace, bridge, cache = both
    with torch.no_grad():
        stack = cache.accumulated_resid(layer=-1, apply_ln=False)  # (n_layers + 1, batch, ...)
        expected = torch.stack([bridge.unembed(bridge.ln_final(resid)) for resid in stack])
    assert_close(logit_lens(ours, trace), expected, **near)


def test_contributions_equal_their_decomposition(both):
    ours, trace, bridge, cache = both
    parts = contributions(ours, trace)
    theirs, labels = cache.decompose_resid(layer=-1, return_labels=True)
    names = {"embed": "embed", "pos_embed": "positions", "0_mlp_out": "L0.mlp"}
    for label, name in (names | {"1_mlp_out": "L1.mlp"}).items():
        assert_close(parts[name], theirs[labels.index(label)], **near)
    cache.compute_head_results()
    heads, labels = cache.stack_head_results(layer=-1, return_labels=True)
    for label, written in zip(labels, heads, strict=True):
        assert_close(parts[f"{label[:2]}.{label[2:]}"], written, **near)


@pytest.mark.parametrize("part", ["embed", "L0.H1", "L1.mlp"])
def test_direct_logits_equal_theirs(both, part):
    ours, trace, bridge, cache = both
    written = contributions(ours, trace)[part]
    with torch.no_grad():
        # They freeze and centre, but leave the norm's weights to be folded into W_U.
        scaled = cache.apply_ln_to_stack(written[None], layer=-1)[0]
        expected = scaled @ (ours.norm.w[:, None] * bridge.W_U)
    assert_close(direct_logits(ours, trace, written), expected, **near)


@pytest.mark.parametrize(
    "name, layer, hook",
    [
        ("resid", 0, "blocks.0.hook_resid_pre"),
        ("resid", 1, "blocks.1.hook_resid_pre"),
        ("resid", 2, "blocks.1.hook_resid_post"),
        ("attn_out", 1, "blocks.1.hook_attn_out"),
        ("mlp_out", 0, "blocks.0.hook_mlp_out"),
    ],
)
def test_patching_equals_their_hooks(both, name, layer, hook):
    ours, trace, bridge, _ = both
    other = TOKENS.roll(1, dims=1)
    with capture(ours) as source, torch.no_grad():
        ours(other)
    value = getattr(source, name)[layer][:, 4]

    def replace(x, hook):
        x = x.clone()
        x[:, 4] = value
        return x

    with torch.no_grad():
        expected = bridge.run_with_hooks(TOKENS, fwd_hooks=[(hook, replace)])
        with patch(ours, name, {(layer, 4): value}):
            assert_close(ours(TOKENS), expected, **near)
    assert (expected - trace.logits).abs().max() > 0.01


@pytest.mark.parametrize(
    "name, theirs",
    [
        ("resid", get_act_patch_resid_pre),
        ("attn_out", get_act_patch_attn_out),
        ("mlp_out", get_act_patch_mlp_out),
    ],
)
def test_patching_grid_equals_theirs(both, name, theirs):
    ours, _, bridge, _ = both
    text, other = TOKENS[:1], TOKENS[1:]
    with capture(ours) as source, torch.no_grad():
        ours(other)
        _, cache = bridge.run_with_cache(other)

    def measure(logits):
        return logits[0, -1, 3] - logits[0, -1, 5]

    with torch.no_grad():
        expected = theirs(bridge, text, cache, measure)  # (n_layers, seq)
    grid = patching_grid(ours, text, source, measure, name)
    assert_close(grid[:2], expected, **near)
    assert grid.std() > 0.001  # ten times what is let pass


def test_head_scores_look_where_their_detectors_look():
    tokens = torch.tensor([[5, 3, 8, 1, 6, 5, 3, 8, 1, 6, 3, 9]])  # some come twice, 3 thrice
    pattern = torch.rand(1, 7, 12, 12, generator=torch.Generator().manual_seed(0))

    def by_detector(detector, queries):
        wanted = detector(tokens)
        return (pattern[0] * wanted).sum(dim=(1, 2)) / queries

    again = 6  # queries 5 to 10
    for ours, theirs, queries in (
        (duplicate_token_score(pattern, tokens), get_duplicate_token_head_detection_pattern, again),
        (induction_score(pattern, tokens), get_induction_head_detection_pattern, again),
    ):
        assert_close(ours, by_detector(theirs, queries))
    wanted = get_previous_token_head_detection_pattern(tokens)
    wanted[1] = 0  # ours starts at query 2
    assert_close(previous_token_score(pattern), (pattern[0] * wanted).sum(dim=(1, 2)) / 10)
