import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from bookkit.outputs import ROOT
from bookkit.pages import missing

# No timed tests: a busy machine is no bug.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
# For mutmut: the first failure is enough, and the same examples for every mutant.
settings.register_profile(
    "mutants",
    parent=settings.get_profile("tests"),
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))


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
