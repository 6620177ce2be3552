"""Batches: from one long sequence of tokens to the pieces that a step of training sees."""

import zlib

import torch

from decoder.checks import described


def split(sequence, fraction=0.9):
    """Cut a sequence in two by place: the first part to train on, the rest to be judged by.

    By place and not at random, because neighbouring windows share their words: a window drawn
    at random has been seen, all but a few tokens, in training.

    Args:
        sequence: Anything that can be sliced: ids, or the text itself. Cut the text to compare
            tokenizers, so that all are judged by the same characters.
        fraction: Share of the first part, above 0 and below 1.

    Returns:
        The first part and the rest, neither of them empty.

    Raises:
        ValueError: fraction is out of range, or a part would be empty.

    Built in chapters/11-shakespeare.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"expected a fraction above 0 and below 1, got {fraction}")
    cut = int(len(sequence) * fraction)
    if not 0 < cut < len(sequence):
        raise ValueError(
            f"expected two parts that are not empty, got {cut} and {len(sequence) - cut} "
            f"(length {len(sequence)}, fraction {fraction})"
        )
    return sequence[:cut], sequence[cut:]


def windows(ids, n_ctx):
    """Cut ids into windows that do not overlap, each with the next token of each position.

    Args:
        ids: (n_tokens,), int64, at least n_ctx + 1 of them.
        n_ctx: Length of a window.

    Returns:
        inputs and targets, (n_windows, n_ctx) each, n_windows = (n_tokens - 1) // n_ctx;
        targets[w, t] is the token that follows inputs[w, t]. A rest too short for a window is
        left out.

    Raises:
        ValueError: ids are no (n_tokens,) int64 tensor or too few; n_ctx is below 1.

    Built in chapters/11-shakespeare.
    """
    _check_ids(ids, n_ctx)
    used = (len(ids) - 1) // n_ctx * n_ctx
    return ids[:used].view(-1, n_ctx), ids[1 : used + 1].view(-1, n_ctx)


def random_windows(ids, n_ctx, batch_size, seed=0):
    """Batches of windows that begin anywhere, each as likely as any other; so they overlap.

    Args:
        ids: (n_tokens,), int64, at least n_ctx + 1 of them.
        n_ctx: Length of a window.
        batch_size: Windows in a batch.
        seed: Fixes all batches, and nothing else does.

    Returns:
        `batch(step)`, which gives inputs and targets of (batch_size, n_ctx), each target the
        token that follows. The same step gives the same batch.

    Raises:
        ValueError: as `windows`; batch_size is below 1.

    Built in chapters/11-shakespeare.
    """
    _check_ids(ids, n_ctx)
    if batch_size < 1:
        raise ValueError(f"expected batch_size of at least 1, got {batch_size}")
    every = ids.unfold(0, n_ctx + 1, 1)  # (n_tokens - n_ctx, n_ctx + 1), a view

    def drawn(generator):
        rows = every[torch.randint(len(every), (batch_size,), generator=generator)]
        return rows[:, :-1], rows[:, 1:]

    return fresh(drawn, seed)


def shuffled(inputs, targets, batch_size, seed=0):
    """Batches of fixed windows in an order of their own each epoch.

    Args:
        inputs, targets: (n_windows, n_ctx) each, as from `windows`.
        batch_size: Windows in a batch, at most n_windows. What does not fill a batch is left
            out of its epoch; the order differs, so that it is others' turn in the next.
        seed: Fixes the order, and nothing else does.

    Returns:
        `batch(step)`, which gives inputs and targets of (batch_size, n_ctx). The same step
        gives the same batch, so that a run can be taken up anywhere.

    Raises:
        ValueError: the shapes differ, or batch_size is not from 1 to n_windows.
    """
    if inputs.shape != targets.shape or inputs.ndim != 2:
        raise ValueError(
            f"expected inputs and targets of one shape (n_windows, n_ctx), "
            f"got {tuple(inputs.shape)} and {tuple(targets.shape)}"
        )
    if not 1 <= batch_size <= len(inputs):
        raise ValueError(f"expected batch_size from 1 to {len(inputs)} windows, got {batch_size}")
    steps_per_epoch = len(inputs) // batch_size

    def batch(step):
        epoch, step = divmod(step, steps_per_epoch)
        order = torch.randperm(len(inputs), generator=numbered_generator(seed, epoch))
        rows = order[step * batch_size : (step + 1) * batch_size]
        return inputs[rows], targets[rows]

    return batch


def fresh(make, seed=0):
    """Batches that are made anew for each step, as toy tasks make them.

    Args:
        make: `make(generator)` gives inputs and targets, (batch, seq) each, and draws what is
            random in them from the generator.
        seed: Fixes all batches.

    Returns:
        `batch(step)`; the same step gives the same batch.
    """
    return lambda step: make(numbered_generator(seed, step))


def numbered_generator(seed, number):
    """A random generator that is fixed by two whole numbers, say a run's seed and its step."""
    # torch keeps only the lowest 32 bits of a seed, so that seed * 2**32 + number would forget it.
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {number}".encode()))


def _check_ids(ids, n_ctx):
    if not isinstance(ids, torch.Tensor) or ids.dtype != torch.int64 or ids.ndim != 1:
        raise ValueError(f"expected ids as an int64 tensor of (n_tokens,), got {described(ids)}")
    if n_ctx < 1:
        raise ValueError(f"expected n_ctx of at least 1, got {n_ctx}")
    if len(ids) < n_ctx + 1:
        raise ValueError(
            f"expected at least {n_ctx + 1} tokens (n_ctx={n_ctx} and the one that follows), "
            f"got {len(ids)}"
        )
