"""Read the weights of a Hugging Face GPT-2 into a `Decoder`."""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from decoder.config import Config
from decoder.model import Decoder

# Settings in config.json under which GPT-2 is not the architecture that `Decoder` is.
REQUIRED = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
# Buffers that older files carry: the causal mask and its fill value, which are no weights.
BUFFER = re.compile(r"h\.\d+\.attn\.(masked_)?bias")


def load_gpt2(source, n_heads=None):
    """Build a `Decoder` that computes what a Hugging Face GPT-2 computes.

    Args:
        source: A state dict, a `.safetensors` file, or a model folder with `config.json`
            and one or more `.safetensors` files. Names may start with `transformer.`;
            the tied `lm_head.weight` and the mask buffers may be there or not. Weights of
            another floating-point type become float32.
        n_heads: Heads, which the weights do not tell; read from `config.json` in a folder.

    Returns:
        A `Decoder` in float32, its sizes read from the shapes of the weights.

    Raises:
        FileNotFoundError: there is no such file or folder, or it holds no weights.
        ValueError: source is none of these; a pickle or a broken file; n_heads unknown or at
            odds with config.json; a setting that changes the architecture; weights missing,
            extra, misshapen or given twice (each is named), or quantised to whole numbers;
            a head that is not tied to the embedding.

    Source: the layout of `GPT2LMHeadModel` in transformers. Used in chapters/09-decoder.
    """
    if isinstance(source, Mapping):
        weights = source
    elif isinstance(source, (str, os.PathLike)):
        weights, n_heads = _read(Path(source), n_heads)
    else:
        raise ValueError(f"expected a state dict or a path, got {type(source).__name__}")
    if n_heads is None:
        raise ValueError(
            "expected n_heads: the weights of GPT-2 do not tell how many heads share them"
        )
    weights = _cleaned(weights)
    head = weights.pop("lm_head.weight", None)
    config = _infer_config(weights, n_heads)
    _check_names_and_shapes(weights, config)
    if head is not None and not torch.equal(head, weights["wte.weight"]):
        raise ValueError("expected lm_head.weight to equal wte.weight (tied), but they differ")
    model = Decoder(config)
    with torch.no_grad():
        model.load_state_dict(_translate(weights, config))
    return model


def _read(path, n_heads):
    if not path.exists():
        raise FileNotFoundError(
            f"expected a .safetensors file or a model folder, nothing at {path}"
        )
    if path.is_file():
        return _read_file(path), n_heads
    if (path / "config.json").exists():
        n_heads = _read_n_heads(path / "config.json", n_heads)
    files = sorted(path.glob("*.safetensors"))  # a large model is cut into several
    if not files:
        pickles = sorted(path.glob("*.bin")) + sorted(path.glob("*.pt*"))
        if pickles:
            _read_file(pickles[0])  # raises, and says why
        raise FileNotFoundError(f"expected *.safetensors in {path}, found none")
    return _merged([w for file in files for w in _read_file(file).items()]), n_heads


def _read_n_heads(path, asked):
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"expected {path} to be JSON: {error}") from error
    for name, expected in REQUIRED.items():
        if settings.get(name, expected) != expected:
            raise ValueError(f"{path}: expected {name}={expected}, got {settings[name]}")
    n_heads = settings.get("n_head", asked)
    if asked not in (None, n_heads):
        raise ValueError(f"{path}: n_head is {n_heads}, asked for {asked}")
    return n_heads


def _read_file(path):
    if path.suffix != ".safetensors":
        raise ValueError(
            f"expected a .safetensors file, got {path}: the other formats are pickles, "
            "which run code of their maker's choice when they are read"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"expected {path} to be a safetensors file: {error}") from error


def _cleaned(weights):
    """Names without their prefix, floating-point tensors only, no buffers."""
    named = [(name.removeprefix("transformer."), w) for name, w in weights.items()]
    weights = _merged([(name, w) for name, w in named if not BUFFER.fullmatch(name)])
    for name, w in weights.items():
        if not isinstance(w, torch.Tensor) or not w.is_floating_point():
            came = w.dtype if isinstance(w, torch.Tensor) else type(w).__name__
            raise ValueError(f"expected {name} to be a floating-point tensor, got {came}")
    return weights


def _merged(named):
    counts = Counter(name for name, _ in named)
    twice = sorted(name for name, times in counts.items() if times > 1)
    if twice:
        raise ValueError(f"expected each weight once, but given twice: {', '.join(twice)}")
    return dict(named)


def _infer_config(weights, n_heads):
    for name in ("wte.weight", "wpe.weight", "h.0.mlp.c_fc.weight"):
        if name not in weights:
            raise ValueError(f"expected the weights of a GPT-2, but {name} is missing")
        if weights[name].ndim != 2:
            raise ValueError(f"expected {name} to have 2 dimensions, got {weights[name].ndim}")
    d_vocab, d_model = weights["wte.weight"].shape
    layers = {int(m[1]) for name in weights if (m := re.match(r"h\.(\d+)\.", name))}
    return Config(
        d_vocab=d_vocab,
        n_ctx=weights["wpe.weight"].shape[0],
        d_model=d_model,
        n_heads=n_heads,
        n_layers=max(layers) + 1,
        d_mlp=weights["h.0.mlp.c_fc.weight"].shape[1],
    )


def _expected_shapes(config):
    d, m = config.d_model, config.d_mlp
    shapes = {"wte.weight": (config.d_vocab, d), "wpe.weight": (config.n_ctx, d)}
    norms = ["ln_f"] + [f"h.{i}.ln_{j}" for i in range(config.n_layers) for j in (1, 2)]
    shapes |= {f"{norm}.{part}": (d,) for norm in norms for part in ("weight", "bias")}
    for i in range(config.n_layers):
        for name, d_in, d_out in (
            ("attn.c_attn", d, 3 * d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", d, m),
            ("mlp.c_proj", m, d),
        ):
            shapes[f"h.{i}.{name}.weight"] = (d_in, d_out)
            shapes[f"h.{i}.{name}.bias"] = (d_out,)
    return shapes


def _check_names_and_shapes(weights, config):
    expected = _expected_shapes(config)
    missing, extra = sorted(expected.keys() - weights), sorted(weights.keys() - expected)
    misshapen = [
        f"{name}: expected {expected[name]}, got {tuple(weights[name].shape)}"
        for name in sorted(expected.keys() & weights)
        if tuple(weights[name].shape) != expected[name]
    ]
    named = {"missing": missing, "extra": extra, "misshapen": misshapen}
    wrong = [f"{kind}: {', '.join(names)}" for kind, names in named.items() if names]
    if wrong:
        raise ValueError("expected the weights of a GPT-2; " + "; ".join(wrong))


def _translate(weights, config):
    """GPT-2's names to ours. Its linear layers are (d_in, d_out), as ours are: no transposes."""
    ours = {"W_E": weights["wte.weight"], "positions.W_pos": weights["wpe.weight"]}
    norms = {"norm": "ln_f"}
    for i in range(config.n_layers):
        here, there = f"blocks.{i}", f"h.{i}"
        norms |= {f"{here}.norm1": f"{there}.ln_1", f"{here}.norm2": f"{there}.ln_2"}
        # One matrix holds the three projections side by side.
        for kind, w, b in zip(
            "QKV",
            weights[f"{there}.attn.c_attn.weight"].chunk(3, dim=1),
            weights[f"{there}.attn.c_attn.bias"].chunk(3),
            strict=True,
        ):
            ours |= {f"{here}.attn.W_{kind}": w, f"{here}.attn.b_{kind}": b}
        for name, linear in (
            ("attn.{}_O", "attn.c_proj"),
            ("mlp.{}_in", "mlp.c_fc"),
            ("mlp.{}_out", "mlp.c_proj"),
        ):
            ours[f"{here}.{name.format('W')}"] = weights[f"{there}.{linear}.weight"]
            ours[f"{here}.{name.format('b')}"] = weights[f"{there}.{linear}.bias"]
    for norm, ln in norms.items():
        ours |= {f"{norm}.w": weights[f"{ln}.weight"], f"{norm}.b": weights[f"{ln}.bias"]}
    return ours
