"""A chapter as a notebook: what its cells must be, how it is stored, where the two differ."""

import hashlib
import os
import tempfile

import jupytext
import nbformat

# No version of Python in it: another patch release must not change the file.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "name": "python",
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "pygments_lexer": "ipython3",
    },
}
# Jupyter Book folds by tag; Lab folds by this metadata.
FOLDED = {
    "hide-input": {"source_hidden": True},
    "hide-output": {"outputs_hidden": True},
    "hide-cell": {"source_hidden": True, "outputs_hidden": True},
}
SOLUTION = {"code_prompt_show": "Show a solution", "code_prompt_hide": "Hide the solution"}


class ChapterError(ValueError):
    """A chapter that cannot become a notebook; an old notebook is left as it was."""


def plan(md):
    """Read a chapter as the notebook that it should become, without outputs.

    Args:
        md: Path of a MyST text notebook, with jupytext's header.

    Returns:
        A notebook whose cells have their final metadata, and ids that follow from their
        contents alone: inserting a cell changes no other cell's id.

    Raises:
        FileNotFoundError: there is no such chapter.
        ChapterError: the file has no code cell, or an empty cell.
    """
    source = jupytext.read(md, fmt="md:myst")
    notebook = nbformat.v4.new_notebook(metadata=nbformat.from_dict(METADATA))
    seen = {}
    for cell in source.cells:
        if not cell.source.strip():
            raise ChapterError(f"{md.name}: a {cell.cell_type} cell is empty")
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        new = getattr(nbformat.v4, f"new_{cell.cell_type}_cell")(cell.source)
        new.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        new.metadata = nbformat.from_dict(_metadata(cell.metadata))
        notebook.cells.append(new)
    if not any(cell.cell_type == "code" for cell in notebook.cells):
        raise ChapterError(
            f"{md.name}: expected code cells (```{{code-cell}} ipython3), found none;"
            " is jupytext's header there?"
        )
    return notebook


def _metadata(metadata):
    metadata = dict(metadata)
    tags = metadata.get("tags", [])
    folded = {}
    for tag in tags:
        folded |= FOLDED.get(tag, {})
    if folded:
        metadata["jupyter"] = folded
    if "solution" in tags:
        metadata["mystnb"] = SOLUTION
    return metadata


def write(notebook, path):
    """Write a notebook whole or not at all.

    Args:
        notebook: A valid notebook.
        path: Where to; an old file is replaced in one step.

    Raises:
        nbformat.ValidationError: the notebook is not valid.
        OSError: the file cannot be written.
    """
    nbformat.validate(notebook)
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".partial")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def differences(md):
    """Compare a chapter with its stored notebook, without running anything.

    Args:
        md: Path of the chapter.

    Returns:
        One line for each difference; an empty list when they agree.

    Raises:
        ChapterError: see `plan`.
    """
    path = md.with_suffix(".ipynb")
    if not path.exists():
        return [f"{path.name} is missing: make sync"]
    wanted, stored = plan(md), nbformat.read(path, as_version=4)
    found = []
    if stored.metadata != wanted.metadata:
        found.append(f"{path.name}: the notebook's metadata differ")
    if len(wanted.cells) != len(stored.cells):
        found.append(f"{path.name} has {len(stored.cells)} cells, {md.name} {len(wanted.cells)}")
    for number, (want, have) in enumerate(zip(wanted.cells, stored.cells, strict=False), 1):
        keys = ("cell_type", "id", "source", "metadata")
        differing = [key for key in keys if want[key] != have.get(key)]
        if differing:
            what = " and ".join(differing)
            found.append(f"{path.name}: from cell {number} on: {what} differ from {md.name}")
            break  # one cell more, and all that follow it differ
        if have.cell_type == "code" and have.execution_count is None:
            found.append(f"{path.name}: cell {number} was never executed")
    return found
