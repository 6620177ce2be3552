"""Pictures of the results: one for each part, near-white, so that they serve light and dark."""

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from bookkit import style  # noqa: E402

# Text stays text, and ids do not change from one run to the next.
SETTINGS = {"svg.hashsalt": "decoder", "svg.fonttype": "path", **style.HOUSE}


def ratios_plot(part, title):
    """Each ratio as a point with its spread, grouped by the work; a line where both are as fast."""
    rows = [row for row in part["rows"] if row["better"] == "higher"]
    works = list(dict.fromkeys(row["work"] for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = [(work, [row for row in rows if row["work"] == work]) for work in works]
    height = 0.24 * sum(len(group) + 1.3 for _, group in lines) + 0.8
    figure, axes = plt.subplots(figsize=(1.25 * style.WIDTH, height), layout="constrained")
    colours = dict(zip(names, list(style.COLOURS.values()) * len(names), strict=False))
    y, ticks, labels = 0.0, [], []
    for work, group in lines:
        axes.text(0.0, y, work, weight="bold", va="center", transform=axes.get_yaxis_transform())
        for row in group:
            y += 1
            _point(axes, row, y, colours[row["name"]])
            ticks.append(y)
            labels.append(row["name"])
        y += 1.3
    axes.set_yticks(ticks, labels)
    axes.set_ylim(y - 0.6, -0.7)
    axes.axvline(1, color=style.QUIET, linewidth=1)
    axes.set_xlim(0, 1.15 * max([1.2, *(row["high"] for row in rows)]))
    axes.grid(axis="x")
    axes.set(title=title, xlabel="ratio of times: above 1, this project is faster")
    return _svg(figure)


def _point(axes, row, y, colour):
    axes.plot([row["low"], row["high"]], [y, y], color=colour, linestyle="-", linewidth=2.5)
    axes.plot(row["median"], y, "o", color=colour, markersize=6)
    axes.annotate(
        f"{row['median']:.2f}", (row["high"], y), (6, 0), textcoords="offset points", va="center"
    )


def race_plot(part):
    """Held-out loss over time, in units of the recipe's: one thin line for each seed."""
    figure, axes = plt.subplots(figsize=(1.25 * style.WIDTH, 3.4), layout="constrained")
    labels = {"recipe": "the recipe", "best": "this project's best"}
    looks = {"recipe": ("blue", "--"), "best": ("vermillion", "-")}
    for number, seed in enumerate(part["details"]["seeds"]):
        for name, curve in seed["curves"].items():
            colour, line = looks[name]
            how = dict(color=style.COLOURS[colour], linestyle=line, linewidth=1.3)
            axes.plot(*zip(*curve, strict=True), **how, label=labels[name] if not number else None)
    ends = [seed["recipe_loss"] for seed in part["details"]["seeds"]]
    line = dict(color=style.QUIET, linewidth=1, linestyle=":")
    axes.axhline(sum(ends) / len(ends), **line, label="where the recipe ends")
    axes.set(
        title="Time to loss, tiny Shakespeare",
        xlabel="time in steps of training, the recipe's = 1",
        ylabel="held-out loss (nats per character)",
        xlim=(0, None),
    )
    axes.legend()
    return _svg(figure)


def memory_plot(part):
    """Memory over length, both on scales of powers."""
    details = part["details"]
    figure, axes = plt.subplots(figsize=(1.25 * style.WIDTH, 3.4), layout="constrained")
    for name, needed in details["bytes"].items():
        axes.plot(details["lengths"], [max(x, 2**16) / 2**20 for x in needed], "o", label=name)
        axes.lines[-1].set_linestyle(style.LINES[len(axes.lines) - 1])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(details["lengths"], [str(n) for n in details["lengths"]])
    axes.set(
        title="Memory of attention, beyond its inputs",
        xlabel="length (tokens)",
        ylabel="highest memory (MiB)",
    )
    axes.legend()
    return _svg(figure)


def _svg(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue()


def _drawn(draw):
    def draw_in_style(part):
        with matplotlib.rc_context(SETTINGS):
            return draw(part)

    return draw_in_style


DRAW = {
    "training": _drawn(lambda part: ratios_plot(part, "A step of training")),
    "race": _drawn(race_plot),
    "generation": _drawn(lambda part: ratios_plot(part, "Writing with a cache")),
    "memory": _drawn(memory_plot),
}
