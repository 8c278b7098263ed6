"""The page model finds whatever is wrong with a stream: what it does not complain about proves something."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterload import patch as p
from tests.faults.bench import Bench
from tests.faults.page import Block, Page, Wrong
from tests.faults.record import linked
from tests.faults.sessions import SESSIONS, blank, happen, more, row, say
from tests.faults.wires import WIRES


def finds(page: Page, blocks: list[Block]) -> str:
    """What it says about these blocks; "" if all is well, and it has everything in the end."""
    try:
        page.take_all(blocks)
        page.check_everything()
    except Wrong as wrong:
        return str(wrong)
    return "a gap" if page.gaps else ""


def has_entries(block: Block) -> bool:
    """Whether it has what comes once, and not a state, which does no harm twice, or where the page shows it."""
    if block.event == "patch":
        return all(line[3:] != [0] for line in block.lines)
    return block.event == "message"


def mutations(blocks: list[Block]) -> Iterator[tuple[str, list[Block]]]:
    """One entry is lost, comes twice, too late or too early; of a block with several lines one is lost."""
    for i, block in enumerate(blocks):
        before, behind = blocks[:i], blocks[i + 1 :]
        if not has_entries(block):
            continue
        yield f"lost: {i}", [*before, *behind]
        yield f"doubled: {i}", [*before, block, block, *behind]
        if block.event == "message":
            yield f"changed: {i}", [*before, dataclasses.replace(block, lines=("other",)), *behind]
        elif len(block.lines) > 1:
            for n in range(len(block.lines)):
                rest = (*block.lines[:n], *block.lines[n + 1 :])
                yield f"lost: {i}.{n}", [*before, dataclasses.replace(block, lines=rest), *behind]
        next_one = next((j for j, other in enumerate(behind) if has_entries(other)), None)
        if next_one is not None:
            between, rest = behind[:next_one], behind[next_one + 1 :]
            yield f"late: {i}", [*before, *between, behind[next_one], block, *rest]
            yield f"early: {i + 1 + next_one}", [*before, behind[next_one], block, *between, *rest]


def thinned(blocks: list[Block]) -> Iterator[tuple[str, list[Block]]]:
    """Of an entry or a state one patch is lost."""
    for i, block in enumerate(blocks):
        for n, line in enumerate(block.lines if block.event in ("patch", "snapshot") else ()):
            channel, seq, patches, *since = line
            for m in range(len(patches)):
                fewer = [channel, seq, [*patches[:m], *patches[m + 1 :]], *since]
                lines = (*block.lines[:n], fewer, *block.lines[n + 1 :])
                yield f"{i}.{n}.{m}", [*blocks[:i], dataclasses.replace(block, lines=lines), *blocks[i + 1 :]]


@pytest.mark.parametrize("name", ["live", "anew", "own", "ends", "away"])
def test_every_mutation_of_a_session_is_found(name: str) -> None:
    [session] = [session for session in SESSIONS if session.name == name]
    with session.bench() as bench:
        [segment] = happen(session, bench, "stream")
        page = segment.page
        page.connect(bench.life)
        assert finds(page.clone(), segment.blocks) == ""
        count = 0
        for what, blocks in mutations(segment.blocks):
            assert finds(page.clone(), blocks), f"{what} of {[block.event for block in segment.blocks]}"
            count += 1
        assert count >= 3


def test_a_patch_that_an_entry_lacks_is_found() -> None:
    with Bench({name: blank(name) for name in "ac"}, ["c"]) as bench:
        bench.publisher.begin("c")
        bench.publisher.publish("c", row("c", 1), say("c", 1))
        page = bench.page("a", "c")
        visit = bench.connect(page, "stream")
        for entry in ([say("a", 1), row("a", 1)], [more("a", "x"), p.dispatch("ding")]):
            bench.publisher.publish("a", *entry)
            bench.wait(0.1)
        bench.publisher.publish("a", more("a", "y"), row("a", 2))
        bench.publisher.publish("a", more("a", "z"))
        bench.wait(0.1)
        blocks = visit.blocks()
        assert finds(page.clone(), blocks) == ""
        found = [finds(page.clone(), mutated) for _, mutated in thinned(blocks)]
        assert len(found) == 9
        assert all(found)


def test_an_effect_that_is_lost_or_doubled_leaves_its_mark_in_the_chain() -> None:
    """A document does not show it."""
    with Bench({"a": blank("a")}) as bench:
        page = bench.page("a")
        visit = bench.connect(page, "stream")
        bench.publisher.publish("a", say("a", 1))
        bench.wait(0.1)
        bench.publisher.publish("a", say("a", 2), p.dispatch("ding"))
        bench.wait(0.1)
        blocks = visit.blocks()
        [last] = [block for block in blocks if "ding" in str(block)]
        channel, seq, patches = last.lines[0]
        assert finds(page.clone(), blocks) == ""
        for changed in (patches[:1], [*patches, patches[1]], patches[::-1]):
            other = dataclasses.replace(last, lines=([channel, seq, changed],))
            found = finds(page.clone(), [*blocks[:-1], other])
            assert found == "a: entry 2 is not the one that was published, or not all before it came"


def test_a_promise_that_is_too_great_is_found() -> None:
    with Bench({"a": blank("a")}) as bench:
        bench.publisher.publish("a", say("a", 1))
        page = bench.bring(bench.page("a"), "stream")
        late = bench.page("a", position=page.position)
        bench.publisher.publish("a", say("a", 2))
        visit = bench.connect(late, "stream")
        hello, patch = visit.blocks()
        page.connect(bench.life)
        ping = Block("ping", f"{bench.life.epoch}.2", ({},))
        assert "entry 2 is promised" in finds(page.clone(), [hello, ping])
        beyond = dataclasses.replace(patch, id=f"{bench.life.epoch}.3")
        assert "promises" in finds(late.clone(), [hello, beyond])
        elsewhere = dataclasses.replace(patch, id="other.2")
        assert "promises" in finds(late.clone(), [hello, elsewhere])


def test_a_chain_is_of_all_entries_in_their_order() -> None:
    one, two = [["text", "#a", "1"]], [["text", "#a", "2"]]
    chains = {linked(linked(b"", x), y) for x in (one, two) for y in (one, two)}
    assert len(chains) == 4
    assert linked(b"", [*one, *two]) not in chains


KINDS = [
    lambda name, n: say(name, n),
    lambda name, n: row(name, n),
    lambda name, n: row(name, n, keep=2),
    lambda name, n: more(name, f"{n}"),
    lambda name, n: p.dispatch(f"e{n}"),
    lambda name, n: p.message(n),
]
ENTRIES = st.lists(
    st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, len(KINDS) - 1), min_size=1, max_size=2), st.booleans()),
    min_size=2,
    max_size=6,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(entries=ENTRIES, wire=st.sampled_from(["stream", "websocket"]), data=st.data())
def test_whatever_was_published_a_mutation_of_it_is_found(
    entries: list[tuple[str, list[int], bool]], wire: str, data: st.DataObject
) -> None:
    with Bench({name: blank(name) for name in "ab"}) as bench:
        # From the beginning, so that each chain is known from its first entry.
        for name in "ab":
            bench.publisher.publish(name, say(name, "first"))
        page = bench.page("a", "b", position="")
        visit = bench.connect(page, wire)
        for n, (name, kinds, alone) in enumerate(entries):
            bench.publisher.publish(name, *(KINDS[kind](name, n) for kind in kinds))
            if alone:
                bench.wait(0.1)
        bench.wait(0.1)
        blocks = visit.blocks()
        assert finds(page.clone(), blocks) == ""
        what, mutated = data.draw(st.sampled_from([*mutations(blocks)]), label="mutation")
        assert finds(page.clone(), mutated), what


def test_all_wires_are_read_alike() -> None:
    said = {}
    for wire in WIRES:
        with SESSIONS[0].bench() as bench:
            blocks = [block for segment in happen(SESSIONS[0], bench, wire) for block in segment.blocks]
            epoch = bench.life.epoch
        said[wire] = [
            (block.event, (block.id or "").replace(epoch, "e"), block.lines)
            for block in blocks
            if block.event in ("patch", "message", "snapshot", "reset")
        ]
    assert said["stream"] == said["websocket"] == said["poll"]
