"""The list of sources: whatever a chapter or a docstring names is in it."""

import re

import pytest

from bookkit.outputs import ROOT

ENTRY = re.compile(r"^- \*\*(.+?) (\d{4})\.\*\* \[\*(.+?)\*\]\((https://\S+?)\)", re.MULTILINE)
TITLE = re.compile(r"(?<!\*)\*([^*\n]+)\*(?!\*)")
NAMED = re.compile(r"([A-Z][\w'-]+)(?: et al\.|(?:,? (?:and|&)? ?[A-Z][\w'-]+)*),? (\d{4})\b")
LISTED = ENTRY.findall((ROOT / "appendices" / "sources.md").read_text("utf-8"))
TITLES = {title.casefold() for _, _, title, _ in LISTED}
CHAPTERS = sorted((ROOT / "chapters").glob("*.md"))
MODULES = sorted((ROOT / "src" / "decoder").rglob("*.py"))


def surname(who):
    """That of the first author, by which the list is in order."""
    return who.split(",")[0].split()[0].casefold()


WORKS = {(surname(who), year) for who, year, _, _ in LISTED}


def sources(text):
    _, _, rest = text.partition("\n## Sources\n")
    return rest


def test_the_list_is_in_order_and_names_nothing_twice():
    assert len(LISTED) > 50
    assert len({title for _, _, title, _ in LISTED}) == len(LISTED)
    keys = [surname(who) for who, *_ in LISTED]
    assert keys == sorted(keys)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapters_sources_are_listed(chapter):
    named = [title.casefold() for title in TITLE.findall(sources(chapter.read_text("utf-8")))]
    missing = [title for title in named if not any(entry.startswith(title) for entry in TITLES)]
    assert missing == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_a_docstrings_sources_are_listed(module):
    text = " ".join(line.strip() for line in module.read_text("utf-8").splitlines())
    found = [part.split('"""')[0] for part in text.split("Source:")[1:]]
    named = {(who.casefold(), year) for part in found for who, year in NAMED.findall(part)}
    assert named - WORKS == set()
