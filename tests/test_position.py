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

NAMES = ["orders", "user-7", "é"]
plain = st.builds(
    Position, st.text(EPOCH, min_size=1, max_size=64), st.integers(0, 10**18 - 1), st.booleans()
)
positions = plain | st.builds(
    Position.with_painted, plain, st.just(NAMES), st.sets(st.sampled_from(NAMES), min_size=1)
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
        ("e.7~3abc", Position("e", 7, rendered=True, painted="3abc")),
        ("e~3abc.7", Position("e~3abc", 7)),
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
        "e.1~abc", "e.1~0abc", "e.1~00abc", "e.1~3ABC", "e.1~3abg", "e.1~3abc~", "e.13abc", "e.1~3 abc",
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


@pytest.mark.parametrize(
    ("painted", "rendered"), [("3abc", False), ("abc", True), ("0abc", True), ("x" * 9, True)]
)
def test_nor_one_that_was_painted_with_nothing_that_could_be_said(painted: str, rendered: bool) -> None:
    with pytest.raises(PositionError):
        Position("e", 1, rendered, painted)


def test_a_position_is_a_value() -> None:
    assert len({Position("e", 1), Position("e", 1), Position("e", 1, rendered=True)}) == 2


@given(plain, st.sets(st.sampled_from(NAMES)))
def test_a_position_says_which_channels_its_page_was_painted_with(
    position: Position, painted: set[str]
) -> None:
    said = position.with_painted(NAMES, painted)
    assert said.painted_of(NAMES) == painted
    assert (said.epoch, said.offset) == (position.epoch, position.offset)


def test_a_page_whose_view_names_other_channels_than_it_did_was_painted_with_none_of_them() -> None:
    said = Position("e", 7).with_painted(["orders", "clock"], ["orders"])
    assert said.painted_of(["clock", "orders"]) == frozenset()
    assert said.painted_of(["orders"]) == frozenset()
    assert Position("e", 7, rendered=True).painted_of(["orders"]) == frozenset()


def test_what_does_not_fit_into_a_position_is_not_said() -> None:
    names = [f"channel-{i}" for i in range(1000)]
    position = Position("e", 7, rendered=True)
    assert position.with_painted(names, names[:1]).painted_of(names) == {names[0]}
    assert position.with_painted(names, names) == position
    assert position.with_painted(names, []) == position
