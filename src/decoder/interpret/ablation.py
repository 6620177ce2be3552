"""Ablation: what would the model say if a head said something else?"""

from contextlib import contextmanager

import torch

from decoder.interpret.trace import pieces_at
from decoder.interpret.walk import walk


@contextmanager
def ablate_heads(model, replacements):
    """Let heads say something else than they would: nothing, their mean, anything.

        with ablate_heads(model, {(layer, head): 0}):                              # zero
            logits = model(tokens)
        with ablate_heads(model, {(layer, head): mean_z(trace)[layer, head]}):     # mean
            logits = model(tokens)

    Args:
        model: A `Decoder`.
        replacements: What stands in for the z of each (layer, head): a number or a tensor
            that broadcasts to (batch, seq, d_head). The patterns stay as they are.

    `capture` reads the replaced z, in whichever order the two are entered. The hooks are gone
    after the `with`, also when it is left by an exception.

    Raises:
        ValueError: no such layer or head; in the forward pass, a replacement that does not
            fit, or a layer to ablate that calls no `attn.attend`.

    Built in chapters/13-heads.
    """
    for layer, head in replacements:
        n_layers, n_heads = len(model.blocks), model.config.n_heads
        if not (0 <= layer < n_layers and 0 <= head < n_heads):
            raise ValueError(
                f"expected layer below {n_layers} and head below {n_heads}, got {(layer, head)}"
            )

    def replace(module, args, out):
        z, pattern = out
        z = z.clone()
        for (layer, head), value in replacements.items():
            if layer == at.layer:
                z[:, head] = fitted(value, z[:, head])
                at.done.add((layer, head))
        return z, pattern

    with walk(model, replacements.keys(), "replace heads", "z") as at:
        for attend in pieces_at(model, "attn", "attend"):
            at.after(attend, replace)
        yield


def mean_z(trace):
    """What each head says on average over a batch and its positions.

    Args:
        trace: Of a forward pass over sequences like those that will be ablated.

    Returns:
        (n_layers, n_heads, d_head); [layer, head] is what mean ablation puts in place.
    """
    return torch.stack([z.mean(dim=(0, 2)) for z in trace.z])


def fitted(value, z):
    """A number or a tensor as a tensor of z's shape, type and device, or a ValueError."""
    value = torch.as_tensor(value, dtype=z.dtype, device=z.device)
    try:
        return value.expand(z.shape)
    except RuntimeError:
        raise ValueError(
            f"expected a replacement that broadcasts to {tuple(z.shape)}, got {tuple(value.shape)}"
        ) from None
