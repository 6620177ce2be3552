"""Activation patching: which place holds what makes the difference between two texts?"""

from contextlib import contextmanager

import torch

from decoder.interpret.ablation import fitted
from decoder.interpret.trace import distinct, pieces_at
from decoder.interpret.walk import walk

PATCHED = ("resid", "attn_out", "mlp_out")


@contextmanager
def patch(model, name, replacements):
    """Put other vectors at single places of a forward pass, and let it go on from there.

        with capture(model) as other:
            model(other_tokens)
        with patch(model, "resid", {(layer, position): other.resid[layer][:, position]}):
            logits = model(tokens)

    Args:
        model: A `Decoder`.
        name: What is replaced, as `capture` names it: `resid` (what enters block `layer`;
            layer n_layers is what leaves the last block), `attn_out` or `mlp_out`.
        replacements: What stands at each (layer, position): a number or a tensor that
            broadcasts to (batch, d_model). Everything after it is computed from it.

    `capture` reads what was put in place, in whichever order the two are entered. The hooks are
    gone after the `with`, also when it is left by an exception.

    Raises:
        ValueError: no such name or layer, or a position below 0; in the forward pass, a position
            that the tokens do not have, a replacement that does not fit, or a layer that has
            no such piece.

    Source: Meng et al. 2022, section 2.1 (causal tracing). Built in chapters/14-residual.
    """
    _check(model, name, replacements)

    def put(layer, x):
        places = [place for place in replacements if place[0] == layer]
        x = x.clone() if places else x
        for place in places:
            if place[1] >= x.shape[1]:
                raise ValueError(f"expected a position below {x.shape[1]}, got {place}")
            x[:, place[1]] = fitted(replacements[place], x[:, place[1]])
            at.done.add(place)
        return x

    def enter(module, args):
        return (put(at.layer + 1, args[0]), *args[1:])  # it is not counted yet

    def leave(module, args, out):
        # What leaves any other block is replaced where it enters the next.
        return put(at.layer + 1, out) if at.layer == len(model.blocks) - 1 else None

    def write(module, args, out):
        return put(at.layer, out)

    with walk(model, replacements.keys(), f"patch {name} at", name) as at:
        if name == "resid":
            for block in distinct(model.blocks):
                at.before(block, enter)
                at.after(block, leave)
        else:
            for piece in pieces_at(model, name.removesuffix("_out")):
                at.after(piece, write)
        yield


@torch.no_grad()
def patching_grid(model, tokens, source, measure, name="resid"):
    """Patch every place by itself, and measure what each patch does to the logits.

    Args:
        model: A `Decoder`.
        tokens: Ids, (batch, seq), int64: the text that is patched.
        source: A `Trace` of another text of the same shape, which the vectors are taken from.
        measure: A function from logits, (batch, seq, d_vocab), to a number.
        name: As in `patch`.

    Returns:
        (n_layers, seq), or (n_layers + 1, seq) for `resid`: what `measure` says with
        source's vector in place at (layer, position), and nowhere else.

    Raises:
        ValueError: as `patch`; source and tokens differ in shape.

    Source: Wang et al. 2022, section 3.1; Heimersheim and Nanda 2024. Built in
    chapters/14-residual.
    """
    _check(model, name, ())
    values = list(getattr(source, name))
    for value in values:
        if value.shape[:2] != tokens.shape:
            raise ValueError(
                f"expected a source of {tuple(tokens.shape)} tokens, got {tuple(value.shape[:2])}"
            )
    grid = torch.empty(len(values), tokens.shape[1])
    for layer, value in enumerate(values):
        for position in range(tokens.shape[1]):
            with patch(model, name, {(layer, position): value[:, position]}):
                grid[layer, position] = float(measure(model(tokens)))
    return grid


def _check(model, name, replacements):
    if name not in PATCHED:
        raise ValueError(f"expected one of {', '.join(PATCHED)}, got {name!r}")
    n_layers = len(model.blocks) + (name == "resid")
    for layer, position in replacements:
        if not (0 <= layer < n_layers and position >= 0):
            raise ValueError(
                f"expected layer below {n_layers} and a position from 0 on, got {(layer, position)}"
            )
