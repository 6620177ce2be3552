"""`python -m benchmarks`: run, compare with what is recorded, write."""

import argparse
import datetime
import importlib
import sys
from pathlib import Path

import torch

from benchmarks import results
from benchmarks.measure import machine
from benchmarks.peers import Incomparable
from decoder.files import write_whole
from decoder.text import CorpusNotFound

REGRESSED, UNABLE = 1, 2
README = results.FOLDER.parent / "README.md"


def main(arguments=None):
    """Returns the exit status: 0, 1 for a regression, 2 where something needed is missing."""
    asked = _parser().parse_args(arguments)
    folder = results.FOLDER if asked.out is None else asked.out
    readme = README if asked.out is None else None
    if not folder.is_dir():  # said before the run, not after it
        print(f"benchmarks: there is no folder {folder}", file=sys.stderr)
        return UNABLE
    if asked.accept:
        return accept(folder, readme)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    try:
        recorded = {} if asked.quick else results.load(folder)
        new = {part: measured(part, asked) for part in asked.only or results.PARTS}
    except (Incomparable, CorpusNotFound, OSError, ValueError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return UNABLE
    print(results.markdown(new))
    for line in results.missed(new):
        print(f"less than asked: {line}")
    if asked.quick and asked.out is None:
        print("Tiny sizes, nothing written.")
        return 0
    return record(recorded, new, folder, readme)


def measured(part, asked):
    """Run one part; returns its rows and details, with what they hang on."""
    print(f"{part} ...", file=sys.stderr, flush=True)
    rows, details = importlib.import_module(f"benchmarks.{part}").run(asked.rounds, asked.quick)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"machine": machine(), "date": date, "rows": rows, "details": details}


def record(recorded, new, folder, readme):
    """Write what is new over what is recorded, unless a ratio got worse by more than a tenth."""
    worse, merged = results.regressions(recorded, new), recorded | new
    if worse:
        write_whole(folder / results.REFUSED, results.as_json(merged))
        print("\n".join(f"regression: {line}" for line in worse), file=sys.stderr)
        again = "python -m benchmarks --accept"
        print(f"Nothing that is recorded was changed; `{again}` records it.", file=sys.stderr)
        return REGRESSED
    results.write(merged, folder, readme)
    (folder / results.REFUSED).unlink(missing_ok=True)
    return 0


def accept(folder, readme):
    """Record what an earlier run was refused for."""
    path = folder / results.REFUSED
    if not path.exists():
        print(f"benchmarks: no {path}: no run was refused", file=sys.stderr)
        return UNABLE
    results.write(results.read(path), folder, readme)
    path.unlink()
    return 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=results.PARTS, help="parts; all if not given")
    parser.add_argument("--rounds", type=_positive, default=5, help="rounds, or seeds (default 5)")
    parser.add_argument("--threads", type=_positive, help="torch's threads; all cores if not given")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the benchmark")
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/ if not given")
    parser.add_argument("--accept", action="store_true", help="record what was refused")
    return parser


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
