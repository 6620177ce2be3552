"""The stored notebooks: they are their chapters, and running them again gives the same."""

import ast
import copy
import os
import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree

import nbformat
import pytest

from bookkit import sync
from bookkit.notebook import differences, plan, write
from bookkit.outputs import ROOT, clean
from bookkit.pages import pages
from bookkit.source import without_docstrings

CHAPTERS = sync.find([])
IDS = [chapter.stem for chapter in CHAPTERS]
# nbval compares every kind of output but these.
NOT_COMPARED = {"image/png", "image/jpeg"}
LONGEST_CELL = 20  # lines; about 12 is the aim
LONGEST_FOLDED = 32  # a figure is drawn in one cell, and its text alternative takes lines
MINUTES = 15
SHOWN = r"^`(src/\S+)`\n\n(?:`{3,})python\n(.*?)\n`{3,}$"  # what `show_code` leaves

# Each chapter is run once, on one thread or on two in turn: a run takes about a minute.
# THREADS="1 2 4" runs each on each.
CHOSEN = [int(n) for n in os.environ.get("THREADS", "").split()]
RUNS = [(c, n) for i, c in enumerate(CHAPTERS) for n in CHOSEN or [1 + i % 2]]

each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=IDS)


def stored(chapter):
    return nbformat.read(chapter.with_suffix(".ipynb"), as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def compared(notebook):
    """How many outputs nbval holds against the stored ones."""
    count = 0
    for cell in code_cells(notebook):
        if not {"nbval-ignore-output", "nbval-skip"} & set(cell.metadata.get("tags", [])):
            for output in cell.outputs:
                count += output.output_type in ("stream", "error")
                count += len(set(output.get("data", {})) - NOT_COMPARED)
    return count


def test_there_are_chapters():
    assert CHAPTERS


def test_the_table_of_contents_names_every_chapter_and_nothing_else():
    texts = sorted(f"appendices/{path.stem}" for path in (ROOT / "appendices").glob("*.md"))
    listed = pages()[1:]
    assert [page for page in listed if page not in texts] == [f"chapters/{name}" for name in IDS]
    assert sorted(page for page in listed if page in texts) == texts


def test_every_notebook_has_its_chapter():
    assert [path.stem for path in sorted((ROOT / "chapters").glob("*.ipynb"))] == IDS


@each_chapter
def test_the_notebook_is_its_chapter_executed(chapter):
    assert differences(chapter) == []


@each_chapter
def test_what_is_stored_is_clean(chapter):
    for cell in code_cells(stored(chapter)):
        assert clean(copy.deepcopy(cell.outputs)) == cell.outputs


@each_chapter
def test_nothing_is_skipped_when_outputs_are_compared(chapter):
    for cell in code_cells(stored(chapter)):
        assert "nbval-skip" not in cell.metadata.get("tags", []), cell.source


@each_chapter
def test_cells_are_short(chapter):
    for cell in code_cells(stored(chapter)):
        folded = {"hide-input", "hide-cell"} & set(cell.metadata.get("tags", []))
        longest = LONGEST_FOLDED if folded else LONGEST_CELL
        assert cell.source.count("\n") < longest, cell.source


@each_chapter
def test_the_notebook_can_be_opened_quickly(chapter):
    assert chapter.with_suffix(".ipynb").stat().st_size <= sync.LARGE


def definitions():
    """Every function and class of `src`, with its file, as the chapters show it."""
    found = set()
    for path in sorted((ROOT / "src").rglob("*.py")):
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                first = min([node, *node.decorator_list], key=lambda part: part.lineno).lineno
                lines = text.splitlines(keepends=True)[first - 1 : node.end_lineno]
                code = textwrap.dedent("".join(lines)).rstrip()
                file = path.relative_to(ROOT).as_posix()
                found |= {(file, code), (file, without_docstrings(code))}
    return found


@pytest.fixture(scope="module")
def known():
    return definitions()


def shown(notebook):
    """The code of `src` that a stored notebook shows, each with the file that it names."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            text = output.get("data", {}).get("text/markdown", "")
            yield from re.findall(SHOWN, text, re.S | re.M)


@each_chapter
def test_the_code_that_is_shown_is_that_of_src(chapter, known):
    """What nbval would find too, but only after it has run the chapter."""
    for file, code in shown(stored(chapter)):
        assert (file, code) in known, f"{file} has changed: make sync CHAPTER={chapter.stem[:2]}"


def test_chapters_show_code():
    assert sum(len(list(shown(stored(chapter)))) for chapter in CHAPTERS) > len(CHAPTERS)


def run_nbval(notebook, threads, folder):
    """Run nbval in a process of its own; gives what it counted and what it printed."""
    report = folder / "report.xml"
    command = [
        *(sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q", "--color=no"),
        *("--nbval-sanitize-with", ROOT / "tests" / "nbval_sanitize.cfg"),
        *("--nbval-cell-timeout", str(sync.CELL_TIMEOUT), "-o", "timeout=0"),
        *("-p", "no:cacheprovider", "--rootdir", notebook.parent, "--junitxml", report, notebook),
    ]
    done = subprocess.run(
        command,
        env=sync.environment(threads, folder / "ipython"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=MINUTES * 60,
    )
    printed = f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    if not report.exists():
        pytest.fail(printed)
    suite = ElementTree.parse(report).getroot().find("testsuite")
    counts = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    return counts, printed


@pytest.mark.timeout(MINUTES * 60 + 30)
@pytest.mark.parametrize("chapter, threads", RUNS, ids=[f"{c.stem}-{n}" for c, n in RUNS])
def test_running_it_again_gives_the_same(chapter, threads, tmp_path):
    notebook = stored(chapter)
    assert compared(notebook) > 0
    counts, printed = run_nbval(chapter.with_suffix(".ipynb"), threads, tmp_path)
    cells = len(code_cells(notebook))
    assert counts == {"tests": cells, "failures": 0, "errors": 0, "skipped": 0}, printed


# The comparison itself, on a chapter of four cells: it must see what changed.

SMALL = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
---

```{code-cell} ipython3
from bookkit.source import show_code
from decoder.attention import causal_mask
print(0.5)
```

```{code-cell} ipython3
show_code(causal_mask)
```

```{code-cell} ipython3
from bookkit.figures import colored_tokens
colored_tokens(["a", "b"], [0.1, 0.2], caption="Two.")
```

```{code-cell} ipython3
:tags: [raises-exception]

causal_mask(3, 2)
```
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    md = tmp_path_factory.mktemp("small") / "01-small.md"
    md.write_text(SMALL, encoding="utf-8")
    return sync.sync(md)


# One falsification for each cell: a stream, shown source, a figure's token, an expected error.
FALSE = {
    '"0.5\\n"': '"0.6\\n"',
    "return torch.ones(seq_q, seq_k": "return torch.ones(seq_k, seq_k",
    '\\"tokens\\":[\\"a\\"': '\\"tokens\\":[\\"c\\"',
    '"evalue": "expected': '"evalue": "wanted',
}


def test_a_small_notebook_is_found_to_be_the_same(small, tmp_path):
    counts, printed = run_nbval(small, 1, tmp_path)
    assert counts == {"tests": 4, "failures": 0, "errors": 0, "skipped": 0}, printed


def test_what_src_holds_today_is_what_the_page_shows(small):
    # Shown code is compared both as text and as what the page highlights.
    shown = code_cells(nbformat.read(small, as_version=4))[1].outputs[0].data
    assert set(shown) == {"text/plain", "text/markdown"}


def test_every_falsified_output_is_found(small, tmp_path):
    text = small.read_text(encoding="utf-8")
    for true, false in FALSE.items():
        assert true in text
        text = text.replace(true, false)
    falsified = tmp_path / small.name
    falsified.write_text(text, encoding="utf-8")
    counts, printed = run_nbval(falsified, 1, tmp_path)
    assert counts == {"tests": 4, "failures": len(FALSE), "errors": 0, "skipped": 0}, printed


def test_missing_and_additional_outputs_are_found(small, tmp_path):
    notebook = nbformat.read(small, as_version=4)
    first, second = code_cells(notebook)[:2]
    second.outputs, first.outputs = [], first.outputs + second.outputs
    changed = tmp_path / small.name
    write(notebook, changed)
    counts, printed = run_nbval(changed, 1, tmp_path)
    assert counts["failures"] == 2, printed


def test_a_notebook_straight_from_conversion_is_not_taken_for_executed(tmp_path):
    md = tmp_path / "01-small.md"
    md.write_text(SMALL, encoding="utf-8")
    write(plan(md), md.with_suffix(".ipynb"))
    assert compared(stored(md)) == 0
    assert len([line for line in differences(md) if "never executed" in line]) == 4


def test_runs_are_not_told_that_they_are_live(monkeypatch, tmp_path):
    monkeypatch.setenv("JPY_SESSION_NAME", "live")
    env = sync.environment(7, tmp_path)
    assert "JPY_SESSION_NAME" not in env
    assert env["OMP_NUM_THREADS"] == "7" and env["TQDM_DISABLE"] == "1"
    assert env["OMP_WAIT_POLICY"] == "passive"
    assert env["PATH"] == os.environ["PATH"]
