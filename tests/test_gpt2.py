"""Reading GPT-2: the decoder with its weights against `transformers`."""

import json
import pickle
import re
from collections import OrderedDict, UserDict

import pytest
import torch
import torch.nn.functional as F
from pieces import count, randomise
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from decoder.gpt2 import load_gpt2

# (d_vocab, n_ctx, d_model, n_heads, n_layers, d_mlp or None)
CONFIGURATIONS = [
    (19, 11, 15, 5, 2, None),
    (31, 13, 14, 7, 3, 29),
    (23, 17, 33, 3, 1, 5),
    (7, 5, 22, 11, 5, 13),
    (101, 29, 13, 13, 2, 37),
    (53, 37, 17, 1, 4, None),
]


def hugging_face(sizes=CONFIGURATIONS[1], seed=0, **settings):
    """A GPT-2 of `transformers` with every weight random, biases and norms too."""
    d_vocab, n_ctx, d_model, n_heads, n_layers, d_mlp = sizes
    config = GPT2Config(
        vocab_size=d_vocab,
        n_positions=n_ctx,
        n_embd=d_model,
        n_head=n_heads,
        n_layer=n_layers,
        n_inner=d_mlp,
        bos_token_id=0,
        eos_token_id=0,
        **settings,
    )
    model = GPT2LMHeadModel(config).eval()
    randomise(model, std=0.3, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if re.search(r"ln_.*weight", name):  # around 1, or all would be noise
                p.copy_(1 + 0.3 * torch.randn(p.shape, generator=generator))
    return model


def tokens_for(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(sizes[0], (3, sizes[1]), generator=generator)


@pytest.fixture(scope="module")
def theirs():
    return hugging_face()


@pytest.fixture(scope="module")
def weights(theirs):
    return theirs.state_dict()


def check_same(ours, theirs, seed=0):
    tokens = tokens_for((theirs.config.vocab_size, theirs.config.n_positions), seed)
    with torch.no_grad():
        assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", CONFIGURATIONS, ids=str)
def test_logits_loss_and_every_gradient_equal_transformers(sizes):
    theirs = hugging_face(sizes)
    ours, tokens = load_gpt2(theirs.state_dict(), n_heads=sizes[3]), tokens_for(sizes)
    expected, logits = theirs(tokens, labels=tokens), ours(tokens)
    assert_close(logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert logits.std() > 0.5  # weights so small that nothing happens would prove nothing

    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert_close(loss, expected.loss, rtol=1e-4, atol=1e-4)
    loss.backward()
    expected.loss.backward()
    seen = set()
    for name, gradient in gradients_in_our_names(theirs):
        seen.add(name)
        assert_close(ours.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-4, msg=name)
        if not name.endswith("b_K"):  # which changes nothing, so that its gradient is noise
            assert gradient.abs().max() > 1e-4, name
    assert seen == {name for name, _ in ours.named_parameters()}


def gradients_in_our_names(theirs):
    names = {"wte.weight": "W_E", "wpe.weight": "positions.W_pos"}
    names |= {"ln_f.weight": "norm.w", "ln_f.bias": "norm.b"}
    for name, p in theirs.transformer.named_parameters():
        if name in names:
            yield names[name], p.grad
            continue
        _, layer, *rest, kind = name.split(".")
        which, block = "W" if kind == "weight" else "b", f"blocks.{layer}"
        if rest[0].startswith("ln_"):
            yield f"{block}.norm{rest[0][-1]}.{'w' if kind == 'weight' else 'b'}", p.grad
        elif rest == ["attn", "c_attn"]:
            for part, gradient in zip("QKV", p.grad.chunk(3, dim=-1), strict=True):
                yield f"{block}.attn.{which}_{part}", gradient
        elif rest == ["attn", "c_proj"]:
            yield f"{block}.attn.{which}_O", p.grad
        else:
            yield f"{block}.mlp.{which}_{'in' if rest[1] == 'c_fc' else 'out'}", p.grad


def test_sizes_are_read_from_the_weights(weights):
    config = load_gpt2(weights, n_heads=7).config
    assert config.to_dict() == dict(
        d_vocab=31, n_ctx=13, d_model=14, n_heads=7, n_layers=3, d_head=2, d_mlp=29
    )


def test_as_many_parameters(theirs, weights):
    assert count(load_gpt2(weights, n_heads=7)) == count(theirs)


# Every form in which the weights come.


def old_buffers(weights):
    """As files written years ago have them."""
    mask = torch.ones(13, 13).tril().bool().view(1, 1, 13, 13)
    buffers = {}
    for i in range(3):
        buffers[f"transformer.h.{i}.attn.bias"] = mask.clone()
        buffers[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    return weights | buffers


def bare(weights):
    return {name.removeprefix("transformer."): w for name, w in weights.items()}


def headless(weights):
    return {name: w for name, w in weights.items() if name != "lm_head.weight"}


@pytest.mark.parametrize("prefix", [dict, bare])
@pytest.mark.parametrize("head", [dict, headless])
@pytest.mark.parametrize("buffers", [dict, old_buffers])
@pytest.mark.parametrize("form", ["state dict", "file", "folder"])
def test_reads_every_form(theirs, weights, prefix, head, buffers, form, tmp_path):
    source = prefix(head(buffers(dict(weights))))
    if form != "state dict":
        contiguous = {name: w.clone().contiguous() for name, w in source.items()}
        save_file(contiguous, tmp_path / "model.safetensors")
        source = tmp_path / "model.safetensors" if form == "file" else tmp_path
    check_same(load_gpt2(source, n_heads=7), theirs)


def test_reads_what_transformers_saves(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    for source in (tmp_path, str(tmp_path)):
        check_same(load_gpt2(source), theirs)
    check_same(load_gpt2(tmp_path, n_heads=7), theirs)
    check_same(load_gpt2(str(tmp_path / "model.safetensors"), n_heads=7), theirs)


def test_reads_a_folder_in_several_files(theirs, tmp_path):
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    check_same(load_gpt2(tmp_path), theirs)


def test_reads_the_model_without_its_head(theirs, tmp_path):
    theirs.transformer.save_pretrained(tmp_path)
    check_same(load_gpt2(tmp_path), theirs)
    check_same(load_gpt2(GPT2Model.from_pretrained(tmp_path).state_dict(), n_heads=7), theirs)


@pytest.mark.parametrize("mapping", [OrderedDict, UserDict])
def test_reads_any_mapping(theirs, weights, mapping):
    check_same(load_gpt2(mapping(weights), n_heads=7), theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_become_float32(theirs, weights, dtype):
    ours = load_gpt2({name: w.to(dtype) for name, w in weights.items()}, n_heads=7)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert_close(ours.W_E.detach(), theirs.transformer.wte.weight.to(dtype).float())


def test_the_head_may_be_of_another_type_than_the_embedding(theirs, weights):
    half = weights["transformer.wte.weight"].half()
    mixed = weights | {"transformer.wte.weight": half, "lm_head.weight": half.float()}
    assert_close(load_gpt2(mixed, n_heads=7).W_E.detach(), half.float())


def test_the_source_is_copied_not_shared(theirs, weights):
    before = {name: w.clone() for name, w in weights.items()}
    ours = load_gpt2(weights, n_heads=7)
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(1)
    assert all(torch.equal(weights[name], before[name]) for name in before)


# What is refused.


def without(*names):
    return lambda w: {name: value for name, value in w.items() if name not in names}


def with_(**changes):
    return lambda w: w | {name.replace("__", "."): value for name, value in changes.items()}


def middle_layer_gone(w):
    return {name: value for name, value in w.items() if not name.startswith("h.1.")}


@pytest.mark.parametrize(
    "change, messages",
    [
        (without("ln_f.bias"), ["missing: ln_f.bias"]),
        (without("wte.weight"), ["wte.weight is missing"]),
        (without("wpe.weight"), ["wpe.weight is missing"]),
        (without("h.0.mlp.c_fc.weight"), ["h.0.mlp.c_fc.weight is missing"]),
        (
            without("h.2.attn.c_attn.bias", "h.1.ln_2.weight"),
            ["missing: h.1.ln_2.weight, h.2.attn.c_attn.bias"],
        ),
        (
            middle_layer_gone,
            ["h.1.ln_1.weight", "h.1.attn.c_attn.bias", "h.1.mlp.c_proj.weight"],
        ),
        (with_(h__1__attn__rotary=torch.zeros(3)), ["extra: h.1.attn.rotary"]),
        (with_(score__weight=torch.zeros(3)), ["extra: score.weight"]),
        (
            with_(h__1__attn__c_proj__weight=torch.zeros(14, 15)),
            ["misshapen: h.1.attn.c_proj.weight: expected (14, 14), got (14, 15)"],
        ),
        (
            with_(h__0__mlp__c_proj__weight=torch.zeros(14, 29)),  # transposed
            ["misshapen: h.0.mlp.c_proj.weight: expected (29, 14), got (14, 29)"],
        ),
        (with_(ln_f__weight=torch.zeros(())), ["ln_f.weight: expected (14,), got ()"]),
        (with_(wte__weight=torch.zeros(31)), ["wte.weight to have 2 dimensions, got 1"]),
        (with_(wpe__weight=torch.zeros(3, 1, 14)), ["wpe.weight to have 2 dimensions, got 3"]),
        (
            lambda w: with_(h__1__extra=torch.zeros(3), ln_f__bias=torch.zeros(3))(
                without("h.0.ln_1.bias")(w)
            ),
            [
                "missing: h.0.ln_1.bias; extra: h.1.extra; "
                "misshapen: ln_f.bias: expected (14,), got (3,)"
            ],
        ),
        (lambda w: {}, ["wte.weight is missing"]),
        (
            lambda w: w | {"transformer.wpe.weight": w["wpe.weight"]},
            ["each weight once, but given twice: wpe.weight"],
        ),
        (
            lambda w: w | {"lm_head.weight": w["wte.weight"] + 1e-3},
            ["lm_head.weight to equal wte.weight (tied), but they differ"],
        ),
        (with_(lm_head__weight=torch.zeros(31, 15)), ["lm_head.weight to equal wte.weight"]),
        (
            with_(h__0__attn__c_attn__weight=torch.zeros(14, 42, dtype=torch.int8)),
            ["h.0.attn.c_attn.weight to be a floating-point tensor, got torch.int8"],
        ),
        (with_(ln_f__bias=[0.0] * 14), ["ln_f.bias to be a floating-point tensor, got list"]),
    ],
)
def test_names_the_weights_that_are_wrong(weights, change, messages):
    with pytest.raises(ValueError) as error:
        load_gpt2(change(headless(bare(weights))), n_heads=7)
    assert str(error.value).startswith("expected ")
    for message in messages:
        assert message in str(error.value)
    if change is middle_layer_gone:  # the last layer is no more than it should be
        assert "extra" not in str(error.value)


def test_names_no_weight_that_is_right(weights):
    with pytest.raises(ValueError) as error:
        load_gpt2(without("transformer.ln_f.bias")(weights), n_heads=7)
    assert str(error.value) == "expected the weights of a GPT-2; missing: ln_f.bias"


@pytest.mark.parametrize(
    "source, n_heads, message",
    [
        ("weights", None, "expected n_heads: the weights of GPT-2 do not tell"),
        ("weights", 5, "d_model=14, n_heads=5"),
        ("weights", 0, "expected n_heads to be a positive whole number, got 0"),
        (None, 7, "expected a state dict or a path, got NoneType"),
        (7, 7, "expected a state dict or a path, got int"),
    ],
)
def test_names_what_is_wrong(weights, source, n_heads, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_gpt2(weights if source == "weights" else source, n_heads)


def edited(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return path


@pytest.mark.parametrize(
    "setting, value",
    [
        ("activation_function", "relu"),
        ("activation_function", "gelu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("model_type", "gptj"),
    ],
)
def test_refuses_settings_that_change_the_architecture(theirs, tmp_path, setting, value):
    theirs.save_pretrained(tmp_path)
    path = edited(tmp_path, **{setting: value})
    with pytest.raises(ValueError) as error:
        load_gpt2(tmp_path)
    message = str(error.value)
    assert str(path) in message and message.endswith(f"got {value}")
    assert f"expected {setting}=" in message


def test_heads_at_odds_with_the_configuration(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="config.json: n_head is 7, asked for 2"):
        load_gpt2(tmp_path, n_heads=2)


def test_heads_that_no_one_tells(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    del settings["n_head"]
    path.write_text(json.dumps(settings))
    for source in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(ValueError, match="expected n_heads"):
            load_gpt2(source)
        check_same(load_gpt2(source, n_heads=7), theirs)
    path.unlink()
    with pytest.raises(ValueError, match="expected n_heads"):
        load_gpt2(tmp_path)
    check_same(load_gpt2(tmp_path, n_heads=7), theirs)


def test_a_configuration_that_is_no_json(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"expected .*config\.json to be JSON: "):
        load_gpt2(tmp_path)


class Bomb:
    """A pickle that does something when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.pkl"])
def test_pickles_are_refused_unread(tmp_path, name):
    went_off = tmp_path / "went off"
    file = tmp_path / name
    file.write_bytes(pickle.dumps(Bomb(went_off)))
    for source in [file, tmp_path] if name != "model.pkl" else [file]:
        with pytest.raises(ValueError) as error:
            load_gpt2(source, n_heads=7)
        message = str(error.value)
        assert "expected a .safetensors file" in message and name in message
        assert "pickles, which run code of their maker's choice" in message
    assert not went_off.exists()
    pickle.loads(file.read_bytes()).close()
    assert went_off.exists()  # it is a bomb indeed


def test_a_pickle_beside_a_safetensors_file_is_ignored(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "went off")))
    check_same(load_gpt2(tmp_path), theirs)
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 64])
def test_a_file_that_is_no_safetensors(tmp_path, content):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    for source in (file, tmp_path):
        with pytest.raises(ValueError, match=r"expected .*model\.safetensors to be a safetensors"):
            load_gpt2(source, n_heads=7)


def test_a_file_that_is_cut_short(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"expected .*model\.safetensors to be a safetensors"):
        load_gpt2(tmp_path)


def test_one_of_several_files_gone(theirs, tmp_path):
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    sorted(tmp_path.glob("*.safetensors"))[-1].unlink()
    with pytest.raises(ValueError, match="missing"):
        load_gpt2(tmp_path)


def test_two_files_with_the_same_weights(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    (tmp_path / "old.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"given twice: transformer\.h\.0\.attn\.c_attn\.bias"):
        load_gpt2(tmp_path)


def test_no_such_file_or_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing at .*absent"):
        load_gpt2(tmp_path / "absent", n_heads=7)
    with pytest.raises(FileNotFoundError, match=r"expected \*\.safetensors in "):
        load_gpt2(tmp_path, n_heads=7)
