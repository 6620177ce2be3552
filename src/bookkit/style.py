"""The house style of every matplotlib picture.

The colours are those of Okabe and Ito (2008), which readers with any of the common kinds of colour
blindness can tell apart, each darkened until it can also be read as text: at least 4.5 to 1 on the
card. The card is near-white in light and in dark mode, so that one picture serves both.
"""

import matplotlib
from matplotlib.colors import LinearSegmentedColormap

CARD = "#fcfcfa"
INK = "#1b1b1b"
QUIET = "#595959"
COLOURS = {
    "blue": "#0067a5",
    "vermillion": "#bf4f00",
    "green": "#00785a",
    "purple": "#a6487f",
    "ochre": "#846000",
    "slate": "#4a5568",
}
# A second sign beside the colour: lines stay apart in a photocopy.
LINES = ["-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 2)), (0, (1, 1))]

# Weights and values: white is none, deep blue much, orange below zero.
POSITIVE = "#003f7f"
NEGATIVE = "#a84300"
# Behind tokens: light enough at full strength for black text (more than 8 to 1).
TOKEN_POSITIVE = "#56b4e9"
TOKEN_NEGATIVE = "#e69f00"
HEAT = LinearSegmentedColormap.from_list("heat", ["#ffffff", POSITIVE])
DIVERGING = LinearSegmentedColormap.from_list("diverging", [NEGATIVE, "#ffffff", POSITIVE])

# A picture 5.6 inches wide with 10.5 point text still has text of 9 pixels on a telephone.
WIDTH = 5.6
DPI = 160
HOUSE = {
    "figure.figsize": (WIDTH, 3.3),
    "figure.facecolor": CARD,
    "figure.dpi": 100,
    "savefig.facecolor": CARD,
    "axes.facecolor": CARD,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=list(COLOURS.values()), linestyle=LINES),
    "grid.color": "#dddddb",
    "grid.linewidth": 0.7,
    "lines.linewidth": 2.0,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "font.size": 10.5,
    "font.family": "DejaVu Sans",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "image.cmap": "cividis",
}


def use():
    """Make the house style matplotlib's default; importing `bookkit.figures` does it."""
    matplotlib.rcParams.update(HOUSE)
