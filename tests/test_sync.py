"""Chapters to notebooks. Each chapter here is executed by a real kernel, so they are few."""

import base64
import io
import json
import os
import struct
import sys
import zlib
from pathlib import Path

import nbformat
import pytest
from PIL import Image, PngImagePlugin

from bookkit import notebook, sync
from bookkit.notebook import ChapterError, differences, plan, write
from bookkit.outputs import ROOT, Unrepeatable, clean, strip_png

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Why?

"""


def cell(source, tags=""):
    option = f":tags: [{tags}]\n\n" if tags else ""
    return f"```{{code-cell}} ipython3\n{option}{source}\n```\n\n"


def chapter(folder, *cells, name="03-why"):
    md = folder / f"{name}.md"
    md.write_text(HEADER + "".join(cells), encoding="utf-8")
    return md


EVERYTHING = (
    cell('print("one")\nprint("two")'),
    cell('print("one")\nprint("two")'),
    "## Then\n\n",
    cell("import os, sys\n(os.getcwd() == os.path.realpath('.'), 6 * 7)"),
    cell("import torch\ntorch.get_num_threads(), os.environ['OMP_NUM_THREADS']"),
    cell("sys.executable == " + repr(sys.executable)),
    cell(
        "import tqdm.auto\nfor _ in tqdm.auto.tqdm(range(3)):\n"
        '    print("a line")\nprint("5%\\r10%\\r", end="", file=sys.stderr)\nprint("last")'
    ),
    cell(
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()",
        "hide-input",
    ),
    cell("1 / 0", "raises-exception"),
    cell("'answer'", "hide-cell, solution"),
    cell("os.environ.get('JPY_SESSION_NAME'), [v for v in os.environ if v == 'JUPYTER_PATH']"),
)


@pytest.fixture(scope="module")
def synced(tmp_path_factory):
    """A chapter with some of everything, synced in an environment that is not clean."""
    folder = tmp_path_factory.mktemp("a folder with spaces")
    shadow = folder / "jupyter" / "kernels" / "python3"
    shadow.mkdir(parents=True)
    (shadow / "kernel.json").write_text(
        json.dumps({"argv": ["false"], "display_name": "not this one", "language": "python"})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setenv("JPY_SESSION_NAME", "a live Lab")
        patch.setenv("OMP_NUM_THREADS", "1")
        path = sync.sync(chapter(folder, *EVERYTHING))
    return path


def outputs(path):
    return [c.outputs for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def test_the_second_run_writes_the_same_bytes(synced):
    before = synced.read_bytes()
    sync.sync(synced.with_suffix(".md"))
    assert synced.read_bytes() == before


def test_the_notebook_is_valid_and_agrees_with_its_chapter(synced):
    nbformat.validate(nbformat.read(synced, as_version=4))
    assert differences(synced.with_suffix(".md")) == []


def test_ids_are_unique_and_follow_from_the_contents(synced, tmp_path):
    ids = [c.id for c in nbformat.read(synced, as_version=4).cells]
    assert len(set(ids)) == len(ids)
    longer = plan(chapter(tmp_path, cell("0"), *EVERYTHING))
    assert [c.id for c in longer.cells if c.id in ids] == ids


def test_the_kernel_is_this_interpreter_with_its_own_threads(synced):
    results = outputs(synced)
    assert results[3][0].data["text/plain"] == f"({sync.THREADS}, '{sync.THREADS}')"
    assert results[4][0].data["text/plain"] == "True"
    assert results[-1][0].data["text/plain"] == "(None, [])"


def test_streams_are_merged_and_progress_bars_leave_nothing(synced):
    [output] = outputs(synced)[5]
    assert (output.name, output.text) == ("stdout", "a line\na line\na line\nlast\n")


def test_an_expected_error_is_stored_as_its_message(synced):
    [output] = outputs(synced)[7]
    assert output.ename == "ZeroDivisionError"
    assert len(output.traceback) == 1 and "division by zero" in output.traceback[0]


def test_nothing_of_this_machine_or_this_run_is_stored(synced):
    text = synced.read_text(encoding="utf-8")
    stored = json.loads(text)
    assert stored["metadata"] == notebook.METADATA
    for each in stored["cells"]:
        assert set(each["metadata"]) <= {"tags", "jupyter", "mystnb"}
    counts = [c["execution_count"] for c in stored["cells"] if c["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    # One cell was given this interpreter's path as its source.
    for place in {str(synced.parent), str(Path.home()), str(ROOT)}:
        assert place not in text.replace(sys.executable, "")
    assert "Software" not in text and "widget" not in text


def test_folded_cells_are_folded_in_lab_too(synced):
    cells = nbformat.read(synced, as_version=4).cells
    folded = [c.metadata.get("jupyter") for c in cells if "hide" in str(c.metadata)]
    assert folded == [{"source_hidden": True}, {"source_hidden": True, "outputs_hidden": True}]
    assert cells[-2].metadata.mystnb.code_prompt_show == "Show a solution"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("undefined_name", "NameError: name 'undefined_name' is not defined"),
        ("import os\nos._exit(3)", "Kernel died"),
        ("import warnings\nwarnings.warn('too hot')", "stderr"),
        ("object()", "address in memory"),
        ("import os\nos.path.expanduser('~/x')", "path of this machine"),
    ],
)
def test_a_bad_cell_is_named_and_the_old_notebook_stays(source, says, tmp_path, capsys):
    md = chapter(tmp_path, cell("x = 1"), cell(source))
    old = md.with_suffix(".ipynb")
    old.write_text("the old one")
    assert sync.main(["03"], tmp_path) == 1
    message = capsys.readouterr().err
    assert "03-why.md: code cell 2, " in message and repr(source.splitlines()[0]) in message
    assert says in message
    assert old.read_text() == "the old one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["03-why.ipynb", "03-why.md"]


MEET = """import pathlib, time
pathlib.Path("{mine}").touch()
end = time.time() + 100
while not pathlib.Path("{other}").exists() and time.time() < end: time.sleep(0.05)
assert pathlib.Path("{other}").exists()"""


def test_chapters_run_side_by_side_and_one_that_fails_does_not_stop_the_other(tmp_path, capfd):
    """Two cells that wait for one another; run in turn, the first would never see the second."""
    good = chapter(tmp_path, cell(MEET.format(mine="a", other="b")), name="03-why")
    bad = chapter(tmp_path, cell(MEET.format(mine="b", other="a")), cell("1 / 0"), name="04-how")
    assert sync.main([], tmp_path) == 1
    out, err = capfd.readouterr()
    assert "2 chapters, 2 at once" in out and "03-why.ipynb: " in out
    assert err.startswith("04-how.md: code cell 2, '1 / 0'") and err.count("\n") == 1
    assert good.with_suffix(".ipynb").exists() and not bad.with_suffix(".ipynb").exists()


def test_a_cell_that_takes_too_long_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sync, "CELL_TIMEOUT", 1)
    with pytest.raises(ChapterError, match="code cell 1, 'import time'.*timed out"):
        sync.sync(chapter(tmp_path, cell("import time\ntime.sleep(30)")))


def test_a_cell_that_a_tag_skips_is_refused(tmp_path):
    with pytest.raises(ChapterError, match="not executed"):
        sync.sync(chapter(tmp_path, cell("1", "skip-execution")))


@pytest.mark.parametrize(
    ("body", "says"),
    [((), "found none"), ((cell(""),), "empty"), (("# Only text\n",), "found none")],
)
def test_a_chapter_without_code_is_refused(body, says, tmp_path):
    with pytest.raises(ChapterError, match=says):
        plan(chapter(tmp_path, *body))


def change_source(nb):
    nb.cells[1].source += "\n# other"


def change_text(nb):
    nb.cells[0].source += " Because."


def drop_cell(nb):
    del nb.cells[-1]


def change_id(nb):
    nb.cells[1].id = "another"


def add_tag(nb):
    nb.cells[1].metadata["tags"] = ["hide-input"]


def add_timing(nb):
    nb.cells[1].metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}


def forget_execution(nb):
    nb.cells[1].execution_count = None


def add_version(nb):
    nb.metadata.language_info["version"] = "3.11.7"


CHANGES = [
    change_source, change_text, drop_cell, change_id, add_tag, add_timing, forget_execution,
    add_version,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_check_sees_each_difference(change, tmp_path, capsys):
    md = chapter(tmp_path, cell("1"), cell("2"))
    stored = plan(md)
    for count, each in enumerate(stored.cells):
        if each.cell_type == "code":
            each.execution_count = count
    write(stored, md.with_suffix(".ipynb"))
    assert sync.main(["--check"], tmp_path) == 0
    change(stored)
    write(stored, md.with_suffix(".ipynb"))
    assert sync.main(["--check"], tmp_path) == 1
    assert "03-why.ipynb" in capsys.readouterr().err


def test_check_sees_a_missing_notebook(tmp_path):
    assert differences(chapter(tmp_path, cell("1"))) == ["03-why.ipynb is missing: make sync"]


def test_chapters_are_found_by_number_name_or_path(tmp_path):
    first = chapter(tmp_path, cell("1"), name="02-attention")
    second = chapter(tmp_path, cell("1"), name="11-shakespeare")
    (tmp_path / "README.md").write_text("no chapter")
    assert sync.find([], tmp_path) == [first, second]
    assert sync.find(["11"], tmp_path) == [second]
    assert sync.find(["chapters/02-attention.ipynb", "11-"], tmp_path) == [first, second]
    with pytest.raises(FileNotFoundError, match="'12'; there are: 02-attention, 11-shakespeare"):
        sync.find(["12"], tmp_path)


def test_a_notebook_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "03-why.ipynb"
    path.write_text("the old one")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write(plan(chapter(tmp_path, cell("1"))), path)
    assert path.read_text() == "the old one"
    assert not list(tmp_path.glob(".*"))


def picture(**metadata):
    info = PngImagePlugin.PngInfo()
    for key, value in metadata.items():
        info.add_text(key, value)
    file = io.BytesIO()
    Image.linear_gradient("L").resize((7, 5)).save(file, "png", pnginfo=info, dpi=(72, 72))
    return file.getvalue()


def test_pictures_lose_their_metadata_and_nothing_else():
    data = picture(Software="Matplotlib version 3", Title="x")
    stripped = strip_png(data)
    assert stripped == picture()
    assert Image.open(io.BytesIO(stripped)).tobytes() == Image.open(io.BytesIO(data)).tobytes()
    stamped = data[:33] + _chunk(b"tIME", b"\x07\xea\x01\x01\x00\x00\x00") + data[33:]
    assert strip_png(stamped) == stripped


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("data", [b"", b"GIF89a", picture()[:-5], picture() + b"xyz"])
def test_only_whole_pngs_are_stripped(data):
    with pytest.raises(ValueError, match="PNG"):
        strip_png(data)


def result(**data):
    data = {key.replace("_", "/"): value for key, value in data.items()}
    return nbformat.v4.new_output("display_data", data=data)


def stream(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def test_outputs_between_streams_keep_them_apart():
    kept = clean([stream("a"), stream("b"), result(text_plain="x"), stream("c")])
    assert [o.get("text") for o in kept] == ["ab", None, "c"]


def test_what_a_progress_bar_overwrites_on_stdout_is_left_out():
    assert clean([stream("  0%\r 50%\r100%\ndone\n")])[0].text == "100%\ndone\n"


def test_pictures_in_outputs_are_stripped():
    output = result(image_png=base64.b64encode(picture(Software="x")).decode())
    assert base64.b64decode(clean([output])[0].data["image/png"]) == picture()


@pytest.mark.parametrize(
    "output",
    [
        result(text_plain="<object at 0x7f00deadbeef>"),
        result(text_html="<b>0x7f00deadbeef</b>"),
        result(text_markdown=f"see {ROOT}/src"),
        stream(f"written to {Path.home()}/x"),
        stream("careful\n", "stderr"),
    ],
)
def test_what_cannot_be_repeated_is_refused(output):
    with pytest.raises(Unrepeatable):
        clean([output])


@pytest.mark.parametrize(
    "text",
    ["a picture of 640x480", "0x1f", "src/decoder/attention.py", "and/or", "~", "a/root/b"],
)
def test_what_only_looks_like_an_address_or_a_path_is_kept(text):
    assert clean([stream(text)])[0].text == text


def test_base64_of_a_picture_is_not_searched_for_paths():
    html = f'<img src="data:image/png;base64,AAA+{Path.home()}/AA==" alt="x">'
    assert clean([result(text_html=html)])[0].data["text/html"] == html
