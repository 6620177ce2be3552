"""Rows × positions as coloured cells: the logit lens, patching, the likeliest next tokens.

These are pictures only. CircuitsVis' TokenLogProbs shows one position at a time, under the mouse;
a grid shows all positions at once, also in print and on a telephone.
"""

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from bookkit import static, style
from bookkit.check import name_of, numbers, strings, visible
from bookkit.describe import list_tokens
from bookkit.picture import Picture, words

_CHARACTER = 0.085  # inches


def token_grid(
    values, tokens, rows, *, caption, texts=None, alt="", title="", value_axis="value",
    row_axis="", column_axis="token at this position", max_value=None,
):  # fmt: skip
    """Show one value for each row (a layer, a rank) and each position of a text.

    Args:
        values: Finite numbers, (rows, seq): blue above zero, orange below.
        tokens: The seq tokens as strings, at most 48.
        rows: A name for each row; the first is drawn on top.
        caption: The one message of the figure.
        texts: What is written into the cells, e.g. the likeliest token: seq strings for each
            row, of which a cell shows what fits; None leaves the cells empty.
        alt: What the figure shows; computed from values and texts if not given.
        title: A few words before the caption.
        value_axis: What the colour means, with its unit.
        row_axis, column_axis: What the rows and the columns are.
        max_value: The absolute value that has the full colour; the largest if not given.

    Returns:
        A Picture.

    Raises:
        ValueError: values are not finite numbers of shape (rows, seq), tokens, rows or texts
            not strings or not as many, max_value not above zero, or caption is empty.
    """
    words(caption, "caption")
    values = numbers(values, "values", "rows, seq")
    rows = strings(rows, values.shape[0], "row names", most=24)
    tokens = strings(tokens, values.shape[1], most=48)
    if texts is not None:
        if isinstance(texts, str) or len(texts) != len(rows):
            raise ValueError(f"expected texts for {len(rows)} rows, got {len(texts)}")
        texts = [strings(row, len(tokens), "texts") for row in texts]
    limit = static.limit(max_value, abs(values).max() or 1.0)
    axes = (value_axis, row_axis, column_axis)
    with rc_context({**static.STYLE, "ytick.labelsize": 9, "xtick.labelsize": 9}):
        image = static.quietly(_grid(values, tokens, rows, texts, limit, axes), colours=128)
    text = alt or _in_words(values, tokens, rows, texts, value_axis)
    return Picture(image, text, caption, title, generated=not alt)


def _grid(values, tokens, rows, texts, limit, axes):
    names = [name_of(row, 20) for row in rows]
    labels = [static.short(token, 10) for token in tokens]
    beside = _CHARACTER * max(map(len, names)) + 0.45
    cell = min((style.WIDTH - beside - 0.75) / len(tokens), 0.45)
    turned = max(map(len, labels)) * _CHARACTER > cell
    above = 0.3 + (_CHARACTER * max(map(len, labels)) if turned else 0.18)
    high = 0.26 if texts else min(max(cell, 0.2), 0.3)
    width, height = cell * len(tokens), high * len(rows)
    whole = np.array([beside + width + 0.75, above + height + 0.1] * 2)
    fig = Figure(whole[:2])
    ax = fig.add_axes(np.array([beside, 0.1, width, height]) / whole)
    lowest = -limit if values.min() < 0 else 0
    cmap = style.DIVERGING if lowest else style.HEAT
    image = ax.imshow(values, cmap=cmap, vmin=lowest, vmax=limit, aspect="auto")
    ax.set_xticks(range(len(labels)), labels, rotation=90 if turned else 0)
    ax.set_yticks(range(len(names)), names)
    ax.xaxis.tick_top(), ax.xaxis.set_label_position("top")
    ax.tick_params(length=0, pad=2)
    ax.set_ylabel(axes[1], fontsize=9.5), ax.set_xlabel(axes[2], fontsize=9.5)
    for place in np.ndindex(values.shape) if texts else ():
        _write(ax, place, texts[place[0]][place[1]], values[place], limit, cell)
    bar = fig.add_axes(np.array([beside + width + 0.08, 0.1, 0.1, height]) / whole)
    fig.colorbar(image, cax=bar).outline.set_visible(False)
    bar.set_ylabel(axes[0], fontsize=9)
    bar.tick_params(labelsize=8)
    return fig


def _write(ax, place, text, value, limit, cell):
    shown = static.short(text, max(1, int(cell / _CHARACTER)))
    colour = "white" if abs(value) > 0.55 * limit else style.INK
    ax.text(place[1], place[0], shown, ha="center", va="center", color=colour, fontsize=9)


def _in_words(values, tokens, rows, texts, value_axis):
    text = f"Grid of {len(rows)} rows by {len(tokens)} tokens: {list_tokens(tokens)}. "
    text += f"Colour: {value_axis}. "
    for number, (name, row) in enumerate(zip(rows, values, strict=True)):
        high, low = int(row.argmax()), int(row.argmin())
        text += f"{name}: "
        text += f"reads {list_tokens(texts[number])}; " if texts else ""
        text += f"highest {row[high]:.2f} at {visible(tokens[high])} ({high}), "
        text += f"lowest {row[low]:.2f} at {visible(tokens[low])} ({low}). "
    return text.strip()


def token_log_probs(tokens, log_probs, vocabulary, k=4, *, caption, alt="", title=""):
    """Show the likeliest next tokens after each token, and how likely the one was that came.

    Args:
        tokens: A text as strings, at most 49; the last one only comes.
        log_probs: Natural logarithms of probabilities, (seq, d_vocab): [i] of what comes after
            token i. The last row is not shown.
        vocabulary: The d_vocab tokens as strings.
        k: How many of the likeliest are shown.
        caption, alt, title: As in token_grid.

    Returns:
        A Picture: a column for each token read; below it the k likeliest next tokens, best
        first, and in the last row the token that came, all coloured by probability.

    Raises:
        ValueError: log_probs are above 0 or of another shape, a token is not in the
            vocabulary, there are fewer than two tokens, or k is not from 1 to d_vocab.
    """
    log_probs = numbers(log_probs, "log_probs", "seq, d_vocab")
    tokens = strings(tokens, len(log_probs), most=49)
    vocabulary = strings(vocabulary, log_probs.shape[1], "tokens of the vocabulary", most=10**6)
    if log_probs.max() > 1e-4:
        raise ValueError(f"expected log-probabilities, none above 0, got {log_probs.max():.3g}")
    if unknown := set(tokens) - set(vocabulary):
        raise ValueError(f"expected tokens of the vocabulary, got {sorted(unknown)}")
    if len(tokens) < 2 or not 1 <= k <= len(vocabulary):
        raise ValueError(
            f"expected two tokens or more and k from 1 to {len(vocabulary)}, "
            f"got {len(tokens)} and {k}"
        )
    p, after = np.exp(log_probs[:-1]), list(range(len(tokens) - 1))
    best = (-p).argsort(axis=1, kind="stable")[:, :k]  # (seq - 1, k)
    came = [vocabulary.index(token) for token in tokens[1:]]
    values = np.vstack([p[after, best.T], p[after, came]])
    texts = [[vocabulary[i] for i in rank] for rank in best.T] + [tokens[1:]]
    rows = [f"likeliest {rank + 1}" for rank in range(k)] + ["what came"]
    return token_grid(
        values, tokens[:-1], rows, texts=texts, caption=caption, alt=alt, title=title,
        value_axis="probability", column_axis="token read last", max_value=1,
    )  # fmt: skip
