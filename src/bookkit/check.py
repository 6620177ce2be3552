"""What the figure functions take: arrays of numbers and lists of tokens, checked."""

import unicodedata

import numpy as np

# Signs that readers know from editors, for what would otherwise be invisible.
_SIGNS = {" ": "·", "\n": "↵", "\t": "⇥"}
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"}
MOST_TOKENS = 128


def visible(token):
    """Show a token so that nothing in it is invisible.

    Args:
        token: A string.

    Returns:
        The same text with · for a space, ↵ for a newline, ⇥ for a tab, ⟨U+2028⟩ and the like for
        other characters that draw nothing, and ∅ for an empty token.
    """
    return "".join(map(_visible_character, token)) or "∅"


def name_of(text, length):
    """Shorten a name for a picture; only spaces between words stay as they are."""
    words = text.strip(" ")
    if not words:
        return visible(text)
    before, _, after = text.partition(words)
    inner = "".join(c if c == " " else _visible_character(c) for c in words)
    return clip(before.replace(" ", "·") + inner + after.replace(" ", "·"), length)


def clip(text, length):
    """At most length characters; … stands for the rest."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _visible_character(character):
    if character in _SIGNS:
        return _SIGNS[character]
    if unicodedata.category(character) in _INVISIBLE:
        return f"⟨U+{ord(character):04X}⟩"
    return character


def numbers(values, name, axes, finite=True):
    """Turn a tensor, an array or nested lists into an array of float64.

    Args:
        values: Numbers or booleans.
        name: What the values are, for the message.
        axes: Names of the dimensions that are expected.
        finite: Whether infinities and NaN are refused.

    Returns:
        A numpy array with len(axes) dimensions, none of them empty.

    Raises:
        ValueError: values are not numbers, or have other dimensions, or are not finite.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.dtype.is_floating_point:
            values = values.double()  # numpy knows no bfloat16
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "buif":
            raise ValueError(f"got {array.dtype}")
        array = array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"expected {name} to be numbers of shape ({axes}): {error}") from None
    wanted = axes.split(", ")
    if array.ndim != len(wanted) or 0 in array.shape:
        raise ValueError(f"expected {name} of shape ({axes}), none empty; got {array.shape}")
    if finite and not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"expected finite {name}, got {array[where]} at {where}")
    return array


def strings(tokens, count, name="tokens", most=MOST_TOKENS):
    """Check tokens against the number of positions that they name.

    Args:
        tokens: A sequence of strings.
        count: How many there must be.
        name: What they are, for the message.
        most: How many can still be drawn.

    Returns:
        A list of strings.

    Raises:
        ValueError: tokens is one string, holds something else than strings, or has another
            length than count.
    """
    if isinstance(tokens, str):
        raise ValueError(f"expected a list of {name}, got one string, {tokens[:30]!r}")
    try:
        tokens = list(tokens)
    except TypeError:
        raise ValueError(f"expected a list of {name}, got {type(tokens).__name__}") from None
    for position, token in enumerate(tokens):
        if not isinstance(token, str):
            kind = type(token).__name__
            raise ValueError(f"expected {name} to be strings, got {kind} at {position}: decode ids")
    if len(tokens) != count:
        raise ValueError(f"expected {count} {name}, one for each position; got {len(tokens)}")
    if count > most:
        raise ValueError(f"expected at most {most} {name}, more cannot be read; got {count}")
    return tokens
