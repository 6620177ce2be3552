"""A browser that notices what a reader would: dialogs, errors, requests to other hosts."""

import contextlib
import functools
import http.server
import threading
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

from bookkit.browser import find_browser

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


class Watch:
    """What happened on a page that should not have, and what it asked for.

    Attributes:
        dialogs, errors: Messages of dialogs, of page errors and of errors on the console.
        requests: Every address that was asked for, data: and blob: left out.
    """

    def __init__(self, page):
        self.dialogs, self.errors, self.requests = [], [], []
        page.on("dialog", self._dialog)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._console)
        page.on("request", self._request)

    def _dialog(self, dialog):
        if dialog.type == "beforeunload":  # Lab's own question about what is not saved
            return dialog.accept()
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _console(self, message):
        if message.type == "error":
            self.errors.append(f"{message.text} {message.location.get('url', '')}")

    def _request(self, request):
        if urlsplit(request.url).scheme not in ("data", "blob", "about"):
            self.requests.append(request.url)

    def elsewhere(self):
        """The requests that went to another host than the loopback."""
        return [url for url in self.requests if urlsplit(url).hostname not in ("127.0.0.1", "::1")]


@contextlib.contextmanager
def serve(folder):
    """Serve a folder on the loopback; gives its address, which ends in a slash."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def chromium():
    """Start the browser; gives Playwright's Browser."""
    path = find_browser()
    if path is None:
        pytest.fail("no browser: `make browser` (python -m bookkit.browser) installs one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser, **options):
    """A new page with its own cookies and its Watch; close page.context when done."""
    page = browser.new_context(**options).new_page()
    return page, Watch(page)


def inked(page, selector="canvas"):
    """For each canvas, whether something is drawn on it: more than one colour."""
    return page.eval_on_selector_all(
        selector,
        """canvases => canvases.map(canvas => {
            const {width, height} = canvas;
            if (!width || !height) return false;
            const pixels = new Uint32Array(
                canvas.getContext("2d").getImageData(0, 0, width, height).data.buffer);
            return new Set(pixels).size > 1;
        })""",
    )


@contextlib.contextmanager
def opened(browser, **options):
    """open_page that closes by itself."""
    page, watch = open_page(browser, **options)
    try:
        yield page, watch
    finally:
        page.context.close()
