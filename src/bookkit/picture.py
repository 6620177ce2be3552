"""A static picture with its caption and text alternative, as one object that a notebook shows."""

import base64
import hashlib
import html
import io
from typing import NamedTuple

from PIL import Image as PillowImage

from bookkit import style

# Inline, because an untrusted notebook and GitHub keep no style sheet.
_IMG_STYLE = "display:block;max-width:100%;height:auto;margin:0 auto;border-radius:6px"


class Image(NamedTuple):
    """An encoded picture: its bytes, its media type and its width in CSS pixels."""

    data: bytes
    mime: str
    width: int

    @property
    def uri(self):
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode('ascii')}"


def draw(fig, dpi=style.DPI, colours=64, tight=True, rounds=0):
    """Draw a matplotlib figure as a small PNG.

    Args:
        fig: A matplotlib Figure.
        dpi: Dots per inch.
        colours: Size of the palette: a chart needs few colours, and a palette takes a fourth
            of the bytes of full colour.
        rounds: Of k-means that move the palette to the colours of the picture: without any, a
            colour that fills a single cell may turn grey.
        tight: Whether empty margins are cut off and what stands out of the figure is kept.

    Returns:
        An Image, shown at the width that the figure has in inches.
    """
    buffer = io.BytesIO()
    box = "tight" if tight else None
    fig.savefig(buffer, format="png", dpi=dpi, facecolor=style.CARD, bbox_inches=box)
    full = PillowImage.open(buffer).convert("RGB")
    small = io.BytesIO()
    few = full.quantize(colours, kmeans=rounds, dither=PillowImage.Dither.NONE)
    few.save(small, "png", optimize=True)
    return Image(small.getvalue(), "image/png", round(full.width * 96 / dpi))


def words(text, name):
    """Return text, or raise ValueError where it is not a string that says something."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"expected {name} to be a sentence, got {text!r}")
    return text


class Picture:
    """A picture that says what it shows, wherever it is read.

    A notebook shows it as a figure with its caption; where HTML is not kept, as the picture
    alone. Scripts of subclasses make it interactive where scripts run.

    Args:
        image: The Image.
        alt: What the picture shows, for those who do not see it.
        caption: The one message of the figure.
        title: A few words before the caption.
        generated: True where alt was computed from the data. Such a text holds rounded numbers,
            which nbval must not compare (tests/nbval_sanitize.cfg).
    """

    def __init__(self, image, alt, caption="", title="", generated=False):
        self.image = image
        self.alt = alt
        self.caption = caption
        self.title = title if not title or title.rstrip()[-1:] in ".?!" else f"{title}."
        self.generated = generated

    def scripts(self):
        """What follows the picture inside its card; nothing in a static figure."""
        return ""

    @property
    def id(self):
        """The same content has the same id on every machine; other content another one."""
        parts = [self.alt, self.caption, self.title, self.scripts()]
        digest = hashlib.sha256("\0".join(parts).encode() + self.image.data)
        return f"figure-{digest.hexdigest()[:12]}"

    def html(self):
        """The figure as HTML that shows its picture without scripts and without style sheets."""
        kind = ' data-alt="generated"' if self.generated else ""
        # "dark-light" tells the book's theme that the picture is made for both modes.
        img = (
            f'<img class="bookkit-picture dark-light" src="{self.image.uri}" '
            f'alt="{html.escape(self.alt)}"{kind} width="{self.image.width}" '
            f'style="{_IMG_STYLE}">'
        )
        title = f"<strong>{html.escape(self.title)}</strong> " if self.title else ""
        return (
            f'<figure class="bookkit" id="{self.id}" style="margin:1em 0">'
            f'<div class="bookkit-card" style="overflow-x:auto">{img}{self.scripts()}</div>'
            f"<figcaption>{title}{html.escape(self.caption)}</figcaption></figure>"
        )

    def __repr__(self):
        return "Figure: " + " ".join(part for part in (self.title, self.caption) if part)

    def _repr_html_(self):
        return self.html()

    def _repr_mimebundle_(self, include=None, exclude=None):
        bundle = {"text/plain": repr(self), "text/html": self.html()}
        if self.image.mime == "image/png":
            bundle["image/png"] = base64.b64encode(self.image.data).decode("ascii")
        return bundle
