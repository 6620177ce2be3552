"""The book as a reader sees it: every page opened in a browser, over HTTP and from the disk."""

import gzip
import re
from typing import NamedTuple

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import chromium, inked, opened, serve
from bs4 import BeautifulSoup

from bookkit.pages import pages

DESK = {"viewport": {"width": 1280, "height": 900}}
LOOKS = {
    "light": {**DESK, "color_scheme": "light"},
    "dark": {**DESK, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}
PAGE_BYTES = 60_000  # compressed, as a server sends it, without pictures
FIGURE_BYTES = 20_000  # markup and numbers of all figures of a page, not compressed
PATIENCE = 120_000  # milliseconds; a busy machine is no error
DATA_URI = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")
INTERACTIVE = "figure.bookkit:has(script[type='application/json'])"
DRAWN = f'() => !document.querySelector("{INTERACTIVE}:not([data-drawn])")'
# The last step is the end of the page even while pictures above it make it longer.
SCROLL = """async () => {
    for (let y = 0; y < document.body.scrollHeight; y += innerHeight / 2) {
        scrollTo(0, y);
        await new Promise(done => setTimeout(done, 40));
    }
    scrollTo(0, document.body.scrollHeight);
}"""

PAGES = pages()
pytestmark = pytest.mark.timeout(900)  # the first test waits for the build
each_page = pytest.mark.parametrize("name", PAGES)
VISITS = [(name, look) for name in [*PAGES, "search"] for look in LOOKS]


@pytest.fixture(scope="module")
def site(book):
    with serve(book) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


def read(page, address):
    """Open a page and scroll to its end, as a reader does."""
    page.set_default_timeout(PATIENCE)
    page.goto(address, wait_until="load")
    page.evaluate(SCROLL)
    page.wait_for_function(DRAWN, timeout=PATIENCE)
    page.evaluate("() => window.MathJax && MathJax.startup && MathJax.startup.promise")
    page.wait_for_load_state("networkidle")


class Visit(NamedTuple):
    """A page that has been read to its end."""

    page: object
    watch: object
    name: str
    look: str


@pytest.fixture(scope="module", params=VISITS, ids="-".join)
def visit(request, site, browser):
    """Every page in every look, each opened once for all the tests that follow."""
    name, look = request.param
    with opened(browser, **LOOKS[look]) as (page, watch):
        read(page, f"{site}{name}.html")
        yield Visit(page, watch, name, look)


def html(book, name):
    return (book / f"{name}.html").read_text(encoding="utf-8")


@each_page
def test_a_page_is_small_beside_its_pictures(book, name):
    text = DATA_URI.sub("", html(book, name))
    assert "</html>" in text
    as_served = len(gzip.compress(text.encode()))
    assert as_served <= PAGE_BYTES, f"{name}: {as_served} bytes compressed, without pictures"
    # What a reader waits for is what is served; what figures add is looked at by itself, since a
    # long chapter has long listings, each word of them in an element of its own.
    figures = BeautifulSoup(text, "html.parser").select("figure")
    added = sum(len(str(figure).encode()) for figure in figures)
    assert added <= FIGURE_BYTES, f"{name}: figures add {added} bytes without their pictures"


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("chapters/")])
def test_the_executed_notebook_can_be_downloaded(book, name):
    button = re.search(r'href="([^"]*\.ipynb)"[^>]*download', html(book, name).replace("\n", " "))
    assert button, "no download button"
    assert (book / f"{name}.html").parent.joinpath(button[1]).resolve().is_file()


def test_reading_a_page_asks_no_other_host_and_makes_no_error(visit):
    assert visit.watch.elsewhere() == []
    assert visit.watch.errors == []
    assert visit.watch.dialogs == []


def test_the_bundle_is_loaded_once_and_only_where_it_is_needed(visit):
    bundles = [url for url in visit.watch.requests if url.endswith("circuitsvis.js")]
    assert len(bundles) == bool(visit.page.query_selector(INTERACTIVE))


def test_a_page_scrolls_down_and_never_sideways(visit):
    width, window = visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= window


def test_a_page_follows_the_readers_colour_scheme(visit):
    theme = visit.page.evaluate("document.documentElement.dataset.theme")
    assert theme == LOOKS[visit.look]["color_scheme"]


def test_every_interactive_figure_is_drawn(visit, book):
    figures = visit.page.query_selector_all(INTERACTIVE)
    assert len(figures) == html(book, visit.name).count('<script type="application/json">{"draw"')
    assert all(inked(visit.page, f"{INTERACTIVE} canvas"))
    for figure in figures:
        assert figure.query_selector("canvas, .colored-tokens > *")
        assert not figure.query_selector(".bookkit-picture").is_visible()


def test_the_book_has_interactive_figures(book):
    assert sum(html(book, name).count('{"draw"') for name in PAGES) > 0


def test_formulas_are_typeset(visit):
    formulas = visit.page.query_selector_all("article .math")
    assert all(formula.query_selector("mjx-container") for formula in formulas)
    assert not visit.page.query_selector("mjx-merror, [data-mjx-error]")


def test_the_book_has_formulas(book):
    assert sum(html(book, name).count('class="math') for name in PAGES) > 0


@each_page
def test_pictures_say_what_they_show_and_figures_have_captions(site, browser, name):
    with opened(browser, **DESK, java_script_enabled=False) as (page, _):
        page.goto(f"{site}{name}.html")
        alts = page.eval_on_selector_all("article img", "all => all.map(i => [i.alt, i.src])")
        assert [src[-80:] for alt, src in alts if not alt.strip()] == []
        captions = page.eval_on_selector_all(
            "article figure",
            "all => all.map(f => f.querySelector('figcaption')?.textContent.trim() || '')",
        )
        assert all(captions)
        assert len(page.query_selector_all("article .cell_output img")) == len(
            page.query_selector_all("article .cell_output figure img")
        )


@each_page
def test_shown_code_is_highlighted(site, browser, name):
    with opened(browser, **DESK) as (page, _):
        page.goto(f"{site}{name}.html")
        blocks = page.query_selector_all(".cell_output .highlight-python")
        assert all(block.query_selector("span.k, span.kn, span.kc") for block in blocks)


def test_axe_finds_nothing_serious(visit):
    assert serious(visit.page) == []


def serious(page):
    """What axe calls critical or serious, and text in the very colour of its background."""
    # Preloading would ask for the theme's style sheets at the wrong address, and be seen by Watch.
    report = Axe().run(page, options={"preload": False}).response
    found = []
    for violation in report["violations"]:
        if violation["impact"] in ("critical", "serious"):
            found += [(violation["id"], node["html"][:200]) for node in violation["nodes"]]
    for unsure in report["incomplete"]:  # axe takes such text for hidden on purpose
        for node in unsure["nodes"]:
            if "equalRatio" in str(node["any"]):
                found.append(("equalRatio", node["html"][:200]))
    return found


@each_page
def test_a_page_opened_from_the_disk_is_the_same(book, browser, name):
    with opened(browser, **DESK) as (page, watch):
        read(page, (book / f"{name}.html").as_uri())
        assert watch.errors == []
        assert [url for url in watch.requests if not url.startswith("file:")] == []
        formulas = page.query_selector_all("article .math")
        assert all(formula.query_selector("mjx-container") for formula in formulas)


def test_the_search_finds_a_word_without_a_server_of_its_own(site, browser):
    with opened(browser, **DESK) as (page, watch):
        page.goto(f"{site}search.html?q=attention")
        page.wait_for_selector("#search-results li a", timeout=PATIENCE)
        assert watch.elsewhere() == [] and watch.errors == []


def test_bad_pages_would_be_seen(browser, tmp_path):
    """The watch and the measures above see what they are there to see."""
    (tmp_path / "bad.html").write_text(
        "<!doctype html><html lang=en><title>Bad</title><body><p style='width:3000px'>wide</p>"
        "<p style='color:#eee;background:#eee'>nobody reads this</p>"
        "<img src='missing.png'><img src='http://localhost.invalid/x.png'>"
        "<script>undefinedFunction()</script><script>alert(1)</script>",
        encoding="utf-8",
    )
    with serve(tmp_path) as address, opened(browser, **LOOKS["phone"]) as (page, watch):
        page.goto(f"{address}bad.html")
        page.wait_for_timeout(300)
        assert watch.elsewhere() == ["http://localhost.invalid/x.png"]
        assert watch.dialogs == ["1"]
        assert any("undefinedFunction" in error for error in watch.errors)
        assert any("missing.png" in error for error in watch.errors)
        assert page.evaluate("document.documentElement.scrollWidth > innerWidth")
        assert {"image-alt", "equalRatio"} <= {rule for rule, _ in serious(page)}
