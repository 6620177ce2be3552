"""What was measured: compared with what is recorded, merged into it, written whole."""

import json
import re
from pathlib import Path

from decoder.files import write_whole

FOLDER = Path(__file__).parent
RECORDED, REFUSED, TABLE = "results.json", "refused.json", "results.md"
PARTS = ("training", "race", "generation", "memory")
TITLES = {
    "training": "A step of training",
    "race": "Time to loss",
    "generation": "Generation",
    "memory": "Attention in blocks",
}
ALLOWED = 0.1  # share by which a ratio may get worse before it is called a regression
BEGIN, END = "<!-- benchmarks: written by `make bench` -->", "<!-- /benchmarks -->"


def load(folder=FOLDER):
    """What is recorded: part -> {rows, details, machine, date}; empty before the first run.

    Raises:
        ValueError: the file is no record of this kind.
    """
    path = Path(folder) / RECORDED
    return read(path) if path.exists() else {}


def read(path):
    """One file of results; see `load`."""
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        if not all({"rows", "details", "machine", "date"} <= recorded[part].keys() for part in PARTS
                   if part in recorded) or not recorded.keys() <= set(PARTS):  # fmt: skip
            raise ValueError("other parts than those of a benchmark")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"expected the results of a benchmark in {path}: {error}") from None
    return recorded


def regressions(recorded, new):
    """What got worse by more than a tenth of a ratio, in words.

    A part that was recorded on another processor, or with other threads, is not compared.

    Returns:
        One line for each ratio.
    """
    lines = []
    for part, results in new.items():
        before = recorded.get(part)
        if before is None or not comparable(before["machine"], results["machine"]):
            continue
        old = {(row["work"], row["name"]): row["median"] for row in before["rows"]}
        for row in results["rows"]:
            was = old.get((row["work"], row["name"]))
            if was is not None and _worse(was, row):
                now = f"{row['median']:.3g}, recorded {was:.3g}"
                lines.append(f"{part}: {row['work']}, {row['name']}: {now}")
    return lines


def comparable(one, other):
    """Whether two machines are one and the same for a ratio."""
    return all(one[key] == other[key] for key in ("processor", "threads"))


def _worse(was, row):
    if row["better"] == "higher":
        return row["median"] < was * (1 - ALLOWED)
    return row["median"] > was * (1 + ALLOWED)


def missed(new):
    """The rows whose median is not what was asked for, in words."""
    lines = []
    for part, results in new.items():
        for row in results["rows"]:
            if row["asked"] is not None and not reached(row):
                asked = f"{row['median']:.3g}, asked {_sign(row)} {row['asked']:.3g}"
                lines.append(f"{part}: {row['work']}, {row['name']}: {asked}")
    return lines


def reached(row):
    """Whether the median is at least, or at most, what was asked for."""
    higher = row["better"] == "higher"
    return row["median"] >= row["asked"] if higher else row["median"] <= row["asked"]


def _sign(row):
    return "≥" if row["better"] == "higher" else "≤"


def markdown(results):
    """All ratios as Markdown tables, one for each part, with what they hang on."""
    parts = [f"## {TITLES[part]}\n\n{_table(results[part])}" for part in PARTS if part in results]
    return "# Ratios measured by `make bench`\n\n" + "\n\n".join(parts) + "\n"


def headline(results):
    """The ratios that were asked for, as one Markdown table, and the pictures."""
    rows = [(TITLES[part], row) for part in PARTS if part in results
            for row in results[part]["rows"] if row["asked"] is not None]  # fmt: skip
    lines = ["| | | ratio, median | lowest to highest | asked |", "|---|---|---:|---:|---:|"]
    for title, row in rows:
        lines.append(f"| {title}: {row['work']} | {row['name']} | {_numbers(row)} |")
    drawn = [part for part in PARTS if part in results]
    pictures = [f"![{_alt(part, results[part])}](benchmarks/{part}.svg)" for part in drawn]
    return "\n\n".join(["\n".join(lines), _hangs_on(results), *pictures])


def _hangs_on(results):
    said = {_machine(results[part]) for part in PARTS if part in results}
    return " ".join(sorted(said))


def _machine(part):
    m = part["machine"]
    return (
        f"{m['processor']}, {m['threads']} threads, torch {m['torch']}, "
        f"Python {m['python']}, {part['date']}."
    )


def _table(part):
    lines = ["| work | ratio of | median | lowest to highest | asked |", "|---|---|---:|---:|---:|"]
    lines += [f"| {row['work']} | {row['name']} | {_numbers(row)} |" for row in part["rows"]]
    notes = [f"- {line}" for line in part["details"].get("notes", [])]
    return "\n".join([*lines, "", _machine(part) + _rounds(part), *([""] + notes if notes else [])])


def _rounds(part):
    counts = sorted({row["rounds"] for row in part["rows"]})
    return f" Rounds: {', '.join(map(str, counts))}."


def _numbers(row):
    asked = "" if row["asked"] is None else f"{_sign(row)} {row['asked']:.3g}"
    mark = "" if row["asked"] is None or reached(row) else " (missed)"
    return f"{row['median']:.3g}{mark} | {row['low']:.3g} to {row['high']:.3g} | {asked}"


def _alt(part, results):
    best = "; ".join(
        f"{row['work']}: {row['name']} {row['median']:.3g}"
        for row in results["rows"]
        if row["asked"] is not None
    )
    return f"{TITLES[part]}. {best}".replace("[", "(").replace("]", ")")


def into_readme(text, results):
    """README's text with the headline between its two marks.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected the lines {BEGIN} and {END} in README.md, once each")
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    new = f"{BEGIN}\n{headline(results)}\n{END}"
    return re.sub(pattern, lambda _: new, text, flags=re.DOTALL)


def write(results, folder=FOLDER, readme=None):
    """Write the record, the table, the pictures and README's section, each whole or not at all.

    All of it is made before the first byte is written.
    """
    from benchmarks import plots

    folder = Path(folder)
    files = {folder / f"{part}.svg": plots.DRAW[part](results[part]) for part in results}
    files[folder / TABLE] = markdown(results).encode()
    if readme is not None:
        files[readme] = into_readme(readme.read_text(encoding="utf-8"), results).encode()
    files[folder / RECORDED] = as_json(results)  # last: what it says is then there
    for path, data in files.items():
        write_whole(path, data)


def as_json(results):
    """The bytes of a file of results."""
    ordered = {part: results[part] for part in PARTS if part in results}
    return (json.dumps(ordered, indent=1, ensure_ascii=False) + "\n").encode()
