"""The script of the faults: what a view shows of an entry is what all entries up to it have left."""

from __future__ import annotations

from tests.document import Document
from tests.soak.script import RUN, Script, digest, entry, html, number


def test_what_a_view_shows_is_what_the_entries_have_left() -> None:
    script = Script()
    for n in range(200):
        assert script.known("t0", n).document == digest(Document(html("t0", n))), n


def test_an_entry_comes_again_without_harm_where_a_view_shows_it_already() -> None:
    for n in range(1, 120):
        shown = Document(html("t0", n))
        for m in range(max(1, n - 5), n + 1):
            for patch in entry("t0", m):
                shown.apply(patch)
        assert digest(shown) == Script().known("t0", n).document, n


def test_every_entry_says_its_number() -> None:
    for name in ("t0", RUN):
        for n in range(1, 120):
            assert number([patch.wire() for patch in entry(name, n)]) == n
