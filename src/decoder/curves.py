"""Learning curves as an SVG, written by hand: training needs no plotting library to show them."""

from html import escape

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 620, 40, 350
# Colours of Okabe and Ito 2008, told apart by colour-blind readers; dashes tell them apart in grey.
CURVES = {
    "train_loss": ("training", "#0072b2", ""),
    "validation_loss": ("validation", "#d55e00", "7 4"),
}
N_TICKS = 5


def curves_svg(history):
    """Draw the losses of a history over its steps.

    Args:
        history: Records with `step` and any of `train_loss` and `validation_loss`, in nats per
            token.

    Returns:
        An SVG file's text, with a text alternative that says where each curve ends.
    """
    points = {
        name: [(record["step"], record[name]) for record in history if name in record]
        for name in CURVES
    }
    points = {name: curve for name, curve in points.items() if curve}
    steps = [step for curve in points.values() for step, _ in curve]
    losses = [loss for curve in points.values() for _, loss in curve]
    last, low, high = max(steps, default=1), min(losses, default=0.0), max(losses, default=1.0)
    high = max(high, low + 1e-3)  # a flat curve still needs a height

    def x(step):
        return LEFT + (RIGHT - LEFT) * step / last

    def y(loss):
        return BOTTOM - (BOTTOM - TOP) * (loss - low) / (high - low)

    ends = [f"{CURVES[name][0]} {curve[-1][1]:.3f}" for name, curve in points.items()]
    summary = f"Loss in nats per token at step {last}: {', '.join(ends) or 'none yet'}."
    shapes = [_frame()]
    for i in range(N_TICKS):
        share = i / (N_TICKS - 1)
        step, loss = round(share * last), low + share * (high - low)
        shapes.append(_text(x(step), BOTTOM + 18, step, "middle"))
        shapes.append(_text(LEFT - 8, y(loss) + 4, f"{loss:.2f}", "end"))
    for i, (name, curve) in enumerate(points.items()):
        label, colour, dashes = CURVES[name]
        line = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in curve)
        style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
        shapes.append(f'<polyline points="{line}" {style}/>')
        shapes.append(f'<polyline points="{400 + 110 * i},22 {430 + 110 * i},22" {style}/>')
        shapes.append(_text(436 + 110 * i, 26, label))
    shapes.append(_text(LEFT, 26, "loss, nats per token"))
    shapes.append(_text(RIGHT, HEIGHT - 12, "steps", "end"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="13">\n<title>Learning curves</title>\n'
        f"<desc>{escape(summary)}</desc>\n" + "\n".join(shapes) + "\n</svg>\n"
    )


def _frame():
    axes = f"{LEFT},{TOP} {LEFT},{BOTTOM} {RIGHT},{BOTTOM}"
    return (
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        f'<polyline points="{axes}" fill="none" stroke="#444"/>'
    )


def _text(x, y, text, anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(str(text))}</text>'
