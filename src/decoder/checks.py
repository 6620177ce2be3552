"""What arguments have to be, and one wording for what came instead: sizes and token ids."""

from numbers import Real

import torch

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def is_whole(number):
    """Whether a number is an int; to Python a bool is one too, and n_heads=True is never meant."""
    return isinstance(number, int) and not isinstance(number, bool)


def is_number(value):
    """Whether a value is a real number, infinities and NaN included; again, a bool is not meant."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_sizes(**sizes):
    """Raise ValueError unless each of `sizes`, by name, is a whole number of at least 1."""
    for name, size in sizes.items():
        if not is_whole(size) or size < 1:
            raise ValueError(f"expected {name} to be a positive whole number, got {size!r}")


def check_tokens(tokens):
    """Raise ValueError unless `tokens` is (batch, seq) int64 and not empty; see `check_ids`."""
    if not isinstance(tokens, torch.Tensor) or tokens.dtype != torch.int64 or tokens.ndim != 2:
        raise ValueError(
            f"expected tokens as an int64 tensor of (batch, seq), got {described(tokens)}"
        )
    if tokens.numel() == 0:
        raise ValueError(f"expected at least one token, got {tuple(tokens.shape)}")


def check_ids(tokens, d_vocab):
    """Raise ValueError unless all of `tokens`, (batch, seq), are in [0, d_vocab); names one."""
    low, high = tokens.aminmax()
    if low < 0 or high >= d_vocab:
        wrong = int(low if low < 0 else high)
        row, column = (tokens == wrong).nonzero()[0].tolist()
        raise ValueError(
            f"expected ids from 0 to {d_vocab - 1} (d_vocab={d_vocab}), "
            f"got {wrong} at row {row}, position {column}"
        )


def as_ids(ids, d_vocab):
    """Return token ids, a tensor, array or list, as an int64 tensor, (seq,).

    Raises:
        ValueError: not integers, not one sequence, or an id outside [0, d_vocab).
    """
    try:
        ids = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"expected token ids, (seq,) integers, got {ids!r}") from error
    if ids.ndim != 1 or (ids.dtype not in INTEGERS and ids.numel()):
        got = f"{tuple(ids.shape)} {ids.dtype}"
        raise ValueError(f"expected token ids, (seq,) integers, got {got}")
    ids = ids.to(torch.int64)  # an empty list has come as floats
    wrong = (ids < 0) | (ids >= d_vocab)  # (seq,)
    if wrong.any():
        place = int(wrong.nonzero()[0])
        raise ValueError(f"expected ids in [0, {d_vocab}), got {int(ids[place])} at place {place}")
    return ids


def described(value):
    """What came, for an error: type and shape of a tensor, or the type of anything else."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} of {tuple(value.shape)}"
    return type(value).__name__
