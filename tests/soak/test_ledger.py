"""The soak tests' own count sees what it is there to see: a test that cannot fail would be worth nothing."""

from __future__ import annotations

import json

import pytest

from afterload.wire.sse import Event
from tests.soak.ledger import Ledger, Shown, runs_of


class Told:
    """What one viewer of the channel "bar" makes of the blocks that it is sent."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.shown = Shown()
        self.marks: list[str] = []

    def send(
        self, seq: int, *marks: str, since: int | None = None, event: str = "patch", epoch: str = "E"
    ) -> bool:
        rows = [["append", "#bar", f'<li id="order-1">{mark}</li>'] for mark in marks]
        line = ["bar", seq, rows] + ([] if since is None else [since])
        lines = self.ledger.read(epoch, seq, Event(event, json.dumps(line)))
        self.marks += marks
        return all(self.shown.take(self.ledger, epoch, one, snapshot=event == "snapshot") for one in lines)

    def missing(self, *more: str) -> int:
        return self.shown.missing(self.ledger, "E", "bar", frozenset([*self.marks, *more]))

    @property
    def count(self) -> tuple[int, int, list[str]]:
        return self.shown.gaps, self.shown.doubled, self.ledger.wrong


@pytest.fixture
def told() -> Told:
    return Told()


def test_entries_one_by_one_or_merged_are_all_there_once(told):
    for seq, mark in enumerate(["a", "b"], 1):
        assert told.send(seq, mark)
    assert told.send(4, "c", "d", since=2)
    assert told.count == (0, 0, [])
    assert told.missing() == 0
    assert told.missing("e") == 1


def test_a_viewer_that_begins_with_a_snapshot_has_what_is_in_it(told):
    assert told.send(60, "x", "y", event="snapshot")
    assert told.send(61, "z")
    assert told.count == (0, 0, [])
    assert told.missing() == 0


def test_a_snapshot_that_lacks_something_is_seen(told):
    told.send(1, "a")
    told.send(2, "b")
    told.send(2, "b", event="snapshot")
    assert told.missing() == 1


def test_what_is_missed_and_sent_later_is_no_loss(told):
    told.send(1, "a")
    assert told.send(3, "b", "c", since=0) is True  # what was missed, in its shortest form
    assert told.count == (0, 0, [])
    assert told.missing() == 0


def test_a_gap_is_seen_and_not_applied(told):
    told.send(1, "a")
    assert told.send(3, "c") is False
    assert told.count[0] == 1
    assert told.missing("b") == 2


def test_a_beginning_in_the_middle_is_seen(told):
    told.send(3, "c")
    assert "nothing before it" in told.count[2][0]


def test_an_entry_that_is_sent_again_is_seen(told):
    told.send(1, "a")
    told.send(2, "b")
    told.send(2, "b")
    assert told.count[1] == 1


def test_an_entry_that_is_in_what_was_missed_and_was_not_missed_is_seen(told):
    told.send(1, "a")
    told.send(2, "b")
    told.send(3, "b", "c", since=0)
    assert told.count[1] == 1


@pytest.mark.parametrize("again", [{"seq": 2}, {"seq": 1, "epoch": "F"}])
def test_an_order_that_was_published_twice_is_seen(told, again):
    told.send(1, "a")
    told.send(again.pop("seq"), "a", **again)
    assert "published twice" in told.count[2][0]


def test_an_entry_that_is_another_one_for_another_viewer_is_seen(told):
    told.send(1, "a")
    told.shown = Shown()
    told.send(1, "b")
    assert "for another" in told.count[2][0]


def test_a_merged_line_that_lacks_an_entry_is_seen(told):
    told.send(3, "a", "c", since=1)
    assert "has 2 entries" not in "".join(told.count[2])
    told.send(6, "d", "f", since=3)
    assert "has 2 entries" in "".join(told.count[2])


def ticks(*said: str) -> list[tuple[float, str]]:
    return [(float(at), "tick {} of process {}".format(*one.split("/"))) for at, one in enumerate(said)]


def test_runs_that_follow_each_other_are_told_apart():
    runs = runs_of(ticks("1/7", "2/7", "1/8", "1/7", "3/7", "2/9"))  # a tick may be merged with the next
    assert [(run.pid, run.began, run.last) for run in runs] == [(7, 0, 1), (8, 2, 2), (7, 3, 4), (9, 5, 5)]


def test_two_runs_at_once_are_seen():
    with pytest.raises(AssertionError, match="two runs at once"):
        runs_of(ticks("1/7", "2/7", "1/8", "3/7"))
