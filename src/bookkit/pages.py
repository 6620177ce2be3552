"""Which pages the book has, and whether a build wrote them all.

python -m bookkit.pages _build/html     names what is missing, or the address to open
"""

import sys
from pathlib import Path

import yaml

from bookkit.outputs import ROOT


def pages(toc=ROOT / "_toc.yml"):
    """The pages in the order of reading.

    Args:
        toc: Path of Jupyter Book's table of contents.

    Returns:
        Their paths relative to the book's root, without suffixes, the landing page first.

    Raises:
        FileNotFoundError: there is no table of contents.
        KeyError: it has no root, or a part has no chapters.
    """
    contents = yaml.safe_load(Path(toc).read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    return [contents["root"], *chapters]


def missing(html):
    """Pages that a build should have written and did not: some tools fail with exit status 0.

    Args:
        html: Folder of the built book.

    Returns:
        A list of names, empty where all is there.
    """
    files = {name: Path(html) / f"{name}.html" for name in pages()}
    return [name for name, file in files.items() if not file.is_file() or not file.stat().st_size]


def main(html):
    """Returns the exit status: 0, or 1 where a page is missing."""
    lost = missing(html)
    if lost:
        print(f"not built: {', '.join(lost)}", file=sys.stderr)
        return 1
    print("The book is built. Open it in a browser:")
    print(f"  {(Path(html).resolve() / 'index.html').as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
