"""Time to loss: nanoGPT's recipe for a CPU against this project's best, on tiny Shakespeare.

The recipe's final loss is the line; the time is that of the training steps until the best is
below it. Both train on the first nine tenths of the text, in random windows of 64 characters,
and are judged by the rest, more than 100,000 characters, while the clock stands still.
"""

import math
import time
from dataclasses import dataclass

import torch

from benchmarks.measure import row
from benchmarks.peers import Incomparable, count
from decoder import Config, Decoder
from decoder.batches import random_windows, split, windows
from decoder.efficient import fuse
from decoder.loss import evaluate
from decoder.modern import modernise
from decoder.optim import muon
from decoder.text import CharTokenizer, load_corpus
from decoder.train import Recipe, Training, trapezoid

SIZES = dict(n_ctx=64, d_model=128, n_heads=4, n_layers=4)
BUDGET = 0.8e6  # parameters, and one in a hundred more
SUBSET = 256  # windows of the held-out text that decide whether the rest is worth asking
NEAR = 0.03  # nats: so close to the line, all of it is asked


@dataclass(frozen=True)
class Contest:
    """One way to train.

    Args:
        pieces: `pieces(model)` changes a fresh `Decoder` and returns it.
        recipe: `Recipe`.
        batch: Windows in a batch.
        every: Steps from one evaluation to the next.
        how: Other arguments of `Training`: optimizer, schedule.
    """

    pieces: object
    recipe: Recipe
    batch: int
    every: int
    how: dict


def cosine(step, recipe, lowest=0.1, warmup=100):
    """nanoGPT's schedule: 100 steps up, then half a cosine down to a tenth."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, recipe.steps - warmup)
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * done))


def published(steps=2000, every=100):
    """What nanoGPT's README says for a CPU; betas 0.9 and 0.99 are those of `adamw`.

    Both contestants have torch's fused kernels: what is compared is the recipe.
    """
    recipe = Recipe(steps=steps, learning_rate=1e-3, weight_decay=0.1, clip=1.0)
    return Contest(fuse, recipe, batch=12, every=every, how=dict(schedule=cosine))


def nimble(model, recipe):
    """Muon and AdamW that forget sooner: in 200 steps there is little worth remembering."""
    optimizer = muon(model, recipe)
    for group in optimizer.param_groups:
        group |= {"momentum": 0.9, "betas": (0.8, 0.95)}
    return optimizer


def best(steps=235, every=5):
    """This project's: the pieces of `modern`, Muon, a trapezoid."""
    recipe = Recipe(
        steps=steps, learning_rate=0.02, warmup=0.0, cooldown=0.8, weight_decay=0.0, clip=1.0
    )
    how = dict(optimizer=nimble, schedule=trapezoid)
    return Contest(lambda model: fuse(modernise(model)), recipe, batch=12, every=every, how=how)


def run(rounds=5, quick=False):
    """One round is a seed: returns the rows, and what each seed ended with."""
    text = load_corpus("tiny-shakespeare")
    tokenizer = CharTokenizer.from_text(text)
    learnt, held_out = split(tokenizer.encode(text))
    judged = windows(held_out, SIZES["n_ctx"])
    if quick:
        judged = tuple(x[:64] for x in judged)
    elif judged[1].numel() < 100_000:
        raise ValueError(f"expected 100,000 characters held out, got {judged[1].numel():,}")
    slow = published(20, 10) if quick else published()
    fast = best(20, 5) if quick else best()
    seeds = [
        one_seed(seed, slow, fast, tokenizer.d_vocab, learnt, judged) for seed in range(rounds)
    ]
    speedups = [
        seed["recipe_seconds"] / seed["best_seconds"] if seed["reached"] else 0.0 for seed in seeds
    ]
    work = f"{SIZES['n_layers']} × {SIZES['d_model']}, tiny Shakespeare, {slow.recipe.steps} steps"
    return [row(work, "recipe ÷ this project's best", speedups, 6.0)], _details(seeds, judged)


def one_seed(seed, slow, fast, d_vocab, learnt, judged):
    """Train both from one seed; returns losses, steps, seconds and curves."""
    recipe = trained(seed, slow, d_vocab, learnt, judged)
    contest = trained(seed, fast, d_vocab, learnt, judged, line=recipe["loss"])
    return {
        "recipe_loss": recipe["loss"],
        "best_loss": contest["loss"],
        "best_steps": contest["steps"],
        "reached": contest["loss"] <= recipe["loss"],
        "recipe_seconds": recipe["seconds"],
        "best_seconds": contest["seconds"],
        "curves": {"recipe": recipe["curve"], "best": contest["curve"]},
    }


def trained(seed, contest, d_vocab, learnt, judged, line=-math.inf):
    """Train until all steps are taken, or until the loss on all held-out text is not above `line`.

    The clock runs while steps are taken and stands still while the model is judged. Every
    `every` steps a part of the held-out text is asked; near the line all of it.

    Returns:
        A dict: loss on all of it, steps, seconds, and curve, pairs of seconds and loss.
    """
    torch.manual_seed(seed)
    model = contest.pieces(Decoder(Config(d_vocab, **SIZES)))
    check_budget(model)
    batches = random_windows(learnt, SIZES["n_ctx"], contest.batch, seed)
    training = Training(model, batches, contest.recipe, **contest.how)
    some = tuple(x[:: max(1, len(x) // SUBSET)] for x in judged)
    seconds, curve = 0.0, []
    while training.step < contest.recipe.steps:
        start = time.perf_counter()
        for _ in range(min(contest.every, contest.recipe.steps - training.step)):
            training.advance()
        seconds += time.perf_counter() - start
        loss = evaluate(model, *some)
        curve.append((seconds, loss))
        if loss <= line + NEAR and (whole := evaluate(model, *judged)) <= line:
            return dict(loss=whole, steps=training.step, seconds=seconds, curve=curve)
    whole = evaluate(model, *judged)
    return dict(loss=whole, steps=training.step, seconds=seconds, curve=curve)


def check_budget(model):
    """Raises Incomparable: the model has more than the parameters that both may have."""
    if not 0.95 * BUDGET <= count(model) <= 1.01 * BUDGET + 8_000:
        raise Incomparable(f"expected about {BUDGET:,.0f} parameters, got {count(model):,}")


def _details(seeds, judged):
    """What is kept: losses, steps, and curves over time as a share of the recipe's."""
    notes = [f"Loss in nats per character, on {judged[1].numel():,} characters held out."]
    notes.append(
        "The clock stops at the first record of the best whose loss on all of them is not above "
        "the recipe's last; records every few steps, and evaluations are not timed."
    )
    kept = []
    for number, seed in enumerate(seeds):
        end = "reached" if seed["reached"] else "did not reach"
        notes.append(
            f"Seed {number}: the recipe ended at {seed['recipe_loss']:.3f}; the best {end} it "
            f"after {seed['best_steps']} steps, at {seed['best_loss']:.3f}."
        )
        total = seed["recipe_seconds"]
        curves = {
            name: [(round(at / total, 4), round(loss, 4)) for at, loss in curve]
            for name, curve in seed["curves"].items()
        }
        kept.append({"recipe_loss": round(seed["recipe_loss"], 4), "curves": curves})
    return {"notes": notes, "seeds": kept}
