"""The figures in a real JupyterLab: pictures before the notebook is trusted, CircuitsVis after."""

import nbformat
import pytest
from browser import chromium, inked, opened
from lab import LAB_WINDOW, jupyter_lab, open_notebook, run_all, save
from nbclient import NotebookClient
from test_figures import HOSTILE

CELLS = [
    f"from bookkit import figures\ntokens = {HOSTILE!r}\n"
    "pattern = [[[1 / (q + 1) * (k <= q) for k in range(7)] for q in range(7)]] * 3",
    "figures.decoder_map('mask')",
    "figures.attention_heads(pattern, tokens, title=tokens[0], caption=tokens[1])",
    "figures.attention_pattern(pattern[0], tokens, caption=tokens[1])",
    "figures.colored_tokens(tokens, [1, -1, 0.5, -0.5, 0, 2, -2], caption=tokens[1])",
    "fig, ax = figures.subplots()\nax.plot([1, 2])\n"
    "figures.show(fig, caption=tokens[1], alt=tokens[0])",
]
PICTURES, CIRCUITSVIS, CANVASES = 5, 3, 3 + 1 + 1


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A Lab with one notebook that another process executed: not trusted here."""
    folder, home = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("home")
    cells = [nbformat.v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(CELLS)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    NotebookClient(notebook, timeout=120).execute()
    for name in ("stored.ipynb", "run.ipynb"):
        nbformat.write(notebook, folder / name)
    broken = nbformat.v4.new_notebook(metadata=notebook.metadata)
    broken.cells = [nbformat.v4.new_code_cell(source) for source in ("1 / 0", "", "2")]
    nbformat.write(broken, folder / "broken.ipynb")
    assert (folder / "stored.ipynb").stat().st_size < 300_000  # no bundle in what is stored
    with jupyter_lab(folder, home) as address, chromium() as browser:
        yield address, browser


def test_a_stored_notebook_shows_its_pictures_before_it_is_run(lab):
    address, browser = lab
    with opened(browser, **LAB_WINDOW) as (page, watch):
        open_notebook(page, address, "stored.ipynb")
        pictures = page.locator(".jp-OutputArea figure img")
        pictures.nth(PICTURES - 1).wait_for()
        assert page.locator(".jp-OutputArea :is(script, canvas)").count() == 0  # not trusted
        assert pictures.count() == PICTURES
        sizes = pictures.evaluate_all("all => all.map(i => i.complete && i.naturalWidth > 99)")
        assert sizes == [True] * PICTURES
        for picture in pictures.all():
            picture.scroll_into_view_if_needed()
            assert picture.is_visible() and picture.get_attribute("alt").strip()
        captions = page.locator(".jp-OutputArea figcaption", has_text=HOSTILE[1])
        assert captions.count() == PICTURES - 1
        assert watch.dialogs == [] and watch.elsewhere() == [] and watch.errors == []


def wait_until_drawn(page):
    drawn = "document.querySelectorAll('figure[data-drawn]').length"
    page.wait_for_function(f"{drawn} === {CIRCUITSVIS}", timeout=60_000)
    page.wait_for_timeout(300)
    assert inked(page, ".jp-OutputArea canvas") == [True] * CANVASES


def test_a_notebook_that_is_run_draws_circuitsvis_and_does_so_again_when_opened(lab):
    address, browser = lab
    with opened(browser, **LAB_WINDOW) as (page, watch):
        open_notebook(page, address, "run.ipynb")
        assert run_all(page) == []
        wait_until_drawn(page)
        tokens = page.locator(".colored-tokens > span > span").all_inner_texts()
        assert [token.strip() for token in tokens] == [*HOSTILE[:4], "↵", "⟨U+2028⟩", "<s>"]
        save(page)
        assert watch.dialogs == [] and watch.elsewhere() == [] and watch.errors == []
    with opened(browser, **LAB_WINDOW) as (page, watch):
        open_notebook(page, address, "run.ipynb")
        wait_until_drawn(page)
        assert watch.dialogs == [] and watch.elsewhere() == [] and watch.errors == []


def test_an_error_in_a_cell_is_reported(lab):
    """What the tests of the chapters rely on."""
    address, browser = lab
    with opened(browser, **LAB_WINDOW) as (page, _):
        open_notebook(page, address, "broken.ipynb")
        (error,) = run_all(page)
        assert "ZeroDivisionError" in error
