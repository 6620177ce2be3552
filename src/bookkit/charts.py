"""Loss curves between their floor and their ceiling."""

import matplotlib.pyplot as plt

from bookkit import style
from bookkit.check import name_of, numbers
from bookkit.picture import Picture, draw, words

_GAP = 0.062  # of the height of the axes: a line of text beside them
_REFERENCE = {"floor": (0, (1, 1.5)), "ceiling": (0, (1, 1.5)), "baseline": (0, (6, 3))}


def loss_curves(
    curves, floor=None, ceiling=None, baselines=None, *, caption, alt="", title="",
    unit="nats per token", names=("floor", "ceiling"),
):  # fmt: skip
    """Show losses while training, between what cannot be beaten and what knows nothing.

    Args:
        curves: Name of each curve -> its points, [(step, loss), ...].
        floor: The best possible loss, or None.
        ceiling: The loss of a model that knows nothing, ln d_vocab, or None.
        baselines: Name -> loss of other models on the same text.
        caption: The one message of the figure.
        alt: What the figure shows; computed from the points if not given.
        title: A few words before the caption.
        unit: Of the loss.
        names: What floor and ceiling are called in the picture.

    Returns:
        A Picture.

    Raises:
        ValueError: there is no curve, or one without points, or a point is not a pair of finite
            numbers, or caption is empty.
    """
    words(caption, "caption")
    if not curves:
        raise ValueError("expected at least one curve, got none")
    points = {k: numbers(v, f"curve {k!r}", "points, 2") for k, v in curves.items()}
    for name, curve in points.items():
        if curve.shape[1] != 2:
            raise ValueError(f"expected (step, loss) pairs in {name!r}, got {curve.shape}")
    lines = _references(floor, ceiling, baselines or {}, names)
    fig, ax = plt.subplots(figsize=(style.WIDTH, 3.5), layout="constrained")
    ends = [_plot(ax, name, curve) for name, curve in points.items()]
    ends += [_rule(ax, *line) for line in lines]
    ax.set(xlabel="training step", ylabel=f"loss ({unit})")
    ax.margins(x=0.02)
    _name_at_the_right(ax, ends)
    image = draw(fig)
    plt.close(fig)
    text = alt or _describe(points, lines, unit)
    return Picture(image, text, caption, title, generated=not alt)


def _references(floor, ceiling, baselines, names):
    given = [(names[0], floor, "floor"), (names[1], ceiling, "ceiling")]
    given += [(name, value, "baseline") for name, value in baselines.items()]
    return [
        (name, float(numbers([value], name, "1")[0]), kind)
        for name, value, kind in given
        if value is not None
    ]


def _plot(ax, name, curve):
    (line,) = ax.plot(*curve.T, solid_capstyle="round")
    return curve[-1, 1], name, line.get_color(), "bold"


def _rule(ax, name, value, kind):
    colour = style.INK if kind != "baseline" else style.QUIET
    ax.axhline(value, color=colour, linestyle=_REFERENCE[kind], linewidth=1.3)
    return value, f"{name} {value:.3f}", colour, "normal"


def _name_at_the_right(ax, ends):
    """Write each name where its line ends, pushed apart where two would overlap."""
    low, high = ax.get_ylim()
    ends = sorted(ends)
    heights = spread([(end[0] - low) / (high - low) for end in ends], _GAP)
    for height, (_, name, colour, weight) in zip(heights, ends, strict=True):
        place = {"xy": (1.015, height), "xycoords": "axes fraction", "va": "center"}
        text = {"color": colour, "weight": weight, "fontsize": 9.5, "parse_math": False}
        ax.annotate(name_of(name, 28), **place, **text)


def spread(heights, gap):
    """Move sorted heights as little as it takes to leave gap between neighbours.

    Args:
        heights: Ascending numbers.
        gap: The least distance of two neighbours.

    Returns:
        Heights with the same order. A group that is pushed apart keeps its mean.
    """
    groups = []  # of [sum of heights, number of members]
    for height in heights:
        groups.append([height, 1])
        while len(groups) > 1 and _top(groups[-2], gap) + gap > _bottom(groups[-1], gap):
            total, size = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += size
    return [_bottom(g, gap) + gap * i for g in groups for i in range(g[1])]


def _bottom(group, gap):
    return group[0] / group[1] - gap * (group[1] - 1) / 2


def _top(group, gap):
    return group[0] / group[1] + gap * (group[1] - 1) / 2


def _describe(points, lines, unit):
    text = f"Loss in {unit} against the training step. "
    for name, curve in points.items():
        (first, start), (last, end) = curve[0], curve[-1]
        text += f"{name}: from {start:.3f} at step {first:g} to {end:.3f} at step {last:g}. "
    return text + " ".join(f"{name}: {value:.3f}." for name, value, _ in lines)
