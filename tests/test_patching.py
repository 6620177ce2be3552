"""Activation patching, recomputed from the pieces; and all of chapter 14 on a GPT-2 on disk."""

import json

import pytest
import torch
from pieces import randomise
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from bookkit import figures
from decoder import Config, Decoder
from decoder.block import Block
from decoder.gpt2 import load_gpt2
from decoder.interpret import capture, logit_attribution, logit_lens, patch, patching_grid

SIZES = Config(d_vocab=17, n_ctx=13, d_model=11, n_heads=5, n_layers=3, d_head=6, d_mlp=7)
TOKENS = torch.arange(18).view(2, 9) * 7 % 17
OTHER = (TOKENS + 3) % 17
close = {"rtol": 1e-10, "atol": 1e-10}
NAMES = ("resid", "attn_out", "mlp_out")


def decoder():
    return randomise(Decoder(SIZES).double())


def traced(model, tokens):
    with capture(model) as trace, torch.no_grad():
        model(tokens)
    return trace


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def by_hand(model, tokens, name, layer, position, value):
    """The forward pass written out, with one vector replaced on the way."""

    def put(here, at, x):
        if (here, at) == (name, layer):
            x = x.clone()
            x[:, position] = value
        return x

    resid = model.positions(model.W_E[tokens])
    for at, block in enumerate(model.blocks):
        resid = put("resid", at, resid)
        resid = resid + put("attn_out", at, block.attn(block.norm1(resid), model.positions))
        resid = resid + put("mlp_out", at, block.mlp(block.norm2(resid)))
    resid = put("resid", len(model.blocks), resid)
    return model.norm(resid) @ model.W_E.T


PLACES = [("resid", n) for n in range(4)] + [(name, n) for name in NAMES[1:] for n in range(3)]


@pytest.mark.parametrize("name, layer", PLACES)
@pytest.mark.parametrize("position", [0, 5, 8])
def test_a_patch_is_what_the_pass_written_out_gives(name, layer, position):
    model = decoder()
    value = getattr(traced(model, OTHER), name)[layer][:, position]
    with patch(model, name, {(layer, position): value}):
        patched = model(TOKENS)
    assert_close(patched, by_hand(model, TOKENS, name, layer, position, value), **close)
    plain = model(TOKENS)
    assert (patched - plain)[:, position:].abs().max() > 1e-3
    assert torch.equal(patched[:, :position], plain[:, :position])


def test_a_patch_of_everything_is_the_other_text():
    model = decoder()
    other = traced(model, OTHER)
    for layer in range(4):
        places = {(layer, position): other.resid[layer][:, position] for position in range(9)}
        with patch(model, "resid", places):
            assert_close(model(TOKENS), other.logits, **close)


def test_a_patch_of_what_is_there_changes_nothing():
    model = decoder()
    own = traced(model, TOKENS)
    for name, layer in PLACES:
        with patch(model, name, {(layer, 4): getattr(own, name)[layer][:, 4]}):
            assert_close(model(TOKENS), own.logits, **close)


def test_several_places_and_passes_and_a_number():
    model = decoder()
    with patch(model, "mlp_out", {(0, 2): 0, (2, 8): 1.5}), capture(model) as trace:
        first, second = model(TOKENS), model(TOKENS)
    assert torch.equal(first, second)
    assert not trace.mlp_out[0][:, 2].any() and (trace.mlp_out[2][:, 8] == 1.5).all()
    assert trace.mlp_out[0][:, 3].any()


@pytest.mark.parametrize("name, layer", PLACES)
def test_capture_reads_what_was_put_in_place_in_either_order(name, layer):
    model, value = decoder(), torch.arange(11.0).double()
    with capture(model) as outer, patch(model, name, {(layer, 3): value}), capture(model) as inner:
        model(TOKENS)
    for trace in (outer, inner):
        assert_close(getattr(trace, name)[layer][:, 3], value.expand(2, 11))


def test_a_shared_block_is_patched_in_one_layer_only():
    model = decoder()
    model.blocks = nn.ModuleList([model.blocks[0]] * 3)
    for name, layer in PLACES:
        value = getattr(traced(model, OTHER), name)[layer][:, 5]
        with patch(model, name, {(layer, 5): value}):
            expected = by_hand(model, TOKENS, name, layer, 5, value)
            assert_close(model(TOKENS), expected, **close)


def test_hooks_are_gone_afterwards_also_after_an_exception():
    model = decoder()
    plain = model(TOKENS)
    with pytest.raises(KeyError), patch(model, "resid", {(1, 1): 0}):
        assert hooks(model) > 1
        raise KeyError
    assert hooks(model) == 0 and torch.equal(model(TOKENS), plain)


def test_what_came_before_stays_as_it_was():
    model, left = decoder(), []
    model.blocks[0].register_forward_hook(lambda module, args, out: left.append(out))
    with patch(model, "resid", {(1, 3): 0}):
        model(TOKENS)
    assert left[0][:, 3].all()


class DenseOnly(Block):
    def forward(self, resid, positions=None, cache=None):
        return resid + self.mlp(self.norm2(resid))


def test_bad_input_is_named():
    model = decoder()
    with pytest.raises(ValueError, match="one of resid, attn_out, mlp_out, got 'z'"):
        patch(model, "z", {}).__enter__()
    for name, place, below in (
        ("resid", (4, 0), 4),
        ("mlp_out", (3, 0), 3),
        ("resid", (-1, 0), 4),
        ("resid", (0, -1), 4),
    ):
        with pytest.raises(
            ValueError, match=rf"layer below {below} .*got \({place[0]}, {place[1]}"
        ):
            patch(model, name, {place: 0}).__enter__()
    with (
        patch(model, "resid", {(1, 9): 0}),
        pytest.raises(ValueError, match=r"below 9, got \(1, 9"),
    ):
        model(TOKENS)
    misfit = patch(model, "resid", {(1, 2): torch.zeros(3, 11)})
    with misfit, pytest.raises(ValueError, match=r"\(2, 11\), got \(3, 11\)"):
        model(TOKENS)
    model.blocks[1] = DenseOnly(SIZES).double()
    missing = patch(model, "attn_out", {(1, 2): 0})
    with missing, pytest.raises(ValueError, match=r"attn_out at \[\(1, 2\)\].*no `attn`"):
        model(TOKENS)
    model.blocks[1] = Block(SIZES).double()
    with patch(model, "attn_out", {(1, 2): 0}):
        model(TOKENS)
        model.blocks[1].forward = lambda resid, *_: resid  # the second pass is checked too
        with pytest.raises(ValueError, match=r"attn_out at \[\(1, 2\)\]"):
            model(TOKENS)
    with pytest.raises(ValueError, match=r"source of \(2, 7\) tokens, got \(2, 9\)"):
        patching_grid(model, TOKENS[:, :7], traced(model, OTHER), torch.sum)


@pytest.mark.parametrize("name", NAMES)
def test_the_grid_is_every_patch_by_itself(name):
    model = decoder()
    other = traced(model, OTHER)

    def measure(logits):
        return logits[1, -1, 3] - logits[0, 2, 5]

    grid = patching_grid(model, TOKENS, other, measure, name)
    assert grid.shape == (3 + (name == "resid"), 9) and not grid.requires_grad
    for layer, position in ((0, 0), (2, 8), (len(grid) - 1, 4)):
        value = getattr(other, name)[layer][:, position]
        expected = measure(by_hand(model, TOKENS, name, layer, position, value))
        assert grid[layer, position].item() == pytest.approx(expected.item(), rel=1e-5)


# A GPT-2 that the reader has on disk


@pytest.fixture
def gpt2(tmp_path):
    """A small GPT-2 with random weights, as `save_pretrained` would write it."""
    sizes = dict(vocab_size=23, n_positions=13, n_embd=21, n_layer=2, n_head=3, n_inner=29)
    weights = randomise(GPT2LMHeadModel(GPT2Config(**sizes)), std=0.3).state_dict()
    weights = {name: value.contiguous().clone() for name, value in weights.items()}
    del weights["lm_head.weight"]  # tied
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}))
    return load_gpt2(tmp_path)


def test_lens_attribution_patching_and_figures_work_on_a_gpt2(gpt2):
    tokens, other = torch.randint(23, (2, 1, 11), generator=torch.Generator().manual_seed(0))
    trace, source = traced(gpt2, tokens), traced(gpt2, other)
    names, layers = [f"<{i}>" for i in tokens[0]], ["0", "1", "2"]
    p = logit_lens(gpt2, trace)[:, 0].softmax(dim=-1)  # (n_layers + 1, seq, d_vocab)
    assert_close(p[2], trace.logits[0].softmax(dim=-1))
    texts = [[f"<{i}>" for i in row] for row in p.argmax(dim=-1)]
    figures.token_grid(p.amax(dim=-1), names, layers, texts=texts, caption="c")
    figures.token_log_probs(names, p[2].log(), [f"<{i}>" for i in range(23)], caption="c")
    said = logit_attribution(gpt2, trace, tokens)
    whole = trace.logits.gather(-1, tokens[..., None])[..., 0]
    assert (sum(said.values()) - whole).abs().max() < 1e-4 * trace.logits.abs().max()
    grid = patching_grid(gpt2, tokens, source, lambda logits: logits[0, -1, 3])
    assert grid[2, 10].item() == pytest.approx(source.logits[0, -1, 3].item(), abs=1e-4)
    figures.token_grid(grid, names, layers, caption="c")
