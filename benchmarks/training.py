"""A step of training at equal architecture: forward, backward and optimiser, nothing else."""

import os
from copy import deepcopy

import torch
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.measure import alternate, ratios, row
from decoder import Config, Decoder
from decoder.efficient import fuse
from decoder.loss import cross_entropy
from decoder.train import Recipe, adamw

D_VOCAB = 65  # the characters of tiny Shakespeare
# layers, width, heads, context, sequences in a batch, steps in a turn
SIZES = [(4, 128, 4, 64, 12, 20), (4, 128, 4, 256, 12, 8), (6, 384, 6, 256, 8, 2)]
QUICK = [(2, 32, 2, 16, 4, 2)]
SAME_LOSS = 1e-4
# nanoGPT's GELU is another formula: at the weights of a fresh decoder the loss is close, not equal.
NEAR_LOSS = 1e-3
PLAIN, FUSED = "this project, plain pieces", "this project, fused kernels"


def run(rounds=5, quick=False):
    """Returns rows, (each peer ÷ this project with fused kernels), and no details."""
    rows = []
    for sizes in QUICK if quick else SIZES:
        rows += _one_size(*sizes, rounds)
    return rows, {}


def _one_size(n_layers, d_model, n_heads, n_ctx, batch, turns, rounds):
    torch.manual_seed(0)
    model = Decoder(Config(D_VOCAB, n_ctx, d_model, n_heads, n_layers))
    inputs = torch.randint(D_VOCAB, (batch, n_ctx))
    targets = torch.randint(D_VOCAB, (batch, n_ctx))
    models = contestants(model)
    check_same(models, model, inputs, targets)
    steps = {name: stepper(each, loss, inputs, targets) for name, (each, loss, _) in models.items()}
    seconds = alternate(steps, rounds, turns)
    work = f"{n_layers} × {d_model}, context {n_ctx}, batch {batch}"
    ours = seconds.pop(FUSED)
    rows = [row(work, f"{PLAIN} ÷ fused", ratios(seconds.pop(PLAIN), ours))]
    for name, theirs in seconds.items():
        asked = 1.2 if name.startswith("transformers") else 1.0
        rows.append(row(work, f"{name} ÷ this", ratios(theirs, ours), asked))
    best = [min(times) for times in zip(*seconds.values(), strict=True)]
    return [*rows, row(work, "best peer ÷ this", ratios(best, ours), 1.0)]


def contestants(model, folder=None):
    """The same decoder by all hands.

    Args:
        model: `Decoder`, fresh; all others get copies of its weights.
        folder: nanoGPT's, or None to ask the environment variable NANOGPT; without, it is left out.

    Returns:
        name -> (module, a function (tokens, targets) -> loss, how far its loss may be from ours).
    """

    def ours(copy):
        return copy, lambda tokens, targets: cross_entropy(copy(tokens), targets), SAME_LOSS

    def theirs(module, near=SAME_LOSS):
        return module, lambda tokens, targets: _loss(module.logits(tokens), targets), near

    built = {
        FUSED: ours(fuse(deepcopy(model))),
        PLAIN: ours(deepcopy(model)),
        "transformers, eager": theirs(peers.transformers_gpt2(model, "eager")),
        "transformers, sdpa": theirs(peers.transformers_gpt2(model, "sdpa")),
        "x-transformers": theirs(peers.x_transformers(model)),
        "torch.nn.TransformerEncoder": theirs(peers.TorchEncoder(model)),
    }
    folder = folder or os.environ.get("NANOGPT")
    if folder:
        built["nanoGPT"] = theirs(peers.nanogpt(model, folder), NEAR_LOSS)
    return built


def check_same(models, model, inputs, targets):
    """Refuse to compare what is not the same.

    Raises:
        Incomparable: a module has other parameters than `model`, or another loss on the batch.
    """
    expected = cross_entropy(model(inputs), targets).item()
    for name, (module, loss, near) in models.items():
        size = peers.count(model) - (peers.absent_biases(model) if name == "x-transformers" else 0)
        if peers.count(module) != size:
            raise peers.Incomparable(
                f"{name}: expected {size:,} parameters, got {peers.count(module):,}"
            )
        came = loss(inputs, targets).item()
        if not abs(came - expected) <= near:
            raise peers.Incomparable(f"{name}: expected a loss of {expected:.5f}, got {came:.5f}")


def stepper(module, loss, inputs, targets):
    """A step of training as a function: the same optimiser for all, fused where torch fuses it."""
    optimizer = adamw(module.train(), Recipe(steps=1))

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss(inputs, targets).backward()
        optimizer.step()

    return step


def _loss(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
