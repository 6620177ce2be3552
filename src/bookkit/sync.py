"""Chapters to notebooks: `chapters/NN-slug.md` is executed and stored as `NN-slug.ipynb`.

A person edits only the `.md`. The page, Lab and the tests read the `.ipynb`, so that all three
show the very same outputs. Running this twice changes nothing: cells have ids that follow from
their contents, no timings are stored, and the kernel runs with THREADS threads, without progress
bars and without the user's own IPython profile. AT_ONCE chapters run side by side: small models
keep one core busy, and hardly two.

    python -m bookkit.sync              every chapter
    python -m bookkit.sync 02 11        these
    python -m bookkit.sync --check      compares .md and .ipynb, runs nothing
"""

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from bookkit.notebook import ChapterError, differences, plan, write
from bookkit.outputs import ROOT, Unrepeatable, clean

CHAPTERS = ROOT / "chapters"
THREADS = 1
AT_ONCE = 2
CELL_TIMEOUT = 600  # seconds
LARGE = 700_000  # bytes; a larger notebook is slow to open and to review


def environment(threads, ipython):
    """The environment in which chapters run, here and in the tests.

    Args:
        threads: How many threads torch and its libraries may use.
        ipython: A folder for IPython's files, so that no user's profile is read.

    Returns:
        A copy of this process's environment, changed. Progress bars are off, since what they
        print depends on the clock; nothing says that this is a live Lab.
    """
    env = dict(os.environ)
    for name in ("JPY_SESSION_NAME", "JUPYTER_PATH", "MPLBACKEND"):
        env.pop(name, None)
    env |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    # Threads that wait for each other shall sleep, not spin: on a busy machine, ten times faster.
    env["OMP_WAIT_POLICY"] = "passive"
    return env | {"IPYTHONDIR": str(ipython), "TQDM_DISABLE": "1"}


class ThisInterpreter(AsyncKernelManager):
    """Starts the kernel in this very environment.

    With no folder to search for kernels, the native one is left: a "python3" of the user's own,
    found elsewhere, cannot stand in for it.
    """

    def _kernel_spec_manager_default(self):
        return KernelSpecManager(kernel_dirs=[])


def execute(notebook, folder, name):
    """Run a notebook's cells in order and store their outputs in it, cleaned.

    Args:
        notebook: What `plan` returned; changed in place.
        folder: The folder to run in.
        name: What error messages call it.

    Raises:
        ChapterError: a cell failed, took too long, killed the kernel, or printed what
            another run would not print again.
    """
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        kernel_manager_class=ThisInterpreter,
        # ipykernel warns that it listens on loopback, as every kernel does.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        timeout=CELL_TIMEOUT,
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
    )
    with tempfile.TemporaryDirectory() as ipython:
        with client.setup_kernel(env=environment(THREADS, ipython)):
            _execute_cells(client, name)


def _execute_cells(client, name):
    count = 0
    for index, cell in enumerate(client.nb.cells):
        if cell.cell_type != "code":
            continue
        count += 1
        where = f"{name}: code cell {count}, {cell.source.strip().splitlines()[0]!r}"
        try:
            client.execute_cell(cell, index)
            cell.outputs = clean(cell.outputs)
        except CellExecutionError as error:
            raise ChapterError(f"{where}: {error.ename}: {error.evalue}") from error
        except (CellTimeoutError, DeadKernelError, Unrepeatable) as error:
            raise ChapterError(f"{where}: {str(error).splitlines()[0]}") from error
        if cell.execution_count is None:
            raise ChapterError(f"{where}: not executed; a tag told it to be skipped")


def sync(md):
    """Execute one chapter and store it beside itself as a notebook.

    Args:
        md: Path of the chapter.

    Returns:
        Path of the notebook.

    Raises:
        ChapterError: see `plan` and `execute`; the old notebook stays as it was.
    """
    notebook = plan(md)
    execute(notebook, md.parent, md.name)
    path = md.with_suffix(".ipynb")
    write(notebook, path)
    return path


def find(names, folder=CHAPTERS):
    """The chapters that are meant.

    Args:
        names: Beginnings of file names ("02", "02-attention"), or paths; none means all.
        folder: Where the chapters are.

    Returns:
        Their paths, sorted.

    Raises:
        FileNotFoundError: a name fits no chapter.
    """
    chapters = sorted(folder.glob("[0-9][0-9]-*.md"))
    if not names:
        return chapters
    wanted = set()
    for name in names:
        fitting = [c for c in chapters if c.name.startswith(Path(name).stem)]
        if not fitting:
            has = ", ".join(c.stem for c in chapters) or "none"
            raise FileNotFoundError(f"no chapter begins with {name!r}; there are: {has}")
        wanted.update(fitting)
    return sorted(wanted)


def _sync_and_report(md):
    start = time.perf_counter()
    path = sync(md)
    size = path.stat().st_size
    print(f"{path.name}: {time.perf_counter() - start:.0f} s, {size / 1000:.0f} kB", flush=True)
    if size > LARGE:
        print(f"  warning: {path.name} is larger than {LARGE / 1000:.0f} kB", file=sys.stderr)
    return []


def _attempt(work, md):
    try:
        return work(md)
    except ChapterError as error:
        return [str(error)]


def _all(work, chapters, at_once):
    """The problems of each chapter, in order, as they become known."""
    if at_once < 2:
        yield from map(partial(_attempt, work), chapters)
    else:
        with ProcessPoolExecutor(at_once) as pool:
            yield from pool.map(partial(_attempt, work), chapters)


def main(arguments=None, folder=CHAPTERS):
    """The command line.

    Args:
        arguments: As in sys.argv, without the program's name.
        folder: Where the chapters are.

    Returns:
        The exit status: 0, or 1 where a chapter failed or differs from its notebook.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bookkit.sync", description="Execute chapters and store them as notebooks."
    )
    parser.add_argument("chapters", nargs="*", help="beginnings of names, such as 02; none: all")
    parser.add_argument("--check", action="store_true", help="only compare .md and .ipynb")
    options = parser.parse_args(arguments)
    try:
        chapters = find(options.chapters, folder)
    except FileNotFoundError as error:
        parser.error(str(error))
    work = differences if options.check else _sync_and_report
    at_once = 1 if options.check else min(AT_ONCE, len(chapters))
    if not options.check:
        print(f"{len(chapters)} chapters, {at_once} at once, threads: {THREADS} each", flush=True)
    failed = False
    for problems in _all(work, chapters, at_once):
        for problem in problems:
            failed = True
            print(problem, file=sys.stderr, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
