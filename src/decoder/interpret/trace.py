"""Capture: what one forward pass held, read from the pass itself."""

from contextlib import ExitStack, contextmanager

import torch

MISSING = {
    "resid": "the forward pass did not get there",
    "pattern": "its attention gave no pattern. Fused attention never holds one; to read it, put "
    "decoder.attention.Attend() back as `attn.attend`",
    "z": "its block called no `attn.attend`",
    "attn_out": "its block called no `attn`",
    "mlp_out": "its block called no `mlp`",
    "neurons": "its block called no module `mlp.activation`",
}


class PerLayer(list):
    """One tensor a layer; reading a layer that had none is an error that says why."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def __getitem__(self, layer):
        if not len(self):
            raise ValueError(f"no {self.name} captured: call the model inside `with capture(...)`")
        value = super().__getitem__(layer)
        if value is None:
            raise ValueError(f"no {self.name} in layer {layer}: {MISSING[self.name]}")
        return value

    def __iter__(self):
        return (self[layer] for layer in range(len(self)))

    def has(self, layer):
        """Whether this layer had one."""
        return layer < len(self) and super().__getitem__(layer) is not None


class Trace:
    """What one forward pass held; `capture` says what and in which shapes."""

    def __init__(self):
        self.clear()

    def clear(self):
        """Forget everything."""
        self.embed = self.positions = self.logits = None
        for name in MISSING:
            setattr(self, name, PerLayer(name))


def photograph(tensor):
    """A copy without gradient history: what becomes of the original leaves it as it is."""
    return tensor.detach().clone()


@contextmanager
def capture(model, keep=photograph):
    """Read everything inside a forward pass, through PyTorch's own forward hooks.

        with capture(model) as trace:
            model(tokens)
        trace.pattern[layer]   # (batch, n_heads, seq_q, seq_k)

    Args:
        model: A `Decoder`. Substitute pieces before the `with`, not inside it.
        keep: What is kept of each tensor: a copy that gradients do not reach. Give
            `lambda tensor: tensor` to keep the graph, for gradients with respect to them.

    Yields:
        A `Trace`. Of several forward passes it holds the last. With a cache, seq and seq_q
        count the tokens of that pass, seq_k the cached ones too.

        - embed: (batch, seq, d_model), the embedded tokens; positions: the same shape, what
          the position scheme added to them (zeros for rotary and ALiBi)
        - resid[layer]: (batch, seq, d_model), entering block `layer`; resid[n_layers]
          leaves the last block
        - pattern[layer]: (batch, n_heads, seq_q, seq_k)
        - z[layer]: (batch, n_heads, seq_q, d_head), each head's mixture of values
        - neurons[layer]: (batch, seq, d_mlp), after the activation
        - attn_out[layer], mlp_out[layer]: (batch, seq, d_model), what the attention and the
          dense layers return, biases included
        - logits: (batch, seq, d_vocab)

        The hooks are gone after the `with`, also when it is left by an exception.

    Raises:
        ValueError: on reading a layer that had no such tensor; the message says why.

    Built in chapters/13-heads.
    """
    camera = _Camera(keep)
    with ExitStack() as stack:
        for module, before, after in camera.hooks(model):
            if before:
                stack.callback(module.register_forward_pre_hook(before).remove)
            if after:
                stack.callback(module.register_forward_hook(after).remove)
        yield camera.trace


class _Camera:
    """The hooks of `capture`, and the trace that they fill."""

    def __init__(self, keep):
        self.keep, self.trace, self.running = keep, Trace(), False

    def hooks(self, model):
        """(module, hook before, hook after), each module once however many layers share it."""
        yield model, self.begin, self.end
        yield model.positions, self.embedded, self.positioned
        for block in distinct(model.blocks):
            yield block, self.enter, self.leave
        for attend in pieces_at(model, "attn", "attend"):
            yield attend, None, self.attended
        for name, path in (
            ("attn_out", ["attn"]),
            ("mlp_out", ["mlp"]),
            ("neurons", ["mlp", "activation"]),
        ):
            for piece in pieces_at(model, *path):
                yield piece, None, self.into(name)

    def begin(self, module, args):
        self.trace.clear()
        self.running = True

    def embedded(self, module, args):
        self.trace.embed = self.keep(args[0])

    def positioned(self, module, args, out):
        self.trace.positions = self.keep(out) - self.trace.embed

    def enter(self, module, args):
        # Modules may be shared by layers. So a hook does not write to the layer of its module
        # but to the last one, and every block that is entered opens a new one.
        if self.running:
            self.trace.resid.append(self.keep(args[0]))
            for name in MISSING.keys() - {"resid"}:
                getattr(self.trace, name).append(None)

    def leave(self, module, args, out):
        self.left = out

    def attended(self, module, args, out):
        z, pattern = out
        self.write("z", z)
        self.write("pattern", pattern)

    def into(self, name):
        return lambda module, args, out: self.write(name, out)

    def write(self, name, value):
        # A piece called by itself, outside a forward pass, is in no layer.
        if self.running and value is not None:
            getattr(self.trace, name)[-1] = self.keep(value)

    def end(self, module, args, out):
        self.trace.resid.append(self.keep(self.left))
        self.trace.logits = self.keep(out)
        self.running, self.left = False, None


def pieces_at(model, *path):
    """The modules at block.path, of the blocks that have one, each once."""
    found = list(model.blocks)
    for name in path:
        found = [getattr(piece, name, None) for piece in found]
    return distinct(piece for piece in found if isinstance(piece, torch.nn.Module))


def distinct(modules):
    """The modules in their order, each once however often it comes."""
    return list(dict.fromkeys(modules))  # modules hash by identity
