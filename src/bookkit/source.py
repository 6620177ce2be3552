"""Show in a chapter the code that `src` really holds, read from the file at that moment.

Nothing is copied: the stored notebook keeps what was shown, and the tests compare it with what
`src` holds today. The file is named without line numbers, which change with every edit above.

    from bookkit.source import show_code, show_source
    show_source(attention)              # with its docstring
    show_code(Block)                    # the code alone
    show_code(causal_mask, attention)   # two, from the same file or from two
"""

import ast
import inspect
import re
import textwrap
from pathlib import Path

from bookkit.outputs import ROOT


class Source:
    """Code to look at: highlighted in the page and in Lab, plain elsewhere.

    Args:
        parts: Pairs of file name and code.
    """

    def __init__(self, parts):
        self.parts = parts

    def __repr__(self):
        return "\n\n\n".join(f"# {file}\n{code}" for file, code in self.parts)

    def _repr_markdown_(self):
        return "\n\n".join(_fenced(file, code) for file, code in self.parts)


def _fenced(file, code):
    longest = max((len(ticks) for ticks in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"`{file}`\n\n{fence}python\n{code}\n{fence}"


def show_source(*objects):
    """Show functions or classes as they stand in `src`, docstrings included.

    Args:
        objects: Functions, methods or classes that are defined under this repository's `src`.

    Returns:
        A Source, to be the last expression of a cell.

    Raises:
        ValueError: there is nothing to show, or something that `src` does not define.
    """
    return Source([(_file(each), _source(each)) for each in _given(objects)])


def show_code(*objects):
    """Show functions or classes as they stand in `src`, without their docstrings.

    Args:
        objects: As for `show_source`.

    Returns:
        A Source, to be the last expression of a cell.

    Raises:
        ValueError: as `show_source`.
    """
    return Source([(_file(each), without_docstrings(_source(each))) for each in _given(objects)])


def _given(objects):
    if not objects:
        raise ValueError("expected functions or classes to show, got none")
    return objects


def _file(thing):
    try:
        path = Path(inspect.getsourcefile(inspect.unwrap(thing))).resolve()
        return path.relative_to(ROOT / "src").as_posix().join(("src/", ""))
    except (TypeError, ValueError):
        raise ValueError(
            f"expected a function or class defined under src/, got {thing!r}"
        ) from None


def _source(thing):
    return textwrap.dedent(inspect.getsource(inspect.unwrap(thing))).rstrip()


def without_docstrings(code):
    """Take the docstrings out of code, and change nothing else.

    Args:
        code: The source of a function or class.

    Returns:
        The same lines without those of docstrings. A body that is nothing but its docstring
        keeps it.

    Raises:
        SyntaxError: code is not Python.
    """
    lines = code.splitlines()
    dropped = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node) is not None and len(node.body) > 1:
                # Up to the next statement or comment: a blank line after a docstring is its own.
                first, last = node.body[0].lineno, node.body[0].end_lineno
                while not lines[last].strip():
                    last += 1
                dropped.update(range(first, last + 1))
    return "\n".join(line for number, line in enumerate(lines, 1) if number not in dropped)
