"""What `src/decoder` may lean on: torch, the standard library, a few small libraries."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import decoder

SOURCE = Path(decoder.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
NAMES = [file.relative_to(SOURCE).as_posix() for file in FILES]
SMALL_LIBRARIES = {"tqdm", "safetensors", "platformdirs"}
ALLOWED = {"torch", "decoder"} | SMALL_LIBRARIES | set(sys.stdlib_module_names)
# What the book builds itself. The one place for fused kernels is efficient.py.
NOT_FROM_SCRATCH = re.compile(
    r"Linear|Bilinear|Embedding(Bag)?|(Layer|RMS|Group)Norm|MultiheadAttention|Transformer\w*|"
    r"(LSTM|RNN|GRU)(Cell|Base|CellBase)?|linear|embedding|(layer|rms|group)_norm|"
    r"scaled_dot_product_attention|multi_head_attention_forward|flex_attention"
)
EXEMPT = {"efficient.py"}


def imported(tree):
    """Full names of what a module imports, at any depth of its code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a thing comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ready_made(tree):
    """Uses of torch's own layers: nn.X, torch.nn.X, F.x, or X imported from torch.nn."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and NOT_FROM_SCRATCH.fullmatch(node.attr):
            owner = ast.unparse(node.value)
            if owner in ("nn", "F", "functional") or owner.startswith("torch"):
                yield f"{owner}.{node.attr}"
    for name in imported(tree):
        if name.startswith("torch.") and NOT_FROM_SCRATCH.fullmatch(name.split(".")[-1]):
            yield name


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_imports_only_what_is_allowed(file):
    packages = {name.split(".")[0] for name in imported(ast.parse(file.read_text("utf-8")))}
    assert packages <= ALLOWED


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_is_from_scratch(file):
    if file.name not in EXEMPT:
        assert list(ready_made(ast.parse(file.read_text("utf-8")))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import torch; torch.nn.Linear(2, 3)",
        "from torch import nn\nclass A(nn.TransformerEncoder): pass",
        "from torch.nn import LSTM",
        "import torch.nn.functional as F\nF.scaled_dot_product_attention(1, 2, 3)",
        "from torch.nn.functional import layer_norm",
        "def f():\n    from torch import nn\n    return nn.Embedding",
    ],
)
def test_would_see_a_ready_made_layer(code):
    assert list(ready_made(ast.parse(code)))


def test_would_not_mistake_our_own():
    code = "from torch import nn\nfrom decoder.norm import LayerNorm\nLayerNorm(3)\nnn.Module"
    assert list(ready_made(ast.parse(code))) == []


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_fits_on_a_few_screens(file):
    lines = file.read_text("utf-8").count("\n")
    assert lines <= 220, f"{file.name} has {lines} lines; about 200 is the most"


# A fresh interpreter, in which any use of the network is an error.
IMPORT_ALL = """
import importlib, json, sys
import torch

used = []
sys.addaudithook(lambda event, args: used.append(event) if event.startswith("socket.") else None)
torchs = set(sys.modules)
import decoder
first = sorted(set(sys.modules) - torchs)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps({"first": first, "all": sorted(set(sys.modules) - torchs), "network": used}))
"""


@pytest.fixture(scope="module")
def fresh():
    modules = []
    for name in NAMES:
        parts = ["decoder", *name.removesuffix(".py").split("/")]
        modules.append(".".join(part for part in parts if part != "__init__"))
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *[m for m in modules if not m.endswith("__main__")]],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_importing_takes_no_network(fresh):
    assert fresh["network"] == []


def test_importing_decoder_takes_no_more_than_torch(fresh):
    assert "decoder.model" in fresh["first"]
    beyond = [name for name in fresh["first"] if not name.startswith("decoder")]
    assert beyond == []


def test_importing_every_module_takes_only_small_libraries(fresh):
    packages = {name.split(".")[0] for name in fresh["all"]}
    assert "decoder" in packages
    # A leading underscore: the compiled parts of these libraries.
    foreign = packages - ALLOWED - {f"_{name}" for name in SMALL_LIBRARIES}
    assert foreign == set()


def test_importing_has_no_side_effect_on_torch():
    code = "import torch\nbefore = torch.random.initial_seed(), torch.get_num_threads(), "
    code += "torch.get_default_dtype()\nimport decoder, decoder.gpt2\nassert before == "
    code += "(torch.random.initial_seed(), torch.get_num_threads(), torch.get_default_dtype())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
