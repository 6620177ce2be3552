"""The map of the decoder, with the piece lit that a chapter builds."""

from html import escape
from typing import NamedTuple

from bookkit.picture import Image, Picture

WIDTH, HEIGHT = 520, 292
PIECES = {
    "tokens": "tokens",
    "embed": "embedding",
    "positions": "positions",
    "residual": "residual stream",
    "block": "block",
    "norm": "norm",
    "attention": "attention",
    "scores": "scores",
    "mask": "mask",
    "softmax": "softmax",
    "heads": "heads",
    "mlp": "dense layers",
    "skip": "skip connections",
    "unembed": "unembedding",
    "logits": "logits",
    "decoder": "the whole decoder",
    "training": "training",
    "generation": "generation",
}
WORDS = (
    "Map of the decoder. Tokens are embedded, positions are added, then come n_layers blocks, a "
    "norm and the unembedding, which gives logits. In a block: norm, attention, added to what "
    "skips them; norm, dense layers, added to what skips them. In attention, for each head: Q, K "
    "and V, scores, mask, softmax, z, and W_O. Training goes from the logits to a loss, "
    "generation from the logits to the next token. "
)
_STYLE = """<style>text{font:13px system-ui,'DejaVu Sans',sans-serif;fill:#333;text-anchor:middle}
.s{font-size:11.5px;fill:#595959}.l text,text.l{font-weight:700;fill:#1b1b1b}
rect{fill:#f1f1ee;stroke:#8a8a86}.l rect,.l circle{fill:#ffd27d;stroke:#a84300;stroke-width:2.5}
circle{fill:#fcfcfa;stroke:#8a8a86}path{fill:none;stroke:#6b6b68;stroke-width:1.3}
path.l{stroke:#a84300;stroke-width:3}.f{fill:none;stroke:#b5b5b0;stroke-dasharray:4 3}
.l .f,.f.l{fill:#fff3d9;stroke:#a84300;stroke-width:2}</style>"""


class Part(NamedTuple):
    """A box of the map: the pieces that light it, its text, its left, middle height and width."""

    pieces: str
    text: str
    x: int
    y: int
    width: int


TOP = [
    Part("tokens generation", "tokens", 8, 50, 58),
    Part("embed", "embed", 80, 50, 58),
    Part("block", "n_layers blocks", 186, 50, 120),
    Part("norm", "norm", 322, 50, 48),
    Part("unembed", "unembed", 384, 50, 74),
    Part("positions", "positions", 119, 96, 76),
]
BLOCK = [
    Part("norm", "norm", 64, 178, 52),
    Part("attention heads", "attention", 134, 178, 84),
    Part("norm", "norm", 284, 178, 52),
    Part("mlp", "dense layers", 354, 178, 98),
]
ATTENTION = [
    Part("attention heads", "Q, K, V", 34, 260, 64),
    Part("attention scores", "scores", 120, 260, 60),
    Part("attention mask", "mask", 202, 260, 52),
    Part("attention softmax", "softmax", 276, 260, 70),
    Part("attention heads", "z", 368, 260, 36),
    Part("attention heads", "W_O", 426, 260, 52),
]
PLUS = [("positions", 157, 50), ("skip", 245, 178), ("skip", 479, 178)]


def decoder_map(*lit, caption=""):
    """Show the whole decoder with some pieces lit.

    Args:
        lit: Names of pieces, of PIECES; none shows the map alone.
        caption: The one message; names the lit pieces if not given.

    Returns:
        A Picture (SVG, the same on every machine).

    Raises:
        ValueError: a name is not in PIECES; the message has all that are.
    """
    unknown = [name for name in lit if name not in PIECES]
    if unknown:
        raise ValueError(f"expected pieces of the decoder, {', '.join(PIECES)}; got {unknown}")
    names = " and ".join(PIECES[name] for name in lit)
    svg = _svg(set(lit)).encode()
    alt = WORDS + (f"Lit: {names}." if lit else "Nothing is lit.")
    where = f"Where we are: {names}." if lit else "The decoder that this book builds."
    return Picture(Image(svg, "image/svg+xml", 560), alt, caption or where)


def _svg(lit):
    if "decoder" in lit:
        lit = lit | {p for p in PIECES if p not in ("training", "generation")}
    shapes = [*_frames(lit), *_wires(lit), *_skips(lit), *_ends(lit)]
    shapes += [_box(part, lit) for part in TOP + BLOCK + ATTENTION]
    shapes += [_plus(*plus, lit) for plus in PLUS]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}">{_STYLE}<rect width="{WIDTH}" height="{HEIGHT}" '
        f'rx="8" style="fill:#fcfcfa;stroke:none"/>{"".join(shapes)}</svg>'
    )


def _class(pieces, lit):
    return ' class="l"' if lit & set(pieces.split()) else ""


def _box(part, lit):
    middle = part.x + part.width / 2
    return (
        f'<g{_class(part.pieces, lit)}><rect x="{part.x}" y="{part.y - 15}" '
        f'width="{part.width}" height="30" rx="5"/>'
        f'<text x="{middle:g}" y="{part.y + 4.5}">{escape(part.text)}</text></g>'
    )


def _plus(piece, x, y, lit):
    return (
        f'<g{_class(piece, lit)}><circle cx="{x}" cy="{y}" r="9"/>'
        f'<path d="M{x - 5} {y}h10M{x} {y - 5}v10" style="stroke:#333;stroke-width:1.5"/></g>'
    )


def _arrow(x, y, length, piece, lit):
    mark = _class(piece, lit)
    return f'<path{mark} d="M{x} {y}h{length}m-5 -4l5 4l-5 4"/>'


def _wires(lit):
    stream = [(138, 50, 10), (166, 50, 20), (306, 50, 16), (16, 178, 48)]
    stream += [(254, 178, 30), (488, 178, 20)]
    plain = [(66, 50, 14), (370, 50, 14), (458, 50, 11), (116, 178, 18), (218, 178, 18)]
    plain += [(336, 178, 18), (452, 178, 18)]
    plain += [(x, 260, 22) for x in (98, 180, 254, 346, 404)]
    yield from (_arrow(*wire, "residual", lit) for wire in stream)
    yield from (_arrow(*wire, "", lit) for wire in plain)
    yield f'<path{_class("positions", lit)} d="M157 81v-22m-4 5l4 -5l4 5"/>'


def _skips(lit):
    mark = _class("skip residual", lit)
    yield f'<path{mark} d="M38 178v-29q0 -7 7 -7h193q7 0 7 7v20m-4 -5l4 5l4 -5"/>'
    yield f'<path{mark} d="M268 178v-29q0 -7 7 -7h197q7 0 7 7v20m-4 -5l4 5l4 -5"/>'


def _frames(lit):
    for piece, y, height, text in (
        ("block", 121, 81, "one block"),
        ("attention heads", 212, 72, "attention: n_heads heads at once, then W_O"),
    ):
        mark, bold = ("f l", "l") if lit & set(piece.split()) else ("f", "s")
        yield f'<rect class="{mark}" x="6" y="{y}" width="508" height="{height}" rx="8"/>'
        yield f'<text class="{bold}" style="text-anchor:start" x="16" y="{y + 16}">{text}</text>'


def _ends(lit):
    bold = "l" if lit & {"logits"} else ""
    yield f'<text class="{bold}" x="492" y="54.5">logits</text>'
    mark = _class("training", lit)
    yield f'<path{mark} d="M492 62v22m-4 -5l4 5l4 -5"/>'
    yield f'<text class="{"l" if mark else "s"}" x="458" y="99">training: loss</text>'
    mark = _class("generation", lit)
    yield f'<path{mark} d="M492 42v-20q0 -8 -8 -8h-442q-8 0 -8 8v13m-4 -5l4 5l4 -5"/>'
    text = "generation: the next token is appended"
    yield f'<text class="{"l" if mark else "s"}" x="262" y="28">{text}</text>'
