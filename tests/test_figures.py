"""The figure functions, without a browser: what they refuse, what they write, what is stable."""

import base64
import html
import io
import json
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nbval.plugin import get_sanitize_patterns
from PIL import Image

from bookkit import circuitsvis, describe, figures, lines, static, style
from bookkit.charts import spread
from bookkit.check import name_of, visible

HOSTILE = [
    "</script><script>alert(1)</script>",
    '<img/src="x"onerror=alert(1)>',
    "&amp;",
    '"',
    "\n",
    "\u2028",
    "<s>",
]
SEQ, HEADS = 7, 3


def causal(n_heads=HEADS, seq=SEQ, seed=0):
    scores = np.random.default_rng(seed).normal(size=(n_heads, seq, seq))
    weights = np.exp(scores) * np.tri(seq)
    return weights / weights.sum(-1, keepdims=True)


def draw(name, tokens, noise=0.0, **texts):
    """A function that takes tokens, on the same data but for relative noise."""
    shift = 1 + noise * np.random.default_rng(5).uniform(-1, 1, (HEADS, SEQ, SEQ))
    pattern = causal() * shift
    if name == "heads":
        return figures.attention_heads(pattern, tokens, **texts)
    if name == "pattern":
        return figures.attention_pattern(pattern[1], tokens, **texts)
    return figures.colored_tokens(tokens, pattern[2, -1] - 0.1, **texts)


def picture(name, tokens, noise=0.0, **texts):
    """A function that takes tokens and gives a picture only, on the same data but for noise."""
    shift = 1 + noise * np.random.default_rng(5).uniform(-1, 1, (HEADS, SEQ))
    values, rows = (causal()[:, -1] - 0.1) * shift, ["one", "two", "three"]
    if name == "token_grid":
        return figures.token_grid(values, tokens, rows, texts=[tokens] * HEADS, **texts)
    if name == "token_log_probs":
        p = np.resize(causal()[0, -1], (SEQ, SEQ)) * shift[0]
        return figures.token_log_probs(tokens, np.log(p), tokens, **texts)
    if name == "token_values":
        return figures.token_values(tokens, values, rows, **texts)
    pairs = [(tokens, row) for row in values]
    return figures.top_contexts({"one": pairs[:1], tokens[0]: pairs[1:]}, **texts)


PICTURES = ["token_grid", "token_log_probs", "token_values", "top_contexts"]


class Elements(HTMLParser):
    """The start tags of a text, and whether every element that needs it is closed."""

    VOID = {"img", "br", "hr", "input", "meta", "link"}

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def only(self, tag):
        (attributes,) = [attributes for name, attributes in self.found if name == tag]
        return attributes


def data_of(figure):
    return json.loads(
        re.search(r'<script type="application/json">(.*?)</script>', figure.html())[1]
    )


PATTERN = np.full((2, 3, 3), 1 / 3)
THREE = ["a", "b", "c"]
BAD = [
    (figures.attention_heads, (PATTERN[0], THREE), {}, r"n_heads, seq_q, seq_k.*\(3, 3\)"),
    (figures.attention_heads, (PATTERN[:, :2], THREE), {}, r"seq_q = seq_k.*\(2, 2, 3\)"),
    (figures.attention_heads, (PATTERN, THREE[:2]), {}, "expected 3 tokens.*got 2"),
    (figures.attention_heads, (PATTERN, "abc"), {}, "list of tokens, got one string"),
    (figures.attention_heads, (PATTERN, [1, 2, 3]), {}, "strings, got int at 0: decode"),
    (figures.attention_heads, (PATTERN, 3), {}, "list of tokens, got int"),
    (figures.attention_heads, (PATTERN * np.nan, THREE), {}, r"finite pattern, got nan at \(0,"),
    (figures.attention_heads, (PATTERN, THREE), {"max_value": 0}, "max_value above 0, got 0"),
    (figures.attention_heads, (PATTERN, THREE), {"max_value": np.inf}, "finite max_value"),
    (figures.attention_heads, (np.zeros((0, 3, 3)), THREE), {}, r"none empty; got \(0, 3, 3\)"),
    (figures.attention_heads, ([[[1], [1, 2]]], THREE), {}, "expected pattern to be numbers"),
    (figures.attention_heads, (np.eye(129)[None], ["a"] * 129), {}, "at most 128 tokens.*129"),
    (figures.attention_pattern, (PATTERN, THREE), {}, r"\(seq_q, seq_k\).*\(2, 3, 3\)"),
    (figures.attention_pattern, (PATTERN[0, :2], THREE), {}, "seq_q = seq_k"),
    (figures.attention_pattern, ([["a"]], ["a"]), {}, "pattern to be numbers"),
    (
        figures.attention_pattern,
        (PATTERN[0] / 0.0 if False else PATTERN[0] * 1j, THREE),
        {},
        "comp",
    ),
    (figures.colored_tokens, (THREE, [1, 2]), {}, "expected 2 tokens.*got 3"),
    (figures.colored_tokens, (THREE, [[1, 2, 3]]), {}, r"values of shape \(seq\).*\(1, 3\)"),
    (figures.colored_tokens, (THREE, [1, np.inf, 3]), {}, r"finite values, got inf at \(1,\)"),
    (figures.colored_tokens, (THREE, [1, 2, 3]), {"max_value": -1}, "max_value above 0"),
    (figures.loss_curves, ({},), {"caption": "c"}, "at least one curve"),
    (figures.loss_curves, ({"a": []},), {"caption": "c"}, r"curve 'a'.*\(points, 2\)"),
    (figures.loss_curves, ({"a": [(1, 2, 3)]},), {"caption": "c"}, r"pairs in 'a', got \(1, 3\)"),
    (figures.loss_curves, ({"a": [(1, np.nan)]},), {"caption": "c"}, "finite curve 'a'"),
    (figures.loss_curves, ({"a": [(1, 2)]},), {"caption": " "}, "caption to be a sentence"),
    (figures.loss_curves, ({"a": [(1, 2)]}, np.nan), {"caption": "c"}, "finite floor"),
    (figures.heatmap, ([[1, 2]], ["a"], ["b"]), {"caption": "c"}, "expected 2 column names"),
    (figures.heatmap, ([[1, 2]], ["a", "b"], THREE), {"caption": "c"}, "expected 1 row names"),
    (figures.heatmap, ([1, 2], ["a"], ["b"]), {"caption": "c"}, r"rows, columns.*\(2,\)"),
    (figures.token_grid, (PATTERN[0], THREE[:2], THREE), {"caption": "c"}, "expected 3 tokens"),
    (figures.token_grid, (PATTERN[0], THREE, THREE[:2]), {"caption": "c"}, "3 row names.*got 2"),
    (figures.token_grid, (PATTERN[0], THREE, [1, 2, 3]), {"caption": "c"}, "row names to be str"),
    (figures.token_grid, (PATTERN, THREE, THREE), {"caption": "c"}, r"\(rows, seq\).*\(2, 3, 3\)"),
    (figures.token_grid, ([[np.nan]], ["a"], ["b"]), {"caption": "c"}, "finite values"),
    (figures.token_grid, ([[1]], ["a"], ["b"]), {"caption": ""}, "caption to be a sentence"),
    (figures.token_grid, (np.ones((1, 49)), ["a"] * 49, ["b"]), {"caption": "c"}, "at most 48"),
    (
        figures.token_grid,
        ([[1]], ["a"], ["b"]),
        {"caption": "c", "max_value": 0},
        "max_value above 0",
    ),
    (
        figures.token_grid,
        ([[1]], ["a"], ["b"]),
        {"caption": "c", "texts": [["a"], ["a"]]},
        "texts for 1 rows, got 2",
    ),
    (
        figures.token_grid,
        ([[1]], ["a"], ["b"]),
        {"caption": "c", "texts": [["a", "b"]]},
        "expected 1 texts",
    ),
    (figures.token_log_probs, (THREE, PATTERN[0], THREE), {"caption": "c"}, "none above 0"),
    (figures.token_log_probs, (THREE, -PATTERN[0], ["a", "b", "z"]), {"caption": "c"}, r"\['c'\]"),
    (figures.token_log_probs, (THREE[:2], -PATTERN[0], THREE), {"caption": "c"}, "3 tokens"),
    (figures.token_log_probs, (THREE, -PATTERN[0], THREE[:2]), {"caption": "c"}, "vocabulary"),
    (figures.token_log_probs, (THREE, -PATTERN[0], THREE, 4), {"caption": "c"}, "k from 1 to 3"),
    (figures.token_log_probs, (["a"], [[-1.0]], ["a"], 1), {"caption": "c"}, "two tokens or more"),
    (figures.token_values, (THREE, [[1, 2]], ["n"]), {"caption": "c"}, "expected 2 tokens"),
    (figures.token_values, (THREE, [1, 2, 3], ["n"]), {"caption": "c"}, r"\(names, seq\)"),
    (figures.token_values, (THREE, [[1, 2, 3]], []), {"caption": "c"}, "expected 1 names"),
    (figures.token_values, (THREE, [[1, 2, 3]], ["n"]), {"caption": " "}, "caption to be"),
    (figures.top_contexts, ({},), {"caption": "c"}, "1 to 60 contexts.*got 0"),
    (figures.top_contexts, ({"a": [], "b": [(THREE, [1, 2, 3])]},), {"caption": "c"}, "at least"),
    (figures.top_contexts, ({"a": [(THREE, [1, 2])]},), {"caption": "c"}, "expected 2 tokens"),
    (figures.top_contexts, ({1: [(THREE, [1, 2, 3])]},), {"caption": "c"}, "names to be strings"),
    (figures.decoder_map, ("mask", "msk"), {}, r"embed, .*unembed.*got \['msk'\]"),
    (figures.show, ("x",), {"caption": "c", "alt": "a"}, "matplotlib Figure, got str"),
    (figures.show, (None,), {"caption": "c", "alt": ""}, "alt to be a sentence"),
    (figures.show, (None,), {"caption": None, "alt": "a"}, "caption to be a sentence, got None"),
]


@pytest.mark.parametrize(("function", "arguments", "options", "message"), BAD)
def test_bad_input_is_named(function, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments, **options)


@pytest.mark.parametrize("name", ["heads", "pattern", "tokens"])
def test_hostile_tokens_and_texts_stay_text(name):
    texts = {"title": HOSTILE[0], "caption": HOSTILE[1] + HOSTILE[3]}
    figure = draw(name, HOSTILE, **texts)
    page = Elements(figure.html())
    assert page.open == []
    kinds = [tag for tag, _ in page.found]
    assert kinds == ["figure", "div", "img", "script", "script", "figcaption", "strong"]
    assert page.only("img")["src"].startswith("data:image/png;base64,")
    assert all(not key.startswith("on") for _, attributes in page.found for key in attributes)
    payload = re.search(r"application/json\">(.*?)</script>", figure.html())[1]
    assert not set("<>&\u2028\u2029\n") & set(payload)
    shown = [token.rstrip("\n") for token in data_of(figure)["tokens"]]
    assert shown == [*HOSTILE[:4], "↵", "⟨U+2028⟩", "<s>"]
    for token in shown:
        assert token in page.only("img")["alt"]
    assert html.escape(HOSTILE[1] + HOSTILE[3]) in figure.html()


@pytest.mark.parametrize("name", PICTURES)
def test_hostile_tokens_stay_text_in_pictures_too(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        texts = {"title": HOSTILE[0], "caption": HOSTILE[1] + HOSTILE[3]}
        figure = picture(name, HOSTILE, **texts)
        picture(name, ["$x", "\\frac{", "$\\frac{$", "%", "^_", "{}", "$$"], caption="c")
    page = Elements(figure.html())
    assert page.open == []
    assert [tag for tag, _ in page.found] == ["figure", "div", "img", "figcaption", "strong"]
    image = page.only("img")
    assert all(not key.startswith("on") for _, attributes in page.found for key in attributes)
    for token in [*HOSTILE[:4], "↵", "⟨U+2028⟩", "<s>"]:
        assert token in image["alt"]
    assert html.escape(HOSTILE[1] + HOSTILE[3]) in figure.html()
    assert len(re.sub(r'src="data:[^"]*"', "", figure.html()).encode()) < 20_000
    assert int(image["width"]) <= 700 and len(figure.image.data) < 45_000


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_tokens_show_their_values(name):
    """Other values, other pixels; a written alternative replaces the computed one."""
    tokens = list("abcdefg")
    one, other = (picture(name, tokens, noise, caption="c") for noise in (0.0, 0.9))
    assert one.image.data != other.image.data and one.alt != other.alt
    assert 'data-alt="generated"' in one.html()
    written = picture(name, tokens, caption="c", alt="Ours.")
    assert written.alt == "Ours." and "data-alt" not in written.html()


def test_a_grid_says_what_it_reads_and_where_it_is_highest():
    options = {"caption": "c", "value_axis": "p"}
    figure = figures.token_grid([[1, 2, -3]], list("xyz"), ["row"], texts=[THREE], **options)
    assert figure.alt == (
        "Grid of 1 rows by 3 tokens: x y z. Colour: p. row: reads a b c; "
        "highest 2.00 at y (1), lowest -3.00 at z (2)."
    )


def test_log_probs_are_ranked_after_each_token_and_the_one_that_came_is_named():
    p = [[0.7, 0.1, 0.2], [0.5, 0.1, 0.4], [0.2, 0.3, 0.5]]
    figure = figures.token_log_probs(list("aca"), np.log(p), THREE, 2, caption="c")
    assert "likeliest 1: reads a a; highest 0.70 at a (0), lowest 0.50 at c (1)." in figure.alt
    assert "likeliest 2: reads c c; highest 0.40 at c (1), lowest 0.20 at a (0)." in figure.alt
    assert "what came: reads c a; highest 0.50 at c (1), lowest 0.20 at a (0)." in figure.alt


def test_long_lines_are_broken_and_long_contexts_cut_round_their_peak():
    tokens, values = [f"w{i}" for i in range(100)], np.zeros(100)
    short = figures.token_values(tokens[:9], [values[:9]], ["n"], caption="c")
    long = figures.token_values(tokens, [values], ["n"], caption="c")
    height = [Image.open(io.BytesIO(f.image.data)).height for f in (short, long)]
    assert height[1] > 4 * height[0]
    for peak in (0, 50, 99):
        kept = lines._around(tokens, peak, 40)
        assert kept.start <= peak < kept.stop and 5 < kept.stop - kept.start < 20
    assert lines._around(["w" * 99], 0, 40) == slice(0, 1)


@given(st.text())
def test_every_token_is_visible_and_json_survives_a_script_element(token):
    shown = visible(token)
    assert shown and shown.isprintable() and not shown.isspace()
    assert not set(circuitsvis.as_json([shown])) & set("<>&\u2028\u2029")
    assert json.loads(circuitsvis.as_json([shown])) == [shown]


@pytest.mark.parametrize(
    ("token", "shown"),
    [(" the", "·the"), ("\t", "⇥"), ("a\nb", "a↵b"), ("", "∅"), ("é", "é"), ("\u200b", "⟨U+200B⟩")],
)
def test_what_would_be_invisible_gets_a_sign(token, shown):
    assert visible(token) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [("no skip", "no skip"), (" the", "·the"), (" ", "·"), ("", "∅"), ("a\nb ", "a↵b·"),
     ("a long name", "a long n…")],
)  # fmt: skip
def test_names_beside_a_chart_keep_their_inner_spaces(name, shown):
    assert name_of(name, 9) == shown


def test_formulas_in_tokens_are_not_typeset():
    tokens = ["$x", "\\frac{", "$\\frac{$", "%", "^_", "{}", "$$"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("heads", "pattern", "tokens"):
            assert len(draw(name, tokens).image.data) > 500


def test_data_carries_the_pattern_to_three_digits():
    pattern = causal()
    data = data_of(figures.attention_heads(pattern, THREE + list("defg")))
    assert data["causal"] and data["shape"] == [HEADS, SEQ, SEQ]
    got = np.array(data["values"]) / 10.0 ** data["digits"]
    np.testing.assert_allclose(got, pattern[:, np.tri(SEQ, dtype=bool)].ravel(), atol=5e-4)
    open_pattern = causal() + 0.01
    data = data_of(figures.attention_heads(open_pattern, THREE + list("defg")))
    got = np.array(data["values"]).reshape(HEADS, SEQ, SEQ) / 10.0 ** data["digits"]
    assert not data["causal"]
    np.testing.assert_allclose(got, open_pattern, atol=5e-3 if open_pattern.max() > 1 else 5e-4)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(1e-3, 1e6))
def test_packed_numbers_keep_three_digits_of_the_greatest(values, scale):
    values = np.array(values)
    limit = max(abs(values).max(), scale)
    integers, digits = circuitsvis.pack(values, limit)
    np.testing.assert_allclose(np.array(integers) / 10.0**digits, values, atol=limit / 100)
    assert max(map(abs, integers)) <= 1000


def test_tensors_that_need_gradients_and_half_precision_and_booleans_are_taken():
    weights = torch.full((2, 3, 3), 1 / 3, requires_grad=True)
    plain = data_of(figures.attention_heads(PATTERN, THREE))
    assert data_of(figures.attention_heads(weights, THREE)) == plain
    assert data_of(figures.attention_heads(PATTERN.tolist(), THREE)) == plain
    half = data_of(figures.attention_heads(weights.bfloat16(), THREE))
    assert half["values"] == [334] * 18  # 1/3 is 0.33398 in bfloat16
    mask = figures.attention_pattern(torch.ones(3, 3, dtype=torch.bool).tril(), THREE)
    assert data_of(mask)["causal"] and data_of(mask)["values"] == [1000] * 6


def test_only_a_pattern_with_nothing_after_the_query_is_drawn_as_causal():
    """A leak, however small, must be seen: that is what the chapter about masks shows."""
    leaking = causal()
    leaking[1, 0, 1] = 1e-9
    assert not data_of(figures.attention_heads(leaking, THREE + list("defg")))["causal"]
    assert not data_of(figures.attention_pattern([[1.0]], ["a"]))["causal"]


def test_the_text_alternative_says_which_head_looks_where():
    previous, first, own = np.eye(5, k=-1), np.zeros((5, 5)), np.eye(5)
    previous[0, 0] = 1
    first[:, 0] = 1
    tokens = list("vwxyz")
    alt = figures.attention_heads([own, previous, first], tokens).alt
    assert "Head 0 gives the token itself 100%" in alt
    assert "Head 1 gives the token before 100%" in alt
    assert "Head 2 gives the first token 100%" in alt
    assert "v w x y z" in alt
    leaning = np.tri(5) / np.tri(5).sum(-1, keepdims=True)
    leaning[4] = [0, 0, 0.9, 0.1, 0]
    assert "0.90, is from z (4) to x (2)" in figures.attention_pattern(leaning, tokens).alt
    alt = figures.colored_tokens(tokens, [1, -2, 0.5, 3, 0]).alt
    assert "Highest: y (3), 3. Lowest: w (1), -2." in alt


def test_a_written_alternative_replaces_the_computed_one_and_is_escaped():
    figure = figures.attention_heads(PATTERN, THREE, alt='It says "<b>".')
    image = Elements(figure.html()).only("img")
    assert image["alt"] == 'It says "<b>".' and "data-alt" not in image


def test_ids_follow_the_content():
    same, again = (figures.attention_heads(PATTERN, THREE, caption="c") for _ in range(2))
    others = [
        figures.attention_heads(PATTERN, ["a", "b", "d"], caption="c"),
        figures.attention_heads(PATTERN * 0.9, THREE, caption="c"),
        figures.attention_heads(PATTERN, THREE, caption="d"),
        figures.attention_pattern(PATTERN[0], THREE, caption="c"),
    ]
    assert same.html() == again.html()
    ids = [Elements(figure.html()).only("figure")["id"] for figure in [same, *others]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"figure-[0-9a-f]{12}", one) for one in ids)


def test_without_lab_no_figure_carries_the_bundle(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(circuitsvis, "_sent", set())
    assert "CircuitsVis=" not in figures.attention_heads(PATTERN, THREE).html()
    assert not circuitsvis._sent


def test_in_lab_the_first_figure_of_a_kernel_carries_the_bundle_once(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "chapters/02.ipynb")
    monkeypatch.setattr(circuitsvis, "_sent", set())
    figure = figures.attention_heads(PATTERN, THREE)
    sizes = [len(figure._repr_mimebundle_()["text/html"]) for _ in range(3)]
    assert sizes[0] > 1_200_000 and sizes[1] == sizes[2] < 20_000


def test_the_bundle_can_stand_in_a_script_element():
    code = circuitsvis.bundle()
    assert "</script" not in code.lower() and "sourceMappingURL" not in code
    assert "var CircuitsVis=" in code and "bookkitDraw" in code


def test_a_page_of_figures_stays_small():
    """Without its pictures, a figure of eight heads over 32 tokens is at most a sixth of a page."""
    figure = figures.attention_heads(causal(8, 32), [f"w{i}" for i in range(32)])
    without = re.sub(r'src="data:[^"]*"', "", figure.html())
    assert len(without.encode()) < 20_000
    assert len(figure.image.data) < 45_000


def test_every_figure_is_a_picture_with_caption_and_alternative_in_all_forms():
    fig, ax = figures.subplots()
    ax.plot([1, 2])
    every = {
        "heads": draw("heads", list("abcdefg"), caption="The message."),
        "tokens": draw("tokens", list("abcdefg"), caption="The message."),
        "show": figures.show(fig, caption="The message.", alt="A line."),
        "loss": figures.loss_curves({"a": [(0, 2), (5, 1)]}, 0.5, 3, caption="The message."),
        "heatmap": figures.heatmap([[1, -1]], ["r"], ["c", "d"], caption="The message."),
    }
    every |= {one: picture(one, list("abcdefg"), caption="The message.") for one in PICTURES}
    for name, figure in every.items():
        bundle = figure._repr_mimebundle_()
        page = Elements(bundle["text/html"])
        png = base64.b64decode(bundle["image/png"])
        assert page.open == [] and page.only("img")["alt"].strip(), name
        assert "The message.</figcaption>" in bundle["text/html"], name
        assert page.only("img")["src"].endswith(bundle["image/png"]), name
        assert "The message." in bundle["text/plain"] and "0x" not in bundle["text/plain"]
        drawn = Image.open(io.BytesIO(png))
        assert drawn.mode == "P" and len(np.unique(drawn.convert("L"))) > 5, name
        width = int(page.only("img")["width"])
        assert width <= 700 and drawn.width > 1.5 * width, name  # sharp on a good screen


def test_show_closes_the_figure_so_that_it_is_not_shown_twice():
    before = set(plt.get_fignums())
    fig, _ = figures.subplots()
    figures.show(fig, caption="c", alt="a")
    figures.loss_curves({"a": [(0, 1)]}, caption="c")
    figures.heatmap([[1]], ["a"], ["b"], caption="c")
    assert set(plt.get_fignums()) == before


def test_loss_curves_draw_the_points_and_the_references():
    options = {"floor": 1.075, "ceiling": 2.303, "baselines": {"bigram $": 1.9}}
    figure = figures.loss_curves({"decoder": [(0, 2.4), (10, 1.25)]}, **options, caption="c")
    assert figure.alt == (
        "Loss in nats per token against the training step. decoder: from 2.400 at step 0 to "
        "1.250 at step 10. floor: 1.075. ceiling: 2.303. bigram $: 1.900."
    )
    without = figures.loss_curves({"decoder": [(0, 2.4), (10, 1.25)]}, caption="c")
    assert without.image.data != figure.image.data


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_names_beside_curves_do_not_overlap(heights):
    moved = spread(sorted(heights), 0.06)
    assert all(b - a >= 0.06 - 1e-9 for a, b in zip(moved, moved[1:], strict=False))
    assert np.isclose(np.mean(moved), np.mean(heights))


def test_names_that_do_not_overlap_stay_where_they_are():
    np.testing.assert_allclose(spread([0.1, 0.5, 0.9], 0.06), [0.1, 0.5, 0.9])


def test_heatmap_says_what_is_not_finite():
    figure = figures.heatmap([[-np.inf, np.nan], [0.5, -2]], ["a", "b"], ["c", "d"], caption="c")
    assert "Columns: c, d. a: −∞, NaN. b: 0.50, −2.00." in figure.alt


def test_long_names_fit_without_a_warning():
    """A warning on stderr would stop the chapter from being stored."""
    long = HOSTILE[0] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.heatmap([[1.0, 2.0]], [long], ["k", long], caption="c", row_axis="query")
        figures.heatmap(np.eye(23), [long] * 23, [long] * 23, caption="c")
        figures.loss_curves({long: [(0, 1), (1, 2)]}, baselines={long: 3}, caption="c")
        figures.attention_heads(PATTERN, [long] * 3)
        figures.colored_tokens([long] * 3, [1, 2, 3])
        figures.token_grid(np.eye(3), [long] * 3, [long] * 3, texts=[[long] * 3] * 3, caption="c")
        figures.token_values([long] * 3, [[1, 2, 3]], [long], caption="c")
        figures.top_contexts({long: [([long] * 9, [0] * 8 + [1])]}, caption="c")


def test_the_map_lights_only_what_is_asked_for():
    def lit(*names):
        svg = figures.decoder_map(*names).image.data.decode()
        return set(re.findall(r'<g class="l">.*?<text[^>]*>([^<]*)</text>', svg))

    assert lit() == set()
    assert lit("mask") == {"mask"}
    assert lit("embed", "mlp") == {"embed", "dense layers"}
    assert lit("norm") == {"norm"}
    assert {"attention", "Q, K, V", "scores", "mask", "softmax", "z", "W_O"} == lit("attention")
    maps = {figures.decoder_map(piece).image.data for piece in figures.PIECES}
    assert len(maps) == len(figures.PIECES) and figures.decoder_map().image.data not in maps


def test_the_map_says_what_is_lit():
    figure = figures.decoder_map("skip", "norm")
    assert figure.alt.endswith("Lit: skip connections and norm.")
    assert figure.caption == "Where we are: skip connections and norm."
    assert figures.decoder_map(caption="Ours.").caption == "Ours."


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_read():
    for colour in [*style.COLOURS.values(), style.QUIET, style.INK]:
        assert contrast(colour, style.CARD) >= 4.5, colour
    for colour in (style.TOKEN_POSITIVE, style.TOKEN_NEGATIVE):
        assert contrast(colour, "#111111") >= 4.5, colour


SANITIZE = Path(__file__).with_name("nbval_sanitize.cfg")


def sanitized(figure):
    """What nbval compares of a figure: all that it does not skip, sanitised as in make test."""
    bundle = figure._repr_mimebundle_()
    kept = {kind: text for kind, text in bundle.items() if kind != "image/png"}
    for kind, text in kept.items():
        for pattern, replacement in get_sanitize_patterns(SANITIZE.read_text()):
            text = re.sub(pattern, replacement, text)
        kept[kind] = text
    return kept


@pytest.mark.parametrize("name", ["heads", "pattern", "tokens"])
def test_nbval_sees_no_difference_where_only_last_digits_differ(name):
    one, other = (draw(name, HOSTILE, noise) for noise in (0.0, 1e-7))
    assert sanitized(one) == sanitized(other)
    # Also where a digit that is shown has flipped, as it does at the border of rounding.
    flipped = draw(name, HOSTILE, noise=1e-2)
    assert one.html() != flipped.html() and sanitized(one) == sanitized(flipped)


@pytest.mark.parametrize("name", PICTURES)
def test_nbval_sees_no_difference_in_pictures_of_tokens_either(name):
    one, other = (picture(name, HOSTILE, noise, caption="c") for noise in (0.0, 1e-2))
    assert one.html() != other.html() and sanitized(one) == sanitized(other)


def test_nbval_sees_other_tokens_captions_and_written_alternatives():
    def figure(tokens=THREE, caption="c", alt="a", title="t"):
        return sanitized(figures.attention_heads(PATTERN, tokens, title, caption=caption, alt=alt))

    assert figure() == figure()
    others = [{"tokens": ["a", "b", "z"]}, {"caption": "d"}, {"alt": "b"}, {"title": "u"}]
    for other in others:
        assert figure(**other) != figure(), other


def test_nbval_sees_no_difference_between_pictures_of_nearly_the_same_curves():
    curves = [{"a": [(0, 2.0), (9, 1.0 + noise)]} for noise in (0, 1e-4, 1e-2)]
    one, *others = (sanitized(figures.loss_curves(c, caption="c")) for c in curves)
    assert all(other == one for other in others)


def test_description_of_many_tokens_stays_short():
    tokens = [f"token{i}" for i in range(128)]
    text = describe.attention(causal(40, 128), tokens, True)
    assert len(text) < 3500


def test_one_cell_of_another_colour_keeps_it():
    """A palette chosen by how much a colour fills turned a single orange cell grey."""
    values = torch.rand(5, 64, generator=torch.Generator().manual_seed(0)) * 4
    values[0, 45] = -2.6
    tokens, names = list("abcdefgh" * 8), list("vwxyz")
    picture = figures.token_values(tokens, values, names, caption="c", max_value=4)
    shown = Image.open(io.BytesIO(picture.image.data)).convert("RGB")
    red, _, blue = np.asarray(shown).astype(int).T
    wanted = 255 * np.array(static.token_colour(-2.6, -4, 4))
    assert (red - blue).max() > 0.9 * (wanted[0] - wanted[2])
