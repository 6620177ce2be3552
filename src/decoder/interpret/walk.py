"""Walk: where a forward pass is, for hooks that change something in it."""

from contextlib import ExitStack, contextmanager

from decoder.interpret.trace import MISSING, distinct


class Walk:
    """A forward pass under way.

    `layer` is the block that it has come to, -1 before the first; `done` holds what hooks have
    done in this pass; `hooks`, an ExitStack, takes what is undone in the end.
    """

    def __init__(self, hooks):
        self.layer, self.done, self.hooks = -1, set(), hooks

    def before(self, module, hook):
        """Call hook(module, args) before the module, and before all other hooks of its kind."""
        self.hooks.callback(module.register_forward_pre_hook(hook, prepend=True).remove)

    def after(self, module, hook):
        """Call hook(module, args, out) after it, first of all: `capture` reads what it gives."""
        self.hooks.callback(module.register_forward_hook(hook, prepend=True).remove)


@contextmanager
def walk(model, wanted, task, name):
    """Follow the forward passes of a model, each of which has to do what is wanted.

    Args:
        model: A `Decoder`. Layers may share blocks or pieces.
        wanted: What has to be in `Walk.done` when a pass ends, pairs (layer, ...).
        task: What it is, for the message of the error, as in "replace heads".
        name: What is read there, as `capture` names it.

    Yields:
        A `Walk`, to which hooks can be added.

    Raises:
        ValueError: at the end of a forward pass, if something wanted is not done.
    """
    with ExitStack() as hooks:
        at = Walk(hooks)

        def begin(module, args):
            at.layer = -1
            at.done.clear()

        def enter(module, args):
            at.layer += 1

        def end(module, args, out):
            if missed := wanted - at.done:
                raise ValueError(f"expected to {task} {sorted(missed)}: {MISSING[name]}")

        at.before(model, begin)
        for block in distinct(model.blocks):
            at.before(block, enter)
        hooks.callback(model.register_forward_hook(end).remove)
        yield at
