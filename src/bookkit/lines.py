"""Several lines of coloured tokens: one text with several values, or what a neuron responds to.

These are pictures only. CircuitsVis' ColoredTokensMulti and TextNeuronActivations show one value
at a time, chosen in form fields without names; lines below one another can be compared.
"""

from matplotlib import rc_context
from matplotlib.figure import Figure

from bookkit import static, style
from bookkit.check import name_of, numbers, strings, visible
from bookkit.describe import list_tokens
from bookkit.picture import Picture, words

_LINE, _ADVANCE, _HEIGHT = 62, 0.094, 0.27  # characters of a line; inches of one, and of a line
_GAP = 0.35  # between tokens, in characters


def token_values(
    tokens, values, names, *, caption, alt="", title="", max_value=None,
):  # fmt: skip
    """Show a text several times, coloured by several values: blue above zero, orange below.

    Args:
        tokens: Strings, at most 256.
        values: Finite numbers, (len(names), seq).
        names: What the values are, at most 12 names, each before its lines.
        caption: The one message of the figure.
        alt: What the figure shows; computed from the values if not given.
        title: A few words before the caption.
        max_value: The absolute value that has the full colour; the largest if not given.

    Returns:
        A Picture: line after line of the text, each once for every name.

    Raises:
        ValueError: values are not finite numbers of shape (names, seq), tokens or names not
            strings or not as many, max_value not above zero, or caption is empty.
    """
    words(caption, "caption")
    values = numbers(values, "values", "names, seq")
    names = strings(names, values.shape[0], "names", most=12)
    tokens = strings(tokens, values.shape[1], most=256)
    limit = static.limit(max_value, abs(values).max() or 1.0)
    room = _room(names)
    lines = []
    for part in _broken(tokens, room):
        lines += [(n, tokens[part], row[part], limit) for n, row in zip(names, values, strict=True)]
        lines.append(None)
    text = alt or _values_in_words(tokens, values, names)
    return Picture(_picture(lines[:-1]), text, caption, title, generated=not alt)


def top_contexts(contexts, *, caption, alt="", title=""):
    """Show where some neurons (or anything that has a value at a token) responded most.

    Args:
        contexts: Name -> its contexts, [(tokens, values), ...]: strings, and as many numbers.
            At most 60 in all. Where a context is longer than a line, what is farthest from
            its largest value is left out.
        caption, alt, title: As in token_values.

    Returns:
        A Picture: a line for each context; the full colour is the largest value of the name.

    Raises:
        ValueError: there is no name or no context, tokens are not strings or not as many as
            values, values are not finite, or caption is empty.
    """
    words(caption, "caption")
    checked = {name: [_context(*pair) for pair in pairs] for name, pairs in contexts.items()}
    count = sum(map(len, checked.values()))
    if not checked or not all(checked.values()) or count > 60:
        raise ValueError(f"expected 1 to 60 contexts, at least one for each name; got {count}")
    room, lines = _room(strings(list(checked), len(checked), "names")), []
    for name, pairs in checked.items():
        limit = max(abs(values).max() for _, values in pairs) or 1.0
        for number, (tokens, values) in enumerate(pairs):
            part = _around(tokens, int(values.argmax()), room)
            lines.append(("" if number else name, tokens[part], values[part], limit))
        lines.append(None)
    text = alt or _contexts_in_words(checked)
    return Picture(_picture(lines[:-1]), text, caption, title, generated=not alt)


def _context(tokens, values):
    values = numbers(values, "values", "seq")
    return strings(tokens, len(values), most=1024), values


def _room(names):
    return _LINE - min(max(map(len, names)), static.LABEL) - 1


def _width(token):
    return len(static.short(token)) + _GAP


def _broken(tokens, room):
    """Slices of tokens, each of which fits a line."""
    start, used = 0, 0.0
    for place, token in enumerate(tokens):
        if used + _width(token) > room and place > start:
            yield slice(start, place)
            start, used = place, 0.0
        used += _width(token)
    yield slice(start, len(tokens))


def _around(tokens, peak, room):
    """The slice of tokens round a place that fits a line."""
    start, end = 0, len(tokens)
    while sum(map(_width, tokens[start:end])) > room and end - start > 1:
        if peak - start >= end - 1 - peak:
            start += 1
        else:
            end -= 1
    return slice(start, end)


def _picture(lines):
    heights = [0.45 if line is None else 1 for line in lines]
    room = _LINE - _room([line[0] for line in lines if line])
    with rc_context(static.STYLE):
        fig = Figure((_LINE * _ADVANCE, sum(heights) * _HEIGHT))
        ax = fig.add_axes((0, 0, 1, 1), xlim=(0, _LINE), ylim=(sum(heights), 0))
        ax.set_axis_off()
        for number, line in enumerate(lines):
            if line:
                _line(ax, sum(heights[:number]), room, *line)
        return static.quietly(fig, tight=False, rounds=1)


def _line(ax, top, column, name, tokens, values, limit):
    if name:
        shown = name_of(name, static.LABEL)
        ax.text(0.1, top + 0.52, shown, color=style.QUIET, fontsize=9, **static.MONO)
    for token, value in zip(tokens, values, strict=True):
        colour = static.token_colour(value, -limit, limit)
        static.draw_token(ax, column, top, static.short(token), colour)
        column += _width(token)


def _values_in_words(tokens, values, names):
    text = f"{len(tokens)} tokens, coloured {len(names)} times: {list_tokens(tokens)}. "
    for name, row in zip(names, values, strict=True):
        high, low = int(row.argmax()), int(row.argmin())
        text += f"{name}: highest {row[high]:.3g} at {visible(tokens[high])} ({high}), "
        text += f"lowest {row[low]:.3g} at {visible(tokens[low])} ({low}). "
    return text.strip()


def _contexts_in_words(contexts):
    text = ""
    for name, pairs in contexts.items():
        text += f"{name} responded most in: "
        text += "; ".join(
            f"{list_tokens(tokens)}, at {visible(tokens[int(values.argmax())])}"
            for tokens, values in pairs
        )
        text += ". "
    return text.strip()
