"""The static pictures: what stands in for CircuitsVis where no script runs."""

import math
import warnings
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bookkit import style
from bookkit.check import clip, numbers, visible
from bookkit.picture import draw

LABEL = 18  # characters of a token beside an axis; the text alternative has all of it
LINE = 0.125  # inches that a line of labels takes
MONO = {"family": "DejaVu Sans Mono", "va": "center"}
MASKED = "#c8c8c8"  # the colour that CircuitsVis gives to what lies after the query
# A token is no formula, whatever dollars and backslashes it holds.
STYLE = {**style.HOUSE, "text.parse_math": False, "axes.grid": False}


def quietly(fig, **options):
    with warnings.catch_warnings():
        # A script that the font lacks is drawn as boxes; the text alternative has the token.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        return draw(fig, **options)


def limit(given, default):
    """The value that has the full colour, or a ValueError where it is not above zero."""
    value = numbers([default if given is None else given], "max_value", "1")[0]
    if value <= 0:
        raise ValueError(f"expected max_value above 0, got {given!r}")
    return float(f"{value:.3g}")


def short(token, length=LABEL):
    return clip(visible(token), length)


def _heat(ax, pattern, limit, masked):
    shown = np.ma.masked_array(pattern, np.triu(np.ones_like(pattern), 1) if masked else False)
    lowest = -limit if pattern.min() < 0 else 0
    cmap = (style.DIVERGING if lowest else style.HEAT).with_extremes(bad=MASKED)
    image = ax.imshow(shown, cmap=cmap, vmin=lowest, vmax=limit, interpolation="nearest")
    ax.spines[:].set(visible=True, color="#9a9a9a")
    ax.set(xticks=[], yticks=[])
    ax.tick_params(length=0, pad=2, labelsize=8)
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
    labels = [short(token) for token in tokens]
    grid = _grid(len(patterns), max(map(len, labels)))
    with rc_context(STYLE):
        fig = Figure((grid.width, grid.height))
        for head, pattern in enumerate(patterns):
            ax = fig.add_axes(grid.box(head))
            image = _heat(ax, pattern, limit, masked)
            if len(patterns) > 1:
                ax.set_title(f"Head {head}", fontsize=9.5, pad=3)
            _label(ax, labels, grid, head % grid.columns == 0, head + grid.columns >= len(patterns))
        _name_axes_and_colours(fig, grid, image)
        return quietly(fig, colours=256, tight=False)


class _Grid(NamedTuple):
    """Where the heads are drawn, in inches."""

    columns: int
    size: float  # of one head
    margin: float  # for the tokens and the name of the axis
    width: float
    height: float

    def box(self, head):
        row, column = divmod(head, self.columns)
        left, top = self.margin + column * (self.size + 0.1), row * (self.size + 0.32) + 0.27
        return self.fractions(left, self.height - top - self.size, self.size, self.size)

    def fractions(self, *inches):
        wholes = (self.width, self.height, self.width, self.height)
        return [part / whole for part, whole in zip(inches, wholes, strict=True)]


def _grid(n_heads, longest):
    columns = next(c for c in (1, 2, 3, 4) if c == 4 or n_heads <= c * c)
    rows = math.ceil(n_heads / columns)
    margin = 0.068 * longest + 0.36
    size = min((style.WIDTH - margin - 0.62) / columns - 0.1, 3.4)
    width = margin + columns * (size + 0.1) + 0.62
    return _Grid(columns, size, margin, width, margin + rows * (size + 0.32))


def _label(ax, labels, grid, rows, columns):
    shown = range(0, len(labels), math.ceil(len(labels) * LINE / grid.size))
    names = [labels[i] for i in shown]
    turned = max(map(len, labels)) * 0.075 > grid.size / len(labels)
    if rows:
        ax.set_yticks(shown, names)
    if columns:
        ax.set_xticks(shown, names, rotation=90 if turned else 0)


def _name_axes_and_colours(fig, grid, image):
    top = grid.height - grid.size - 0.27
    bar = fig.add_axes(grid.fractions(grid.width - 0.5, top, 0.1, grid.size))
    fig.colorbar(image, cax=bar).outline.set_visible(False)
    bar.tick_params(labelsize=8)
    left, bottom, *_ = grid.fractions(0.07, 0.07, 0, 0)
    fig.text(left, 0.5, "query: who looks", rotation=90, va="center", fontsize=9)
    fig.text(0.5, bottom, "key: who is looked at", ha="center", fontsize=9)


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
    with rc_context(STYLE):
        fig = Figure((per_line * advance, lines * height))
        ax = fig.add_axes((0, 0, 1, 1), xlim=(0, per_line), ylim=(lines, 0))
        ax.set_axis_off()
        for (column, line, text), value in zip(places, values, strict=True):
            draw_token(ax, column, line, text, token_colour(value, low, high))
        return quietly(fig, tight=False)


def draw_token(ax, column, line, text, colour):
    """Put a token on its colour; x counts characters, y lines."""
    size, box = (len(text) + 0.2, 0.84), {"facecolor": colour, "edgecolor": "#d0d0d0"}
    ax.add_patch(Rectangle((column, line + 0.08), *size, linewidth=0.7, **box))
    ax.text(column + 0.1, line + 0.52, text, fontsize=10.5, **MONO)


def token_colour(value, low, high):
    """Mix white with orange below zero and blue above it; black text can be read on either."""
    full, end = (style.TOKEN_NEGATIVE, low) if value < 0 else (style.TOKEN_POSITIVE, high)
    share = min(max(value / end, 0), 1) if end else 0
    parts = [int(full[i : i + 2], 16) for i in (1, 3, 5)]
    return tuple((255 + (part - 255) * share) / 255 for part in parts)
