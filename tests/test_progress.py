"""How far it is, in numbers, in words and as a bar; with a clock of the test's."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterload import LoopError, attr, value
from afterload.progress import Pace, Progress


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress(0, 20, 0.0, 0.0), "0 of 20"),
        (Progress(0, None, 0.0, 0.0), "0"),
        (Progress(1200, 5000, 3.9, 310.0), "1,200 of 5,000 · 310/s · 13 s left"),
        (Progress(1200, None, 3.9, 310.0), "1,200 · 310/s"),
        (Progress(3, 10, 9.0, 1 / 3), "3 of 10 · 20/min · 21 s left"),
        (Progress(3, 10, 9.0, 1 / 50), "3 of 10 · 1.2/min · 5 min 50 s left"),
        (Progress(3, 10, 9.0, 1 / 3600), "3 of 10 · 1/h · 7 h left"),
        (Progress(3, 10_000, 9.0, 2.0), "3 of 10,000 · 2/s · 1 h 23 min left"),
        (Progress(3, 100, 9.0, 2.55), "3 of 100 · 2.5/s · 39 s left"),
        (Progress(60, 180, 60.0, 1.0), "60 of 180 · 1/s · 2 min left"),
        (Progress(20, 20, 0.2, 100.0, over=True), "20 of 20 · 1 s"),
        (Progress(7, 20, 61.0, 0.1, over=True), "7 of 20 · 1 min 1 s"),
        (Progress(7, None, 0.0, 0.0, over=True), "7 · 0 s"),
        (Progress(5, 5, 1.0, 5.0), "5 of 5 · 5/s · 0 s left"),
    ],
)
def test_it_is_said_in_words(progress, words):
    assert str(progress) == words


@pytest.mark.parametrize(
    ("progress", "patches"),
    [
        (Progress(3, 10, 0, 0), [attr("#bar", "max", 10), value("#bar", 3)]),
        (Progress(10, 10, 0, 0, over=True), [attr("#bar", "max", 10), value("#bar", 10)]),
        (Progress(0, 0, 0, 0), [attr("#bar", "max", 1), value("#bar", 1)]),  # a max of 0 would be 1
        (Progress(3, None, 0, 0), [attr("#bar", "max", 1), attr("#bar", "value", None)]),
        (Progress(3, None, 0, 0, over=True), [attr("#bar", "max", 1), value("#bar", 1)]),
    ],
)
def test_it_is_shown_by_a_bar(progress, patches):
    assert progress.patches("#bar") == patches


def test_the_rate_is_that_of_lately():
    pace = Pace(1000, now=0.0)
    for second in range(1, 21):
        slow = pace.at(second, float(second))
    assert slow.rate == pytest.approx(1.0)
    for second in range(21, 61):
        fast = pace.at(20 + (second - 20) * 10, float(second))
    assert 9.5 < fast.rate < 10  # what was before counts for less and less
    assert fast.left == pytest.approx((1000 - 420) / fast.rate)


def test_the_first_moment_divides_by_nothing():
    pace = Pace(10, now=5.0)
    assert pace.at(0, 5.0) == Progress(0, 10, 0.0, 0.0)
    assert pace.at(3, 5.0) == Progress(3, 10, 0.0, 0.0)  # a clock that has not moved
    assert pace.at(4, 6.0).rate == pytest.approx(4.0, rel=0.1)


def test_a_total_that_was_too_small_is_not_known_any_more():
    pace = Pace(2, now=0.0)
    assert pace.at(2, 1.0).total == 2
    assert str(pace.at(3, 2.0)) == "3 · 1.5/s"


@pytest.mark.parametrize("total", [-1, 1.5, True, "10"])
def test_a_total_that_is_none_is_an_error_that_says_so(total):
    with pytest.raises(LoopError, match=r"total is a whole number from 0, or None, not"):
        Pace(total, now=0.0)


@given(
    st.none() | st.integers(0, 10**9),
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 10**6)), max_size=30),
    st.booleans(),
)
def test_whatever_comes_it_has_words_and_a_bar(total, steps, over):
    pace = Pace(total, now=100.0)
    done = itertools.accumulate(count for count, _ in steps)
    now = itertools.accumulate((seconds for _, seconds in steps), initial=100.0)
    next(now)
    for count, at in zip(done, now, strict=True):
        progress = pace.at(count, at, over=over)
        assert progress.rate >= 0
        assert progress.left is None or progress.left >= 0
        assert str(progress).startswith(f"{count:,}")
        assert progress.patches("#bar")
