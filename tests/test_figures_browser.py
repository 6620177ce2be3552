"""The figures in a browser: drawn once, harmless whatever the tokens, readable by everyone."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import chromium, inked, opened, serve
from test_figures import HOSTILE, PICTURES, causal, picture

from bookkit import circuitsvis, figures

DESK = {"viewport": {"width": 1000, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}
SHOWN = [*HOSTILE[:4], "↵", "⟨U+2028⟩", "<s>"]
HEADS, SEQ = 3, len(HOSTILE)
DRAWN = "document.querySelectorAll('figure[data-drawn]').length"
PAGE = """<!doctype html><html lang="en" data-content_root="{root}" data-theme="light"><head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Figures</title>
<link rel="icon" href="data:,"><style>
html[data-theme=dark] {{ background: #14181e; color: #ced6dd }}
html[data-theme=dark] h3 {{ color: #ced6dd }}
main {{ max-width: 720px; margin: auto; padding: 0 16px }}</style></head>
<body><main><h1>Figures</h1>{body}</main></body></html>"""


@pytest.fixture(scope="module")
def drawn():
    """One figure of each function, with the worst tokens, and those that are only pictures."""
    texts = {"title": HOSTILE[0], "caption": HOSTILE[1]}
    return [
        figures.decoder_map("mask"),
        figures.attention_heads(causal(HEADS, SEQ), HOSTILE, **texts),
        figures.attention_pattern(causal(1, SEQ)[0] + 0.01, HOSTILE, **texts),
        figures.colored_tokens(HOSTILE, [1, -1, 0.5, -0.5, 0, 2, -2], **texts),
        figures.heatmap([[1.0, -2.0]], [HOSTILE[0]], ["k", HOSTILE[1]], caption=HOSTILE[1]),
        *(picture(name, HOSTILE, caption=HOSTILE[1]) for name in PICTURES),
    ]


@pytest.fixture(scope="module")
def site(drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    body = "".join(figure.html() for figure in drawn)
    far = '<div style="height:5000px">far</div>'
    pages = {
        "index.html": ("./", body),
        "chapters/deep.html": ("../", body),
        "far.html": ("./", far + body + far),
        "alone.html": ("./nowhere/", body),
    }
    (folder / "chapters").mkdir()
    for name, (root, content) in pages.items():
        (folder / name).write_text(PAGE.format(root=root, body=content), "utf-8")
    (folder / "circuitsvis.js").write_text(circuitsvis.bundle(), "utf-8")
    with serve(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


def wait_until_drawn(page, count=3):
    page.wait_for_function(f"{DRAWN} === {count}", timeout=60_000)
    page.wait_for_timeout(300)  # Chart.js draws in the frame after React has mounted


def bundles(watch):
    return [url for url in watch.requests if url.endswith("/circuitsvis.js")]


@pytest.mark.parametrize("address", ["index.html", "chapters/deep.html"])
def test_every_figure_is_drawn_with_one_bundle_and_nothing_from_elsewhere(site, browser, address):
    with opened(browser, **DESK) as (page, watch):
        page.goto(site + address)
        wait_until_drawn(page)
        assert inked(page) == [True] * (HEADS + 1 + 1)
        assert bundles(watch) == [site + "circuitsvis.js"]
        assert watch.elsewhere() == [] and watch.dialogs == [] and watch.errors == []
        # The pictures that CircuitsVis stands for are gone from the screen, the others are not.
        seen = page.locator("img.bookkit-picture")
        assert [seen.nth(i).is_visible() for i in range(5)] == [True, False, False, False, True]


def test_hostile_tokens_are_shown_as_they_are(site, browser):
    with opened(browser, **DESK) as (page, watch):
        page.goto(site)
        wait_until_drawn(page)
        tokens = page.locator(".colored-tokens > span > span")
        texts = [tokens.nth(i).inner_text().strip() for i in range(tokens.count())]
        assert texts == SHOWN
        assert page.locator(".bookkit-drawing :is(img, s, script)").count() == 0
        for figure in page.locator("figcaption").all():
            assert figure.locator(":not(strong)").count() == 0
        assert page.locator("figcaption", has_text=HOSTILE[1]).count() == 4 + len(PICTURES)
        assert watch.dialogs == [] and watch.errors == []


def test_the_canvas_gets_tokens_without_escapes(site, browser):
    """What is drawn cannot be read back, but what is handed to the canvas can."""
    listen = """window.texts = new Set();
        const draw = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
            window.texts.add(String(text)); return draw.call(this, text, ...rest); };"""
    with opened(browser, **DESK) as (page, _):
        page.add_init_script(listen)
        page.goto(site)
        wait_until_drawn(page)
        drawn = page.evaluate("[...window.texts]")
        assert {f"{token} ({i})" for i, token in enumerate(SHOWN)} <= set(drawn)


@pytest.mark.parametrize(("number", "causal_only"), [(0, True), (1, False)])
def test_the_numbers_under_the_mouse_are_those_of_the_pattern(site, browser, number, causal_only):
    listen = """window.lines = [];
        const draw = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
            window.lines.push(String(text)); return draw.call(this, text, ...rest); };"""
    expected = causal(HEADS, SEQ)[0] if causal_only else causal(1, SEQ)[0] + 0.01
    with opened(browser, **DESK) as (page, _):
        page.add_init_script(listen)
        page.goto(site)
        wait_until_drawn(page)
        canvas = page.locator("canvas:not([aria-hidden])").nth(number)
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        for step in range(2, 40):
            for across in (0.45, 0.6, 0.75, 0.9):
                x, y = box["x"] + across * box["width"], box["y"] + step / 40 * box["height"]
                page.mouse.move(x, y)
        text = "\n".join(page.evaluate("window.lines"))
        seen = dict(re.findall(r"\((\d, \d)\)\nSrc:.*\nDest:.*\nVal: (\S+)", text))
        assert len(seen) >= 10
        for place, value in seen.items():
            query, key = map(int, place.split(", "))
            assert abs(float(value) - expected[query, key]) < (6e-4 if causal_only else 6e-3)


def test_tooltips_show_tokens_without_escapes(site, browser):
    with opened(browser, **DESK) as (page, watch):
        page.goto(site)
        wait_until_drawn(page)
        for number in (0, 2):
            page.locator(".colored-tokens > span > span").nth(number).hover()
            strong = page.locator(".colored-tokens strong")
            strong.wait_for()
            page.wait_for_function(
                "text => document.querySelector('.colored-tokens strong').textContent === text",
                arg=SHOWN[number],
            )
            value = page.locator(".colored-tokens div").inner_text().split("\n")[-1]
            assert float(value) == [1, -1, 0.5][number]
        assert watch.dialogs == [] and watch.errors == []


def test_heads_can_be_chosen_with_the_keyboard(site, browser):
    with opened(browser, **DESK) as (page, _):
        page.goto(site)
        wait_until_drawn(page)
        heads = page.get_by_role("button")
        assert [heads.nth(i).get_attribute("aria-label") for i in range(heads.count())] == [
            f"Head {i}" for i in range(HEADS)
        ]
        heads.nth(2).focus()
        page.keyboard.press("Enter")
        page.locator("h3", has_text="Head 2 Zoomed").wait_for()
        pressed = [heads.nth(i).get_attribute("aria-pressed") for i in range(HEADS)]
        assert pressed == ["false", "false", "true"]


def test_the_bundle_waits_until_a_figure_is_near(site, browser):
    with opened(browser, **DESK) as (page, watch):
        page.goto(site + "far.html")
        page.wait_for_timeout(500)
        assert bundles(watch) == []
        page.evaluate("scrollTo(0, document.body.scrollHeight)")  # a jump: none was ever in sight
        wait_until_drawn(page)
        assert len(bundles(watch)) == 1


def test_a_figure_that_comes_while_the_bundle_loads_asks_for_no_second_one(site, browser, drawn):
    with opened(browser, **DESK) as (page, watch):
        held = []
        page.route("**/circuitsvis.js", lambda route: held.append(route))
        with page.expect_request("**/circuitsvis.js"):
            # Not until "load": the page is not loaded while the bundle is held back.
            page.goto(site, wait_until="domcontentloaded")
        page.evaluate(
            """html => document.querySelector("main").prepend(
                document.createRange().createContextualFragment(html))""",
            drawn[1].html(),
        )
        page.wait_for_timeout(300)
        # One request could also be two scripts that share it, each to be run.
        assert len(held) == page.locator("script[src$='circuitsvis.js']").count() == 1
        held[0].continue_()
        wait_until_drawn(page, 4)
        assert watch.errors == [] and watch.dialogs == []


def pictures_are_visible(page):
    pictures = page.locator("img.bookkit-picture")
    sizes = pictures.evaluate_all("all => all.map(i => [i.complete, i.naturalWidth > 99])")
    expected = [[True, True]] * (5 + len(PICTURES))
    return sizes == expected and all(p.is_visible() for p in pictures.all())


def test_without_javascript_the_pictures_are_there(site, browser):
    with opened(browser, **DESK, java_script_enabled=False) as (page, watch):
        page.goto(site)
        # Playwright evaluates in its own world, which the page's setting does not touch.
        assert pictures_are_visible(page)
        assert bundles(watch) == [] and watch.dialogs == []


def test_without_the_bundle_the_pictures_stay(site, browser):
    with opened(browser, **DESK) as (page, watch):
        page.goto(site + "alone.html")
        page.wait_for_load_state("networkidle")
        assert pictures_are_visible(page)
        assert all("404" in error for error in watch.errors) and watch.dialogs == []


def test_pictures_are_printed(site, browser):
    with opened(browser, **DESK) as (page, _):
        page.goto(site)
        wait_until_drawn(page)
        assert not pictures_are_visible(page)
        page.emulate_media(media="print")
        assert pictures_are_visible(page)
        assert not any(d.is_visible() for d in page.locator(".bookkit-drawing").all())


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing_serious(site, browser, theme, size):
    with opened(browser, **size) as (page, _):
        page.goto(site)
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        wait_until_drawn(page)
        found = Axe().run(page).response["violations"]
        serious = {v["id"]: v["nodes"] for v in found if v["impact"] in ("serious", "critical")}
        assert serious == {}


def test_canvases_say_what_they_show(site, browser, drawn):
    with opened(browser, **DESK) as (page, _):
        page.goto(site)
        wait_until_drawn(page)
        named = page.locator("canvas:not([aria-hidden])")
        assert [c.get_attribute("aria-label") for c in named.all()] == [drawn[1].alt, drawn[2].alt]
        assert named.first.get_attribute("role") == "img"
        group = page.locator(".colored-tokens")
        assert group.get_attribute("aria-label") == drawn[3].alt


def test_a_telephone_scrolls_only_down_and_covers_nothing(site, browser):
    with opened(browser, **PHONE) as (page, _):
        page.goto(site)
        wait_until_drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        for button in page.get_by_role("button").all():
            name, thumbnail = button.locator("h4"), button.locator("canvas")
            label, heat = name.bounding_box(), thumbnail.bounding_box()
            assert label["y"] + label["height"] <= heat["y"] + 1
            assert heat["width"] >= 48 and heat["x"] + heat["width"] <= 390
        large = page.locator(".bookkit-large canvas").first.bounding_box()
        assert large["width"] > 250 and large["x"] + large["width"] <= 390


@pytest.mark.parametrize("dark", ["html[data-theme=dark]", "body[data-jp-theme-light=false]"])
def test_dark_pages_keep_the_card_white(site, browser, dark):
    """The canvas is drawn for white, and so is the text on the card."""
    with opened(browser, **DESK) as (page, _):
        page.goto(site)
        wait_until_drawn(page)
        if "html" in dark:
            page.evaluate("document.documentElement.dataset.theme = 'dark'")
        else:
            page.evaluate("document.body.setAttribute('data-jp-theme-light', 'false')")
            page.add_style_tag(content="h3, h4, p { color: rgba(255, 255, 255, 0.87) }")
        for part in page.locator(".bookkit-drawing :is(h3, h4, p)").all():
            colour = part.evaluate("e => getComputedStyle(e).color")
            assert max(map(int, colour[4:-1].split(", "))) < 100, colour
        card = page.locator(".bookkit-drawing").first
        assert card.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(252, 252, 250)"
