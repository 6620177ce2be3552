"""Training: a short loop, the same every time. `python -m decoder.train --out RUN`"""

import math
import sys
from dataclasses import dataclass

import torch

from decoder.batches import fresh, random_windows, shuffled, split, windows
from decoder.checks import check_sizes
from decoder.loss import bits_per_character, cross_entropy, evaluate
from decoder.progress import progress_bar

__all__ = ["Recipe", "Training", "adamw", "bits_per_character", "cross_entropy", "evaluate"]
__all__ += ["fresh", "random_windows", "shuffled", "split", "train", "trapezoid", "watch"]
__all__ += ["windows"]


@dataclass(frozen=True)
class Recipe:
    """How to train: the numbers that `Training` follows.

    Args:
        steps: Batches to learn from.
        learning_rate: The highest one.
        warmup: Share of the steps over which it rises.
        cooldown: Share of the steps over which it falls, at the end.
        weight_decay: Pull of matrices towards zero, times the learning rate.
        clip: Largest norm of the gradient.

    Raises:
        ValueError: a number is out of its range.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup: float = 0.05
    cooldown: float = 0.5
    weight_decay: float = 0.1
    clip: float = 1.0

    def __post_init__(self):
        check_sizes(steps=self.steps)
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"expected {name} above 0, got {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"expected weight_decay of at least 0, got {self.weight_decay}")
        if not (self.warmup >= 0 and self.cooldown >= 0 and self.warmup + self.cooldown <= 1):
            raise ValueError(
                f"expected warmup and cooldown to be shares of the steps, "
                f"got {self.warmup} and {self.cooldown}"
            )


def trapezoid(step, recipe):
    """Warm up, stay, cool down: the share of the learning rate, above 0, at step 0, 1, ..."""
    rising = (step + 1) / max(1, recipe.warmup * recipe.steps)
    falling = (recipe.steps - step) / max(1, recipe.cooldown * recipe.steps)
    return min(1.0, rising, falling)


def adamw(model, recipe):
    """AdamW, which shrinks matrices only: a bias or a norm's scale has no reason to be near 0.

    Source: Loshchilov and Hutter 2019; betas as in nanoGPT for small models.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    # An empty group is left out: a model may have matrices only.
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.99), fused=True)


class Training:
    """A run of training: `for record in Training(...)` takes a step each time round.

    Args:
        model: Gives logits for tokens; its weights are changed in place.
        batches: `batches(step)` gives inputs and targets, (batch, seq) each, for step 0, 1, ...;
            see `shuffled` and `fresh`.
        recipe: `Recipe`.
        optimizer: `optimizer(model, recipe)` gives what has the methods of a torch optimizer.
        schedule: `schedule(step, recipe)` gives the share of the learning rate.

    The records are dicts: step (steps taken), tokens (learnt from), train_loss (of the batch,
    before the step, in nats per token) and learning_rate. Nothing is drawn from torch's global
    random generator: what comes out depends on the model and the batches alone.

    Raises:
        FloatingPointError: from a step, the loss is not a finite number.

    Built in chapters/10-reversal.
    """

    def __init__(self, model, batches, recipe, optimizer=adamw, schedule=trapezoid):
        self.model, self.batches, self.recipe, self.schedule = model, batches, recipe, schedule
        self.optimizer = optimizer(model, recipe)
        self.highest = [group["lr"] for group in self.optimizer.param_groups]
        self.step = self.tokens = 0

    def __iter__(self):
        while self.step < self.recipe.steps:
            yield self.advance()

    def advance(self):
        """Take one step; returns its record."""
        share = self.schedule(self.step, self.recipe)
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            group["lr"] = share * highest
        inputs, targets = self.batches(self.step)
        loss = cross_entropy(self.model(inputs), targets)
        if not loss.isfinite():
            raise FloatingPointError(
                f"the loss became {loss.item()} at step {self.step + 1}: try a lower learning rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.step, self.tokens = self.step + 1, self.tokens + targets.numel()
        return {
            "step": self.step,
            "tokens": self.tokens,
            "train_loss": loss.item(),
            "learning_rate": share * self.recipe.learning_rate,
        }

    def tensors(self):
        """All that the next steps depend on, by name: weights and the optimizer's state."""
        tensors = {f"model.{name}": w for name, w in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        return tensors

    def restore(self, tensors, step, tokens):
        """Go on from what `tensors` gave after that many steps and tokens.

        Raises:
            ValueError: the tensors are those of another model.
        """
        weights, state = {}, {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "model":
                weights[rest] = tensor
            else:
                index, _, key = rest.partition(".")
                state.setdefault(int(index), {})[key] = tensor
        load_weights(self.model, weights)
        groups = self.optimizer.state_dict()["param_groups"]  # the recipe's, not part of the state
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.step, self.tokens = step, tokens


def load_weights(model, weights):
    """`model.load_state_dict`, strict, with one line for an error.

    Raises:
        ValueError: weights are missing, extra or misshapen.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        _, first, *others = str(error).splitlines()
        more = f" (and {len(others)} more)" if others else ""
        raise ValueError(f"the weights are those of another model: {first.strip()}{more}") from None


def train(model, batches, recipe, validation=None, evaluate_every=100, **pieces):
    """Train a model and keep a record of it, with a progress bar where somebody is watching.

    Args:
        model, batches, recipe, **pieces: As for `Training`.
        validation: inputs and targets to judge the model by, or None.
        evaluate_every: Steps from one record to the next.

    Returns:
        The history, a list of dicts: those of `Training`, with train_loss the mean since the
        record before, and validation_loss, in nats per token, where there is validation.
    """
    return list(watch(Training(model, batches, recipe, **pieces), validation, evaluate_every))


def watch(training, validation=None, evaluate_every=100):
    """Run a `Training` and yield a record, as `train` collects them, every so many steps.

    The last step always has one.

    Raises:
        ValueError: evaluate_every is below 1.
    """
    if evaluate_every < 1:
        raise ValueError(f"expected evaluate_every of at least 1, got {evaluate_every}")
    losses, steps = [], training.recipe.steps
    with progress_bar(total=steps, initial=training.step, unit="step") as bar:
        for record in training:
            losses.append(record["train_loss"])
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            if record["step"] % evaluate_every == 0 or record["step"] == steps:
                record["train_loss"] = sum(losses) / len(losses)
                losses.clear()
                if validation is not None:
                    record["validation_loss"] = evaluate(training.model, *validation)
                yield record


if __name__ == "__main__":
    from decoder.cli_train import main

    sys.exit(main())
