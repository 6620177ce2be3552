"""What the book's pages need from Sphinx beyond the configuration: no other host, ever.

MathJax and CircuitsVis are taken from the installed packages, only what pages load.
"""

import hashlib
import importlib.util
import shutil
from pathlib import Path

from bookkit.circuitsvis import bundle

MATHJAX = "mathjax"
# The entry point, its fonts, and the TeX extensions that it loads when a formula asks for one.
MATHJAX_PARTS = ("tex-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions")


def package_folder(name):
    """The folder of an installed package, found without importing it.

    Args:
        name: The package's import name (one holds hyphens, so that `import` cannot name it).

    Returns:
        Its path.

    Raises:
        FileNotFoundError: no such package is installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {name!r} is not installed: make book installs it")
    return Path(next(iter(spec.submodule_search_locations)))


def _copy_scripts(app, error):
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    mathjax = package_folder("sphinx-mathjax-offline") / "static" / "mathjax"
    for part in MATHJAX_PARTS:
        source, target = mathjax / part, out / "_static" / MATHJAX / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, target)
    # Not in _static: Jupyter Book would put it on every page. Figures load it when they need it.
    (out / "circuitsvis.js").write_text(bundle(), "utf-8")


def _configure(app, config):
    config.mathjax_path = f"{MATHJAX}/tex-chtml.js"
    config.book_assets = _digest(Path(app.srcdir) / "_static")


def _digest(folder):
    digest = hashlib.sha256(bundle().encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def setup(app):
    """Register with Sphinx."""
    # Sphinx does not look at static files where no page changed: a value that follows from them
    # makes it write the pages again.
    app.add_config_value("book_assets", "", "html", str)
    app.connect("config-inited", _configure)
    app.connect("build-finished", _copy_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
