import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bookkit.outputs import ROOT


def pages():
    """The pages that _toc.yml names, in the order of reading, without suffixes."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [toc["root"], *chapters]


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The folder of the book's pages, built afresh with every warning an error."""
    out = tmp_path_factory.mktemp("a built book")
    build = Path(sys.executable).with_name("jupyter-book")
    command = [build, "build", ROOT, "--path-output", out, "-W", "-n", "--keep-going", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return out / "_build" / "html"
