import ast
import inspect

import pytest

import decoder.attention
from bookkit import source
from bookkit.source import show_code, show_source, without_docstrings
from decoder.attention import MultiHeadAttention, attention, causal_mask


def test_what_is_shown_is_what_the_file_holds():
    file = inspect.getsource(decoder.attention)
    shown = repr(show_source(causal_mask))
    assert shown.startswith("# src/decoder/attention.py\ndef causal_mask(")
    assert shown.partition("\n")[2] in file


def test_markdown_is_one_highlighted_block_under_the_file_name():
    markdown = show_source(causal_mask)._repr_markdown_()
    code = inspect.getsource(causal_mask).rstrip()
    assert markdown == f"`src/decoder/attention.py`\n\n```python\n{code}\n```"


def test_a_fence_is_longer_than_any_in_the_code():
    code = 'x = "````"'
    markdown = source.Source([("src/x.py", code)])._repr_markdown_()
    assert markdown.endswith(f"`````python\n{code}\n`````")


def test_a_method_is_shown_without_its_indentation():
    assert "\ndef forward(self" in repr(show_code(MultiHeadAttention.forward))


def test_several_objects_keep_their_order():
    shown = repr(show_code(causal_mask, attention))
    assert 0 < shown.index("def causal_mask") < shown.index("def attention")


@pytest.mark.parametrize("thing", [attention, causal_mask, MultiHeadAttention])
def test_code_alone_computes_the_same_without_docstrings(thing):
    code = inspect.getsource(thing)
    shorter = without_docstrings(code)
    assert '"""' in code and '"""' not in shorter

    def body(text):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if getattr(node, "body", None) and isinstance(node.body, list):
                node.body = [n for n in node.body if not _is_docstring(n)]
        return ast.dump(tree)

    assert body(shorter) == body(code)
    assert all(line in code.splitlines() for line in shorter.splitlines())


def _is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_show_source_keeps_the_docstring_and_show_code_does_not():
    assert '"""Let each query' in repr(show_source(causal_mask))
    assert '"""' not in repr(show_code(causal_mask))


def test_a_body_that_is_only_a_docstring_stays():
    code = 'class A:\n    """Only this."""'
    assert without_docstrings(code) == code


def test_comments_after_a_docstring_stay_and_its_blank_line_goes():
    code = 'def f():\n    """Says.\n\n    More."""\n\n    # why\n    return 1'
    assert without_docstrings(code) == "def f():\n    # why\n    return 1"


@pytest.mark.parametrize("thing", [len, 3, ast.parse, lambda: None, None])
def test_only_what_src_defines_can_be_shown(thing):
    with pytest.raises(ValueError, match="defined under src/"):
        show_source(thing)


@pytest.mark.parametrize("show", [show_source, show_code])
def test_there_must_be_something_to_show(show):
    with pytest.raises(ValueError, match="got none"):
        show()
