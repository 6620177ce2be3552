"""What is in the residual stream: the logit lens, and which piece wrote which logit."""

import torch
from torch import nn


@torch.no_grad()
def logit_lens(model, trace):
    """Read every layer's residual stream as if it were the last.

    Args:
        model: A `Decoder`.
        trace: What `capture` read of it.

    Returns:
        (n_layers + 1, batch, seq, d_vocab), logits without gradients: [layer] from what enters
        block `layer`; the last equals the model's own.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens". Built in chapters/14-residual.
    """
    return torch.stack([model.unembed(model.norm(resid), model.W_E) for resid in trace.resid])


@torch.no_grad()
def contributions(model, trace):
    """Take the last residual stream apart into what each piece added to it.

    Args:
        model: A `Decoder` whose blocks add to the stream (no skip taken out, no norm on it).
        trace: What `capture` read of it.

    Returns:
        A dict of (batch, seq, d_model) tensors that sum to trace.resid[-1]: `embed`,
        `positions`, and for each layer `L0.H1` (a head: its z through its rows of W_O),
        `L0.b_O` and `L0.mlp` (the dense layers, b_out included).

    Raises:
        ValueError: they do not sum to it.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
    Built in chapters/14-residual.
    """
    parts = {"embed": trace.embed, "positions": trace.positions}
    for layer, block in enumerate(model.blocks):
        if trace.z.has(layer):
            W_O = block.attn.W_O.unflatten(
                0, (block.attn.n_heads, -1)
            )  # (n_heads, d_head, d_model)
            heads = trace.z[layer] @ W_O  # (batch, n_heads, seq, d_model)
            for head, written in enumerate(heads.unbind(dim=1)):
                parts[f"L{layer}.H{head}"] = written
            parts[f"L{layer}.b_O"] = block.attn.b_O.detach().expand_as(trace.embed)
        if trace.mlp_out.has(layer):
            parts[f"L{layer}.mlp"] = trace.mlp_out[layer]
    _check_sum(parts, trace.resid[-1], "the residual stream")
    return parts


@torch.no_grad()
def direct_logits(model, trace, part):
    """What a part of the last residual stream says to the logits, with nobody in between.

    The final norm divides by a scale that depends on the whole stream; here the scale is held
    at what it was. The rest is linear, so parts that sum to the stream have logits that sum to
    the model's, less those of the biases of norm and unembedding (`constant_logits`).

    Args:
        model: A `Decoder` whose norm has a method `linear`, as those in `norm.py` do, or is
            `nn.Identity`.
        trace: What `capture` read of it.
        part: (batch, seq, d_model); see `contributions`.

    Returns:
        (batch, seq, d_vocab), in the units of logits.

    Raises:
        ValueError: the norm has no `linear`, or part has another shape than the stream.

    Source: Elhage et al. 2021, "Logit attribution"; built in chapters/14-residual.
    """
    resid = trace.resid[-1]
    if part.shape != resid.shape:
        raise ValueError(f"expected a part of {tuple(resid.shape)}, got {tuple(part.shape)}")
    share = part if isinstance(model.norm, nn.Identity) else _linear(model.norm)(part, at=resid)
    nothing = torch.zeros_like(resid[0, 0])  # gives the unembedding's bias, if it has one
    return model.unembed(share, model.W_E) - model.unembed(nothing, model.W_E)


@torch.no_grad()
def constant_logits(model, trace):
    """What the final norm's and the unembedding's biases say, whatever the tokens: (d_vocab,)."""
    nothing = torch.zeros_like(trace.resid[-1][0, 0])
    return model.unembed(model.norm(nothing), model.W_E)


def logit_attribution(model, trace, targets):
    """Take the logit of one token at each position apart: what each piece said for or against it.

    Args:
        model: A `Decoder`, as in `contributions` and `direct_logits`.
        trace: What `capture` read of it.
        targets: Ids, (batch, seq), int64; at each position the token whose logit is asked for.

    Returns:
        A dict of (batch, seq) tensors that sum to the logits of the targets: the names of
        `contributions`, and `constant`, the biases of the final norm and the unembedding.
        A constant added to all logits changes no probability: to compare pieces, subtract the
        attribution of another target.

    Raises:
        ValueError: targets of another shape, or the parts do not sum to the logits, because
            a substituted block, norm or unembedding is not the sum or product assumed here.

    Source: Elhage et al. 2021, "Logit attribution". Built in chapters/14-residual.
    """
    logits = trace.logits
    if targets.shape != logits.shape[:2]:
        raise ValueError(
            f"expected targets of {tuple(logits.shape[:2])}, got {tuple(targets.shape)}"
        )

    def of_targets(logits):
        return logits.gather(-1, targets[..., None])[..., 0]  # (batch, seq)

    said = {
        # One part at a time: all at once would be n_parts times the size of the logits.
        name: of_targets(direct_logits(model, trace, part))
        for name, part in contributions(model, trace).items()
    }
    said["constant"] = of_targets(constant_logits(model, trace).expand_as(logits))
    _check_sum(said, of_targets(logits), "the logits")
    return said


def _linear(norm):
    if not hasattr(norm, "linear"):
        raise ValueError(f"expected a norm with a method `linear`, got {type(norm).__name__}")
    return norm.linear


def _check_sum(parts, whole, name):
    off, size = (sum(parts.values()) - whole).abs().max(), whole.abs().max()
    if not off <= 1e-4 * size:  # rounding alone stays far below that
        raise ValueError(
            f"expected the parts to sum to {name}, of size {float(size):.2g}, but they are off by "
            f"{float(off):.2g}: a substituted piece does more than add to the residual stream"
        )
