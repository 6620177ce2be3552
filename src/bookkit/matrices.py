"""Small matrices as coloured cells with their numbers."""

import matplotlib.pyplot as plt
import numpy as np

from bookkit import style
from bookkit.check import name_of, numbers, strings
from bookkit.picture import Picture, draw, words


def heatmap(
    matrix, rows, columns, *, caption, alt="", title="", digits=2, row_axis="", column_axis="",
):  # fmt: skip
    """Show a small matrix as coloured cells with their numbers.

    Args:
        matrix: Numbers, (rows, columns). Infinities and NaN are written on grey.
        rows: A name for each row.
        columns: A name for each column.
        caption: The one message of the figure.
        alt: What the figure shows; the matrix in words if not given.
        title: A few words before the caption.
        digits: Decimals of the numbers in the cells.
        row_axis, column_axis: What the rows and the columns are.

    Returns:
        A Picture.

    Raises:
        ValueError: matrix is not numbers of shape (rows, columns), names are not strings or not
            as many, or caption is empty.
    """
    words(caption, "caption")
    matrix = numbers(matrix, "matrix", "rows, columns", finite=False)
    rows = strings(rows, matrix.shape[0], "row names", most=40)
    columns = strings(columns, matrix.shape[1], "column names", most=40)
    with plt.rc_context({"text.parse_math": False, "axes.grid": False}):
        fig = _heatmap(matrix, rows, columns, digits, (row_axis, column_axis))
        image = draw(fig)
    plt.close(fig)
    text = alt or _matrix_in_words(matrix, rows, columns, digits)
    return Picture(image, text, caption, title, generated=not alt)


def _heatmap(matrix, rows, columns, digits, axes):
    rows, columns = ([name_of(name, 24) for name in names] for names in (rows, columns))
    cell = min(0.62, 5.0 / len(columns))
    turned = max(map(len, columns)) * 0.085 > cell
    above = 0.085 * max(map(len, columns)) if turned else 0.2
    beside = 0.085 * max(map(len, rows))
    size = (max(cell * len(columns) + beside + 0.6, 2.8), 0.42 * len(rows) + above + 0.6)
    fig, ax = plt.subplots(figsize=size, layout="constrained")
    finite = np.ma.masked_invalid(matrix)
    limit = float(abs(finite).max()) if finite.count() else 1.0
    low = -limit if finite.count() and finite.min() < 0 else 0
    cmap = (style.DIVERGING if low else style.HEAT).with_extremes(bad="#c8c8c8")
    ax.imshow(finite, cmap=cmap, vmin=low, vmax=limit or 1, aspect="auto")
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.xaxis.tick_top(), ax.xaxis.set_label_position("top")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(ylabel=axes[0], xlabel=axes[1])
    if turned:
        ax.tick_params(axis="x", labelrotation=90)
    for (row, column), value in np.ndenumerate(matrix):
        dark = np.isfinite(value) and abs(value) > 0.55 * limit
        colour = "white" if dark else style.INK
        text = _cell(value, digits)
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=9.5)
    return fig


def _cell(value, digits):
    if np.isfinite(value):
        return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return "NaN" if np.isnan(value) else ("∞" if value > 0 else "\N{MINUS SIGN}∞")


def _matrix_in_words(matrix, rows, columns, digits):
    text = f"Table of {len(rows)} rows by {len(columns)} columns. Columns: {', '.join(columns)}."
    for name, row in zip(rows, matrix, strict=True):
        text += f" {name}: {', '.join(_cell(value, digits) for value in row)}."
    return text
