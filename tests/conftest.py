import subprocess
import sys
from pathlib import Path

import pytest

from bookkit.outputs import ROOT
from bookkit.pages import missing


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The folder of the book's pages, built afresh with every warning an error."""
    out = tmp_path_factory.mktemp("a built book")
    build = Path(sys.executable).with_name("jupyter-book")
    command = [build, "build", ROOT, "--path-output", out, "-W", "-n", "--keep-going", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    html = out / "_build" / "html"
    assert missing(html) == []
    return html
