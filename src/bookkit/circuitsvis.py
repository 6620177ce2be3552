"""CircuitsVis with what it lacks: one bundle a page, escaped tokens, a picture without scripts.

A figure is a static picture, its data as JSON and a loader of a few lines. Where the bundle is
(`circuitsvis.js` at the root of the book; inline in the first figure of a kernel in JupyterLab),
`interactive.js` draws CircuitsVis in place of the picture. Everywhere else the picture stays.

Repeatability: the data, the picture, the id and a generated text alternative follow from floats,
whose last digits differ between processors. tests/nbval_sanitize.cfg takes those four out before
nbval compares; tokens, title, caption and the rest of the markup are compared.
"""

import functools
import json
import math
import os
from importlib import resources

from bookkit.picture import Picture

# Loads the bundle once, when a figure comes near the window or a jump has passed it. In
# JupyterLab the page has no content_root: there the bundle is in an output, and draws what it
# finds when it arrives.
LOADER = """<script>(w=>{if(w.bookkitDraw)return w.bookkitDraw();
const d=document,root=d.documentElement.dataset.content_root;if(root===undefined)return;
const watch=w.bookkitWatch||=new IntersectionObserver(seen=>{
if(w.bookkitBundle||!seen.some(e=>e.isIntersecting))return;
watch.disconnect();w.bookkitBundle=d.createElement("script");
w.bookkitBundle.src=root+"circuitsvis.js";d.head.append(w.bookkitBundle)
},{rootMargin:"999999px 0px 800px"});
watch.observe(d.currentScript.closest("figure"))})(window)</script>"""
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
_sent = set()


@functools.cache
def bundle():
    """The one script that a page with CircuitsVis figures needs, about 1.3 MB.

    The book's build writes it to `circuitsvis.js` at the root of the site.

    Returns:
        JavaScript: CircuitsVis as its package holds it, and `interactive.js`. Safe inside a
        script element.

    Raises:
        FileNotFoundError: the installed circuitsvis has no bundle.
    """
    library = resources.files("circuitsvis").joinpath("dist/cdn/iife.js")
    code = library.read_text("utf-8").partition("//# sourceMappingURL")[0]
    ours = resources.files("bookkit").joinpath("interactive.js").read_text("utf-8")
    return f"{code}\n{ours}".replace("</script", r"<\/script")


def in_jupyter_lab():
    """Whether a Jupyter server opened this kernel for a notebook (not nbclient, nbval, a build)."""
    return bool(os.environ.get("JPY_SESSION_NAME"))


def pack(values, limit):
    """Store numbers as whole multiples of a power of ten: a third of the bytes of their decimals.

    Args:
        values: Finite numbers, an array.
        limit: The greatest absolute value, above zero.

    Returns:
        The integers, and how many decimals they have. Three digits of the greatest are kept.
    """
    # The greatest weight is 1 or, after rounding, a little more; both get three decimals.
    digits = 3 - math.ceil(math.log10(limit) - 1e-6)
    return [round(float(v) * 10.0**digits) for v in values.flat], digits


def as_json(data):
    """JSON that can stand inside a script element, whatever strings it holds."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(_UNSAFE)


class Interactive(Picture):
    """A Picture that becomes CircuitsVis where its script runs.

    Args:
        data: What `interactive.js` draws: the component under "draw", and its properties.
        picture: Keyword arguments of Picture.
    """

    def __init__(self, data, **picture):
        super().__init__(**picture)
        self.data = data

    def scripts(self):
        return f'<script type="application/json">{as_json(self.data)}</script>{LOADER}'

    def html(self):
        """The figure; in JupyterLab the first one that a kernel shows brings the bundle along."""
        figure = super().html()
        if in_jupyter_lab() and "bundle" not in _sent:
            _sent.add("bundle")
            figure = f"<script>{bundle()}</script>{figure}"
        return figure
