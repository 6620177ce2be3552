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
    if done.returncode:
        pytest.fail(f"the book was not built:\n{done.stderr[-3000:]}", pytrace=False)
    html = out / "_build" / "html"
    assert missing(html) == []
    return html
