"""Check a reader's answer and say exactly what is wrong with it; lay guesses beside the truth.

Values are compared by `torch.testing.assert_close`, as in the tests. A check never raises on an
unfinished or a wrong answer, so that a chapter runs from top to bottom; solutions assert it.

    def scale(scores, d_head):
        raise NotImplementedError               # the reader's

    check(scale, reference, [(torch.ones(2, 3), 5)])            # prints "not yet: scale ..."
    assert check(solution, reference, [(torch.ones(2, 3), 5)])  # prints "right: ..."
    reveal({"z": None}, {"z": (2, 7)})                          # guesses beside what was measured
"""

import copy

import torch


class Outcome:
    """What a check found: true where the answer is right. It has been printed already."""

    def __init__(self, right, message):
        self.right = right
        self.message = message

    def __bool__(self):
        return self.right

    def __repr__(self):
        return self.message

    def _ipython_display_(self):
        """Show nothing: as the last expression of a cell it would be said twice."""


def check(function, reference, cases):
    """Compare a reader's function with one that is known to be right, on given inputs.

    Args:
        function: The reader's. It is unfinished while it raises NotImplementedError, or returns
            None or ... where the reference does not.
        reference: The function whose results are expected.
        cases: Tuples of arguments, at least one. Each call gets its own copies.

    Returns:
        An Outcome, true where every result is the expected one. Its message, which is printed,
        is "right", "not yet", or "wrong" with the first input on which the two differ and how.

    Raises:
        ValueError: cases is empty, or a case is not a tuple.
    """
    cases = list(cases)
    if not cases or not all(isinstance(case, tuple) for case in cases):
        raise ValueError(f"expected at least one tuple of arguments, got {cases!r}")
    name = _name(function)
    for number, case in enumerate(cases, 1):
        expected = reference(*copy.deepcopy(case))
        problem = _try(function, case, expected)
        if problem == NOT_YET:
            return _say(False, f"not yet: write {name}, then run this cell again")
        if problem:
            where = f"case {number} of {len(cases)}, {name} for {', '.join(map(_describe, case))}"
            return _say(False, f"wrong: {where}: {problem}")
    return _say(True, f"right: {name} gives what was expected in {_count(len(cases), 'case')}")


def reveal(guesses, answers):
    """Print what the reader predicted beside what it is, with a tick where they agree.

    Args:
        guesses: Names to guesses; None, ... or a missing name is no guess.
        answers: Names to values: numbers, shapes, tensors or strings.

    Raises:
        ValueError: a guess has a name that is not asked for, or nothing is asked for.
    """
    unknown = set(guesses) - set(answers)
    if unknown or not answers:
        raise ValueError(f"expected guesses for {sorted(answers)}, got {sorted(guesses)}")
    rows = [("", "your guess", "it is", "")]
    for name, answer in answers.items():
        guess = guesses.get(name)
        said = "-" if _unfinished(guess) else _describe(guess)
        tick = "" if _unfinished(guess) or difference(guess, answer) else "✓"
        rows.append((name, said, _describe(answer), tick))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)]
        print("  ".join(cells).rstrip())


NOT_YET = "not yet"


def _try(function, case, expected):
    try:
        got = function(*copy.deepcopy(case))
    except NotImplementedError:
        return NOT_YET
    except Exception as error:  # whatever the reader's code does, it is told, not raised
        return f"it raised {type(error).__name__}: {error}"
    if _unfinished(got) and not _unfinished(expected):
        return NOT_YET
    return difference(got, expected)


def difference(got, expected):
    """Say how a value differs from the expected one.

    Args:
        got: Any value.
        expected: A tensor, a number, a string, or a tuple or list of them.

    Returns:
        None where they agree, within the tolerances of `torch.testing.assert_close`; else a
        sentence: the types, the shapes, or the values that differ and where.
    """
    if isinstance(expected, tuple | list):
        return _difference_of_sequences(got, expected)
    if isinstance(expected, torch.Tensor):
        return _difference_of_tensors(got, expected)
    if _is_number(expected) and _is_number(got):
        got, expected = float(got), float(expected)
        return _not_close(got, expected)
    same = type(got) is type(expected) and got == expected
    return None if same else f"expected {expected!r}, got {_describe(got)}"


def _difference_of_tensors(got, expected):
    if not isinstance(got, torch.Tensor):
        return f"expected a tensor, got {_describe(got)}"
    if got.shape != expected.shape:
        return f"expected shape {tuple(expected.shape)}, got {tuple(got.shape)}"
    return _not_close(got, expected)


def _not_close(got, expected):
    try:
        torch.testing.assert_close(got, expected)
    except AssertionError as error:
        return " ".join(str(error).split())
    return None


def _difference_of_sequences(got, expected):
    if not isinstance(got, tuple | list):
        return f"expected {len(expected)} values, got {_describe(got)}"
    if len(got) != len(expected):
        return f"expected {len(expected)} values, got {len(got)}"
    for place, (one, other) in enumerate(zip(got, expected, strict=True)):
        problem = difference(one, other)
        if problem:
            return f"value {place}: {problem}"
    return None


def _name(function):
    name = getattr(function, "__name__", repr(function))
    return "your answer" if name == "<lambda>" else name


def _unfinished(value):
    return value is None or value is Ellipsis


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _describe(value):
    if isinstance(value, torch.Tensor):
        return f"tensor {tuple(value.shape)}"
    return repr(tuple(value)) if isinstance(value, torch.Size) else repr(value)


def _count(number, noun):
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _say(right, message):
    print(message)
    return Outcome(right, message)
