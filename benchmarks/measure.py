"""Times of several contestants, taken in turns, so that a busy minute hits all of them alike."""

import platform
import statistics
import time
from pathlib import Path

import torch


def alternate(contestants, rounds, turns=1):
    """Let each contestant work in each round; each round begins with another one.

    Args:
        contestants: name -> a function without arguments that does the work once.
        rounds: Rounds that count. One before them does not: it warms up.
        turns: Times that the work is done in a round.

    Returns:
        name -> a list of seconds for the work once, the mean of a round's turns each.
    """
    names = list(contestants)
    for name in names:
        contestants[name]()
    seconds = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            for _ in range(turns):
                contestants[name]()
            seconds[name].append((time.perf_counter() - start) / turns)
    return seconds


def ratios(numerators, denominators):
    """One ratio for each round: what is compared was measured side by side."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def row(work, name, values, asked=None, better="higher"):
    """One line of the table.

    Args:
        work: What was done.
        name: Who is compared with whom.
        values: A ratio for each round.
        asked: What issue 7 asks of the median, or None.
        better: "higher" or "lower".

    Returns:
        A dict: those, with the median, the lowest and the highest of the values.

    Raises:
        ValueError: there are no values, or better is neither.
    """
    if not values or better not in ("higher", "lower"):
        raise ValueError(f"expected values and higher or lower, got {values!r} and {better!r}")
    spread = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    kept = {key: float(f"{value:.4g}") for key, value in spread.items()}
    return {
        "work": work,
        "name": name,
        **kept,
        "rounds": len(values),
        "asked": asked,
        "better": better,
    }


def machine():
    """What the figures hang on: processor, threads and versions."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.partition("+")[0],
        "python": platform.python_version(),
    }


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
