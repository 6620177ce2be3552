"""The static pictures: what stands in for CircuitsVis where no script runs."""

import math
import warnings

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bookkit import style
from bookkit.check import visible
from bookkit.picture import draw

LABEL = 18  # characters of a token beside an axis; the text alternative has all of it
MOST_LABELS = 24
MASKED = "#c8c8c8"  # the colour that CircuitsVis gives to what lies after the query
# A token is no formula, whatever dollars and backslashes it holds.
_STYLE = {**style.HOUSE, "text.parse_math": False, "axes.grid": False}


def _quietly(fig, **options):
    with warnings.catch_warnings():
        # A script that the font lacks is drawn as boxes; the text alternative has the token.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        return draw(fig, **options)


def short(token, length=LABEL):
    token = visible(token)
    return token if len(token) <= length else token[: length - 1] + "…"


def _label_axis(axis, tokens, rotation):
    step = math.ceil(len(tokens) / MOST_LABELS) or 1
    positions = range(0, len(tokens), step)
    options = {"rotation": rotation, "rotation_mode": "anchor"} if rotation else {}
    alignment = {"ha": "right", "va": "center"} if rotation == 90 else {}
    axis.set_ticks(
        positions, [short(tokens[i]) for i in positions], fontsize=8.5, **options, **alignment
    )
    axis.set_tick_params(length=0, pad=3)


def _heat(ax, pattern, limit, masked):
    shown = np.ma.masked_array(pattern, np.triu(np.ones_like(pattern), 1) if masked else False)
    lowest = -limit if pattern.min() < 0 else 0
    cmap = (style.DIVERGING if lowest else style.HEAT).with_extremes(bad=MASKED)
    image = ax.imshow(shown, cmap=cmap, vmin=lowest, vmax=limit, interpolation="nearest")
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color("#9a9a9a")
    return image


def heads_picture(patterns, tokens, limit, masked):
    """Draw patterns, (n_heads, seq_q, seq_k), side by side on one colour scale.

    Args:
        patterns: Weights, (n_heads, seq_q, seq_k).
        tokens: seq_q strings.
        limit: The weight that has the darkest colour.
        masked: Whether what lies after the query is drawn grey.

    Returns:
        An Image.
    """
    n_heads = len(patterns)
    columns = min(n_heads, 4)
    rows = math.ceil(n_heads / columns)
    size = 3.9 if columns == 1 else style.WIDTH / columns
    with rc_context(_STYLE):
        fig = Figure((size * columns + 1.2, (size + 0.15) * rows + 0.6), layout="compressed")
        axes = fig.subplots(rows, columns, squeeze=False)
        for head, ax in enumerate(axes.flat):
            if head >= n_heads:
                ax.set_axis_off()
                continue
            image = _heat(ax, patterns[head], limit, masked)
            if n_heads > 1:
                ax.set_title(f"Head {head}", fontsize=10)
            left, bottom = head % columns == 0, head + columns >= n_heads
            _label_axis(ax.yaxis, tokens if left else [], 0)
            _label_axis(ax.xaxis, tokens if bottom else [], 90)
        fig.supylabel("query: who looks", fontsize=9.5)
        fig.supxlabel("key: who is looked at", fontsize=9.5)
        bar = fig.colorbar(image, ax=axes, shrink=0.7, aspect=30, pad=0.02)
        bar.ax.tick_params(labelsize=9)
        bar.outline.set_visible(False)
        return _quietly(fig)


def tokens_picture(tokens, values, low, high):
    """Draw tokens one after the other, each on the colour of its value.

    Args:
        tokens: Strings, (seq,).
        values: Their values, (seq,).
        low: The value (below zero, or zero) that has the full orange.
        high: The value that has the full blue.

    Returns:
        An Image.
    """
    per_line, advance, height = 62, 0.094, 0.3  # inches of a character of DejaVu Sans Mono
    places, column, line = [], 0, 0
    for token in tokens:
        text = short(token, per_line - 1)
        if column and column + len(text) > per_line:
            column, line = 0, line + 1
        places.append((column, line, text))
        column += len(text) + 0.35
        if "\n" in token:
            column, line = 0, line + 1
    lines = places[-1][1] + 1
    with rc_context(_STYLE):
        fig = Figure((per_line * advance, lines * height))
        ax = fig.add_axes((0, 0, 1, 1), xlim=(0, per_line), ylim=(lines, 0))
        ax.set_axis_off()
        for (column, line, text), value in zip(places, values, strict=True):
            box = {"facecolor": token_colour(value, low, high), "edgecolor": "#d0d0d0"}
            ax.add_patch(_rectangle(column, line, len(text), box))
            ax.text(
                *(column + 0.1, line + 0.52, text),
                **{"family": "DejaVu Sans Mono", "fontsize": 10.5, "va": "center"},
            )
        return _quietly(fig)


def _rectangle(column, line, width, box):
    return Rectangle((column, line + 0.08), width + 0.2, 0.84, linewidth=0.7, **box)


def token_colour(value, low, high):
    """Mix white with orange below zero and blue above it; black text can be read on either."""
    full, end = (style.TOKEN_NEGATIVE, low) if value < 0 else (style.TOKEN_POSITIVE, high)
    share = min(max(value / end, 0), 1) if end else 0
    parts = [int(full[i : i + 2], 16) for i in (1, 3, 5)]
    return tuple((255 + (part - 255) * share) / 255 for part in parts)
