"""Find the browser that opens the book's pages in the tests; install one where there is none.

python -m bookkit.browser
"""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT = 60  # seconds to start once
INSTALL_TIMEOUT = 1200


def _starts(path):
    # Ubuntu's `chromium-browser` can be a script that only says where to get it.
    command = [path, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "about:blank"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"<html" in done.stdout


def _playwrights_own():
    from playwright.sync_api import sync_playwright  # part of the tests, not of the book

    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def find_browser():
    """The first Chromium or Chrome that starts.

    Returns:
        Its path: what the variable CHROMIUM names, else one on the PATH, else Playwright's own.
        None where there is none.

    Raises:
        FileNotFoundError: CHROMIUM names something that does not start.
    """
    named = os.environ.get("CHROMIUM")
    if named:
        if not _starts(named):
            raise FileNotFoundError(f"CHROMIUM should name a Chromium or Chrome, got {named!r}")
        return named
    found = [path for name in NAMES if (path := shutil.which(name))]
    return next((path for path in [*found, _playwrights_own()] if _starts(path)), None)


def installers():
    """What can install a browser here without asking a question, the best first.

    Returns:
        A list of (what it is, list of commands).
    """
    ways = []
    apt = shutil.which("apt-get")
    root = ["env"] if os.geteuid() == 0 else ["sudo", "-n"]
    if apt and (os.geteuid() == 0 or _quiet(["sudo", "-n", "true"])):
        root = [*root, "DEBIAN_FRONTEND=noninteractive"]
        install = [apt, "install", "-y", "-q", "--no-install-recommends", "chromium"]
        ways.append(("apt-get", [[*root, apt, "update", "-q"], [*root, *install]]))
    own = [sys.executable, "-m", "playwright", "install", "chromium"]
    ways.append(("playwright", [own]))
    return ways


def _quiet(command):
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            stderr=subprocess.STDOUT,
            timeout=INSTALL_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def main():
    """Make sure that there is a browser.

    Returns:
        The exit status: 0, or 1 where there is none and none could be installed.
    """
    path = find_browser()
    for name, commands in installers() if path is None else []:
        print(f"No browser found; installing Chromium with {name} ...", flush=True)
        if all(_quiet(command) for command in commands):
            path = find_browser()
        if path is not None:
            break
    if path is None:
        print(
            "The tests open the book in a browser, and none could be installed. Install Chromium"
            " or Chrome, or name one: make test CHROMIUM=/path/to/it",
            file=sys.stderr,
        )
        return 1
    print(f"Browser: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
