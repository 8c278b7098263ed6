"""The text of one response, as a log."""

from __future__ import annotations

import random

from afterload.log import Answer, End, Piece
from afterload.pipe import BURST, WINDOW, Pipe

NAMES = ["~"]


def data(answer: Answer) -> bytes:
    return b"".join([item.data for step in answer.steps for item in step.items if isinstance(item, Piece)])


def pipe(*pieces: bytes) -> Pipe:
    made = Pipe("e")
    made.begin("~")
    for piece in pieces:
        made.write(piece)
    return made


def test_news_are_the_bytes_behind_an_offset() -> None:
    made = pipe(b"one", b"two", b"three")
    assert made.head == made.size == 11
    for at in range(12):
        answer = made.news(NAMES, at)
        assert data(answer) == b"onetwothree"[at:]
        assert answer.offset == 11
        assert not answer.finished


def test_what_is_forgotten_is_not_kept() -> None:
    made = pipe(b"one", b"two", b"three")
    made.forget(4)
    assert made.size == 7
    assert data(made.news(NAMES, 4)) == b"wothree"
    made.forget(4)
    made.forget(2)
    assert data(made.connect(NAMES, 4)) == b"wothree"
    made.forget(11)
    assert made.size == 0
    assert data(made.news(NAMES, 11)) == b""


def test_the_end_comes_behind_all_of_it() -> None:
    made = pipe(b"one")
    made.finish("~", "done")
    answer = made.news(NAMES, 1)
    assert answer.finished
    assert answer.offset == made.head == 4
    assert data(answer) == b"ne"
    assert answer.steps[-1].items[-1] == End("~", "done", "")
    made.forget(3)
    assert data(made.news(NAMES, 3)) == b""
    assert made.news(NAMES, 3).finished


def test_a_burst_is_more_than_a_few_pieces_in_a_moment() -> None:
    made = pipe()
    assert [made.is_burst(1.0) for _ in range(BURST + 2)] == [False] * BURST + [True, True]
    assert made.is_burst(1.0 + WINDOW / 2)
    assert not made.is_burst(1.0 + WINDOW)


def test_however_it_is_taken_it_is_the_text() -> None:
    chance = random.Random(7)
    for _ in range(50):
        made, written, taken = pipe(), b"", b""
        for _ in range(60):
            piece = bytes(chance.choices(b"abc", k=chance.randrange(6)))
            made.write(piece)
            written += piece
            if chance.random() < 0.5:
                taken += data(made.news(NAMES, len(taken)))[: chance.randrange(8)]
                made.forget(len(taken))
        assert taken + data(made.news(NAMES, len(taken))) == written
