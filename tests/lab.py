"""A real JupyterLab, started for a test in a folder of its own and driven by a browser.

    with jupyter_lab(folder, tmp_path) as address, chromium() as browser:
        with opened(browser, **LAB_WINDOW) as (page, watch):
            open_notebook(page, address, "chapters/02-attention.ipynb")
            run_all(page)

Settings, data, trust and kernels' connection files live in the test's folder: nothing of the
user's is read, nothing is left behind, and no news is fetched.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

LAB_WINDOW = {"viewport": {"width": 1200, "height": 1000}}
START = 90  # seconds until the server answers
# Lab asks for news and extensions elsewhere unless it is told not to.
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
    "@jupyterlab/extensionmanager-extension:plugin": {"enabled": False},
    # Every output is in the page, so that it can be counted.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}


def _isolated(home):
    """The environment of a server that knows only the folder home."""
    outside = ("JUPYTER", "JPY", "IPYTHON", "PYTHONPATH", "XDG_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(outside)}
    for name in ("config", "data", "runtime", "ipython", "home"):
        (home / name).mkdir(parents=True, exist_ok=True)
    environment |= {
        f"JUPYTER_{n.upper()}_DIR": str(home / n) for n in ("config", "data", "runtime")
    }
    environment |= {"IPYTHONDIR": str(home / "ipython"), "HOME": str(home / "home")}
    # Python must be the one that runs the tests, wherever PATH leads.
    environment["PATH"] = os.path.dirname(sys.executable) + os.pathsep + environment["PATH"]
    environment |= {"JUPYTER_PREFER_ENV_PATH": "1", "OMP_NUM_THREADS": "1"}
    return environment


def _write_settings(home):
    folder = home / "settings"
    for plugin, settings in SETTINGS.items():
        package, name = plugin.split(":")
        path = folder / package / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings), "utf-8")
    return folder


@contextlib.contextmanager
def jupyter_lab(folder, home):
    """Start JupyterLab on a free port of the loopback.

    Args:
        folder: What Lab shows; notebooks are run and saved here, so give a copy.
        home: An empty folder for everything that Lab keeps.

    Yields:
        The server's address, which ends in a slash.
    """
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--ServerApp.token="]
    command += ["--ServerApp.password=", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.disable_check_xsrf=True", "--LabApp.news_url="]
    command += [f"--LabApp.user_settings_dir={_write_settings(home)}"]
    command += [f"--LabApp.workspaces_dir={home / 'workspaces'}"]
    # Should the tests be killed, the server ends by itself.
    command += ["--MappingKernelManager.cull_idle_timeout=600"]
    command += ["--ServerApp.shutdown_no_activity_timeout=900"]
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, env=_isolated(home), cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield _address(server, home / "runtime", home / "server.log")
        finally:
            _stop(server)


def _address(server, runtime, log):
    """Where the server answers; it writes its port into its runtime folder."""
    end = time.monotonic() + START
    while time.monotonic() < end and server.poll() is None:
        for file in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(OSError, ValueError, urllib.error.URLError):
                address = json.loads(file.read_text())["url"]
                urllib.request.urlopen(f"{address}api/status", timeout=5).close()
                return address
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text()[-2000:]}")


def _stop(server):
    """End the server; it ends its kernels. Its process group is its own."""
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def open_notebook(page, address, path):
    """Open a notebook and wait until all its cells are in the page."""
    page.goto(f"{address}lab/tree/{path}?reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
    page.wait_for_function(
        "() => !document.querySelector('.jp-Notebook .jp-Cell-placeholder')", timeout=60_000
    )


def _wait_for_kernel(page):
    """Wait until the status bar says idle; Lab may ask first which kernel to take."""
    idle = page.locator(".jp-StatusBar-TextItem", has_text="| Idle")
    choose = page.locator(".jp-Dialog button", has_text="Select")
    idle.or_(choose).first.wait_for(timeout=60_000)
    if choose.count():
        choose.click()
    idle.wait_for(timeout=60_000)
    page.locator(".jp-Dialog").wait_for(state="detached")


def choose(page, menu, item):
    """Choose an item of a menu of Lab's menu bar."""
    page.get_by_role("menuitem", name=menu, exact=True).click()
    page.get_by_role("menuitem", name=item, exact=True).click()


_TRACEBACK = re.compile(r"Traceback \(most recent|Cell In\[\d+\], line")
# Cells without code get no number; those after an error are never run.
_FINISHED = r"""() => {
    const cells = [...document.querySelectorAll(".jp-Notebook .jp-CodeCell")];
    const numbers = cells
        .filter(cell => cell.querySelector(".cm-content").textContent.trim())
        .map(cell => cell.querySelector(".jp-InputPrompt").textContent);
    const failed = [...document.querySelectorAll(".jp-Notebook .jp-OutputArea-output")]
        .some(output => /Traceback \(most recent|Cell In\[\d+\], line/.test(output.textContent));
    return numbers.length && !numbers.some(text => text.includes("*"))
        && (failed || numbers.every(text => /\[\d+\]/.test(text)));
}"""


def run_all(page, timeout=240):
    """Clear the stored outputs and run every cell, as a reader does from the menus.

    Args:
        page: With an open notebook.
        timeout: Seconds until the last cell must be done.

    Returns:
        The text of each error output; empty if all went well.
    """
    _wait_for_kernel(page)
    choose(page, "Edit", "Clear Outputs of All Cells")
    page.wait_for_function("() => !document.querySelector('.jp-Notebook .jp-OutputArea-output')")
    choose(page, "Run", "Run All Cells")
    page.wait_for_function(_FINISHED, timeout=timeout * 1000)
    # Lab gives a traceback the same type as a line on stderr, where progress bars are.
    outputs = page.locator(".jp-Notebook .jp-OutputArea-output").all_inner_texts()
    return [text for text in outputs if _TRACEBACK.search(text)]


def save(page):
    """Save the notebook; Lab signs what it saves, so that it is trusted from then on."""
    with page.expect_response(lambda r: r.request.method == "PUT" and "/api/contents/" in r.url):
        page.keyboard.press("Control+s")
    page.locator(".lm-TabBar-tab.jp-mod-dirty").wait_for(state="detached")
