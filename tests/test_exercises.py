import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bookkit.exercises import check, difference, reveal

A, B = torch.arange(6.0).reshape(2, 3), torch.arange(15.0).reshape(3, 5)


def product(a, b):
    return a @ b


def unfinished(a, b):
    raise NotImplementedError


def empty(a, b):
    pass


def dots(a, b):
    return ...


def transposed(a, b):
    return (a @ b).T


def off_in_one_place(a, b):
    z = a @ b
    z[1, 3] += 0.5
    return z


def double(a, b):
    return (a @ b).double()


def crashes(a, b):
    return a + b


def number(a, b):
    return 3


@pytest.mark.parametrize("stub", [unfinished, empty, dots])
def test_an_unfinished_answer_is_not_yet_wrong_and_raises_nothing(stub, capsys):
    outcome = check(stub, product, [(A, B)])
    assert not outcome
    assert capsys.readouterr().out == f"not yet: write {stub.__name__}, then run this cell again\n"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (transposed, ["expected shape (2, 5), got (5, 2)", "tensor (2, 3), tensor (3, 5)"]),
        (off_in_one_place, ["1 / 10", "0.5 at index (1, 3)"]),
        (double, ["torch.float32", "torch.float64"]),
        (crashes, ["RuntimeError", "size of tensor"]),
        (number, ["expected a tensor, got 3"]),
    ],
)
def test_a_wrong_answer_is_told_how_it_differs(wrong, says, capsys):
    assert not check(wrong, product, [(A, B)])
    printed = capsys.readouterr().out
    assert printed.startswith("wrong: case 1 of 1")
    for words in says:
        assert words in printed


def test_the_first_input_that_differs_is_named(capsys):
    assert not check(abs, lambda x: x, [(2,), (0.5,), (-7,), (-11,)])
    assert "case 3 of 4, abs for -7: " in capsys.readouterr().out


def test_a_right_answer_is_right(capsys):
    assert check(torch.matmul, product, [(A, B), (B.T, A.T)])
    assert capsys.readouterr().out == "right: matmul gives what was expected in 2 cases\n"


def test_an_answer_that_changes_its_input_cannot_change_what_is_expected():
    kept = A.clone()
    assert not check(lambda x: x.zero_(), lambda x: x + 0, [(A,)])
    torch.testing.assert_close(A, kept)


@pytest.mark.parametrize("cases", [[], [A], "ab", [(1,), 2]])
def test_cases_must_be_tuples_of_arguments(cases):
    with pytest.raises(ValueError, match="at least one tuple of arguments"):
        check(product, product, cases)


def test_an_error_in_the_reference_is_the_authors_and_is_raised():
    with pytest.raises(RuntimeError):
        check(product, crashes, [(A, B)])


def test_an_answer_without_a_name_is_the_readers(capsys):
    check(lambda a, b: None, product, [(A, B)])
    check(lambda a, b: a @ b, product, [(A, B)])
    assert capsys.readouterr().out.splitlines() == [
        "not yet: write your answer, then run this cell again",
        "right: your answer gives what was expected in 1 case",
    ]


AGREE = [
    ((2, 5), torch.Size((2, 5))),
    (3, 3.0),
    (True, True),
    ("O(n)", "O(n)"),
    ([A, 1], (A, 1)),
    (torch.ones(2, 3), torch.ones(2, 3)),
]
DIFFER = [
    ((5, 2), (2, 5)),
    ((2, 5, 1), (2, 5)),
    (2, (2, 5)),
    (True, 1),
    (1, True),
    ("a", 1),
    (math.nan, 1.0),
    (A, 1.0),
    (1.0, A),
]


@pytest.mark.parametrize(("guess", "answer"), AGREE)
def test_a_right_guess_has_a_tick(guess, answer, capsys):
    reveal({"it": guess}, {"it": answer})
    assert capsys.readouterr().out.count("✓") == 1


@pytest.mark.parametrize(("guess", "answer"), DIFFER)
def test_a_wrong_guess_has_none(guess, answer, capsys):
    reveal({"it": guess}, {"it": answer})
    assert "✓" not in capsys.readouterr().out


def test_guesses_stand_beside_what_it_is(capsys):
    answers = {"scores": torch.Size((3, 5)), "loss": 4.2, "z": A}
    reveal({"scores": (3, 5), "loss": ...}, answers)
    assert capsys.readouterr().out.splitlines() == [
        "        your guess  it is",
        "scores  (3, 5)      (3, 5)         ✓",
        "loss    -           4.2",
        "z       -           tensor (2, 3)",
    ]


@pytest.mark.parametrize(("guesses", "answers"), [({"zz": 1}, {"z": 1}), ({}, {})])
def test_guesses_are_for_what_is_asked(guesses, answers):
    with pytest.raises(ValueError, match="expected guesses for"):
        reveal(guesses, answers)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=7), st.data())
def test_any_single_change_is_seen(values, data):
    expected = torch.tensor(values)
    index = data.draw(st.integers(0, len(values) - 1))
    changed = expected.clone()
    changed[index] += 1 + abs(changed[index]) / 100
    assert difference(expected.clone(), expected) is None
    assert f"({index},)" in difference(changed, expected)


def test_an_outcome_shows_nothing_in_a_notebook_beyond_what_it_printed():
    from IPython.core.formatters import DisplayFormatter

    outcome = check(product, product, [(A, B)])
    assert DisplayFormatter().format(outcome) == ({}, {})
