"""Each wire is cut at every byte of recorded sessions with all kinds of blocks: the page is always the same at last."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator

import pytest

from afterload.wire import document
from tests.faults.page import Block, Page
from tests.faults.sessions import SESSIONS, Segment, Session, happen
from tests.faults.wires import WIRES, Elements, Reader

EVERYTHING = {"hello", "message", "patch", "snapshot", "reset", "refresh", "end", "bye"}
STATUSES = {"done", "failed", "cancelled", "lost"}


def final(page: Page) -> tuple[object, ...]:
    texts = page.text if len(page.channels) == 1 else ""
    return tuple(map(page.shown, page.channels)), page.ended, texts


def cut_everywhere(segment: Segment, wire: str) -> Iterator[Page]:
    """The page as it is when the answer was cut at each byte, from before the first to behind the last."""
    page = segment.page.clone()
    page.connect(segment.page.life)
    reader = Reader(wire)
    verdict = "on"
    for at in range(len(segment.data) + 1):
        yield page.clone()
        if at < len(segment.data) and verdict == "on":
            verdict = page.take_all(reader.feed(segment.data[at : at + 1]))
    # whole: what counts when it has ended is one more
    if verdict == "on" and page.take_all(reader.end()) != "refresh":
        yield page


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.name)
def test_a_page_that_is_cut_off_at_any_byte_is_the_same_in_the_end(session: Session, wire: str) -> None:
    with session.bench() as bench:
        cuts = 0
        expected = None
        for segment in list(happen(session, bench, wire)):
            for page in cut_everywhere(segment, wire):
                page = bench.bring(page, wire)
                assert page.gaps == 0
                expected = expected or final(page)
                assert final(page) == expected
                cuts += 1
        assert cuts > 100


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.name)
def test_a_page_that_comes_back_at_once_is_the_same_in_the_end(session: Session, wire: str) -> None:
    """While the rest still happens; after each of its steps, with each part of what it was sent in blocks."""
    for count in range(len(session.steps) + 1):
        with session.bench() as bench:
            begun = dataclasses.replace(session, steps=session.steps[:count])
            *_, last = happen(begun, bench, wire)
            pages = [
                (last.page.clone(), last.page.life, last.blocks[:n]) for n in range(len(last.blocks) + 1)
            ]
            back = []
            for page, life, blocks in pages:
                page.connect(life)
                page.take_all(blocks)
                back.append(bench.bring(page, wire))
            for step in session.steps[count:]:
                step(bench)
                bench.wait(0.1)
                back = [bench.bring(page, wire) for page in back]
            assert {page.gaps for page in back} == {0}
            assert all(final(page) == final(back[0]) for page in back)


def whole_document(session: Session) -> tuple[Page, bytes]:
    """A document to its end, and the page as it was before the first block."""
    with session.bench() as bench:
        page = session.before(bench)
        ours, theirs = socket.socketpair()
        theirs.settimeout(10)
        names = tuple(page.channels)
        follow = bench.follow(
            page,
            wire=document,
            opening=f"<!doctype html><p>é</p><script>{document._script()}</script>".encode(),
            ending=document.closed("</body></html>").encode(),
        )
        bench.hub.adopt(ours, dataclasses.replace(follow, names=names))
        data = b""
        for step in session.steps:
            step(bench)
            bench.wait(0.1)
        while more := theirs.recv(1 << 20):
            data += more
        theirs.close()
        bench.turn()
        page.connect(bench.life)
        return page, data


def test_a_document_that_is_cut_at_any_byte_is_interrupted_and_complete_only_when_whole() -> None:
    [session] = [session for session in SESSIONS if session.name == "own"]
    page, data = whole_document(session)
    mark = data.index(document.COMPLETE.encode()) + len(document.COMPLETE.partition("</")[0])
    reader = Elements()
    for at in range(1, len(data) + 1):
        page.take_all(reader.blocks(data[at - 1 : at]))
        assert reader.status == ("complete" if at >= mark else "interrupted"), data[:at][-80:]
        if reader.status == "complete":
            page.check_everything()  # what is shown before is checked block by block
    assert page.taken == {"hello": 1, "message": 3, "patch": 2, "end": 1}
    assert data[mark:] == b"</af-p></body></html>"


@pytest.mark.parametrize("wire", WIRES)
def test_the_sessions_have_all_kinds_of_blocks(wire: str) -> None:
    blocks: list[Block] = []
    for session in SESSIONS:
        with session.bench() as bench:
            blocks += [block for segment in happen(session, bench, wire) for block in segment.blocks]
    # A poll has no heartbeat, and is told that the server goes away when it asks again.
    assert {block.event for block in blocks} - {"ping"} == EVERYTHING
    assert wire == "poll" or any(block.event == "ping" for block in blocks)
    assert {block.lines[0]["status"] for block in blocks if block.event == "end"} == STATUSES
    patches = [block.lines for block in blocks if block.event == "patch"]
    assert any(len(lines) > 1 for lines in patches)
    merged = [line for lines in patches for line in lines if len(line) == 4]
    assert any(0 < since < seq - 1 for _, seq, _, since in merged)
    assert any(since == 0 for _, _, _, since in merged)
