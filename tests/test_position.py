"""A position goes out and comes back the same; whatever else comes back is an error that says so."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterload import position
from afterload.errors import PositionError
from afterload.position import MAX_LENGTH, Position

EPOCH = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_~-"
KEY = "mV3xP0aQ_-T9rYb2kLh7Zw"  # 128 bits, as a private loop's

positions = st.builds(
    Position, st.text(EPOCH, min_size=1, max_size=64), st.integers(0, 10**18 - 1), st.booleans()
)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(position).failed == 0


@given(positions)
def test_a_position_comes_back_as_it_went_out(position: Position) -> None:
    text = str(position)
    assert Position.parse(text) == position
    assert len(text) <= MAX_LENGTH
    assert set(text) <= set(EPOCH + ".")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e.0", Position("e", 0)),
        ("e.0~", Position("e", 0, rendered=True)),
        ("e~.7", Position("e~", 7)),
        ("e~.7~", Position("e~", 7, rendered=True)),
        ("0.1", Position("0", 1)),
        (f"{KEY}.12", Position(KEY, 12)),
        ("", None),
        ("0", None),
    ],
)
def test_what_is_a_position(text: str, expected: Position | None) -> None:
    assert Position.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "e", ".", "e.", ".1", "~", "0~", "e.~", "e.1~~", "e~1", "e.1.2", "e..1",
        "e.01", "e.-1", "e.+1", "e.1_0", "e.1e3", "e.0x1", "e.\u0661",  # not the one spelling of a number
        "e.1\n", "\ne.1", " e.1", "e.1 ", "e .1", "e.1\0", "\0",
        "é.1", "e/.1", "e%2E1", "../etc.1", "e,f.1", "e:1",
        "e.1000000000000000000",  # more than any offset
        "x" * 65 + ".1", "x" * MAX_LENGTH, "e.1" + "~" * MAX_LENGTH,
        "\ud800.1", "\ufeffe.1", "null", "undefined", "NaN",
    ],
)  # fmt: skip
def test_what_is_none(text: str) -> None:
    with pytest.raises(PositionError) as caught:
        Position.parse(text)
    assert caught.value.text == text


@given(st.text(max_size=200) | st.text(EPOCH + ".", max_size=140))
def test_any_text_is_a_position_in_its_one_spelling_or_an_error(text: str) -> None:
    try:
        found = Position.parse(text)
    except PositionError:
        return
    assert text in ("", "0") if found is None else str(found) == text


@pytest.mark.parametrize(
    ("epoch", "offset"),
    [("", 1), ("a.b", 1), ("a b", 1), ("é", 1), ("a\n", 1), ("x" * 65, 1), ("e", -1), ("e", 10**18)],
)
def test_a_position_that_could_not_come_back_is_not_made(epoch: str, offset: int) -> None:
    with pytest.raises(PositionError):
        Position(epoch, offset)


def test_a_position_is_a_value() -> None:
    assert len({Position("e", 1), Position("e", 1), Position("e", 1, rendered=True)}) == 2
