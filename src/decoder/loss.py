"""The loss: how surprised a model is by what really came next."""

import math

import torch


def cross_entropy(logits, targets):
    """The mean surprise at what really came next.

    Args:
        logits: (..., d_vocab), unnormalised log-probabilities.
        targets: (...), int64, what came.

    Returns:
        Nats per token, a scalar: 0 for certainty, ln d_vocab for not knowing anything.

    Raises:
        ValueError: the shapes do not fit each other, or targets are not int64.

    Source: Shannon 1948, section 6, in nats. Built in chapters/10-reversal.
    """
    if targets.dtype != torch.int64 or logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"expected logits (..., d_vocab) and int64 targets (...), got {tuple(logits.shape)} "
            f"and {targets.dtype} of {tuple(targets.shape)}"
        )
    picked = logits.gather(-1, targets[..., None])[..., 0]  # (...)
    return (logits.logsumexp(dim=-1) - picked).mean()


def evaluate(model, inputs, targets, batch_size=64):
    """The loss on text, all of it, without learning from it.

    Args:
        model: Gives logits for tokens. Left in the mode (training or not) that it was in.
        inputs, targets: (n_windows, n_ctx) each, as from `windows`.
        batch_size: Windows at a time; a matter of memory, not of the result.

    Returns:
        Nats per token, a float.

    Raises:
        ValueError: there are no windows, or batch_size is below 1.
    """
    if len(inputs) == 0 or batch_size < 1:
        raise ValueError(
            f"expected windows and a batch_size of at least 1, got {len(inputs)} and {batch_size}"
        )
    was_training, total = model.training, 0.0
    model.eval()
    with torch.no_grad():
        for x, y in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
            total += cross_entropy(model(x), y).item() * y.numel()
    model.train(was_training)
    return total / targets.numel()


def bits_per_character(nats_per_token, n_tokens, n_characters):
    """A loss in the unit that compares tokenizers: per character of text, not per token.

    Args:
        nats_per_token: Loss.
        n_tokens, n_characters: Length of the same text in both.

    Raises:
        ValueError: a length is below 1.
    """
    if min(n_tokens, n_characters) < 1:
        raise ValueError(
            f"expected a text of at least one token and character, got {n_tokens}, {n_characters}"
        )
    return nats_per_token * n_tokens / n_characters / math.log(2)
