"""What is published while lines are cut: each entry a function of its number, so that every process knows the truth.

A page of a topic shows the number, the last rows and an attribute; all of it does no harm where the page shows it
already, as its view may read more than its position says. The run `rows` adds to the end of a text, which does.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

from markupsafe import Markup

from afterload import patch as p
from afterload.patch import Patch
from tests.document import Document
from tests.faults.record import START, Known, linked

TOPICS = tuple(f"t{k}" for k in range(10))
RUN = "rows"
_KEPT = 20
_ROWS = 50  # names of rows, which come again


def entry(name: str, n: int) -> list[Patch]:
    """The n-th entry of a channel, from 1."""
    row = Markup(f"<li id={name}-{n % _ROWS}>é {n}</li>")
    made = [p.text(f"#{name}-n", n), p.append(f"#{name}-rows", row, keep=_KEPT)]
    if name == RUN:
        text = p.text if n % 100 == 0 else p.append_text
        return [*made, text(f"#{name}-log", f",{n}")]
    if n % 7 == 0:
        made.append(p.attr(f"#{name}-n", "title", n))
    if n % 10 == 0:
        made.append(p.dispatch("tick", n))  # which only the chain shows
    return made


def html(name: str, n: int) -> str:
    """What a page's HTML has of a channel after its n-th entry; of the run it knows nothing."""
    title = f' title="{n - n % 7}"' if n >= 7 else ""
    rows = "".join(f"<li id={name}-{m % _ROWS}>é {m}</li>" for m in range(max(1, n - _KEPT + 1), n + 1))
    log = f"<p id={name}-log></p>" if name == RUN else ""
    return f"<div id={name}><b id={name}-n{title}>{n or ''}</b><ul id={name}-rows>{rows}</ul>{log}</div>"


def number(patches: Sequence[Sequence[object]]) -> int | None:
    """The number of the last entry in a line; None if it has none that shows anything."""
    for action, target, content, *_ in reversed(patches):
        if action == "text" and str(target).endswith("-n"):
            return int(str(content))
    return None


def digest(document: Document) -> str:
    return hashlib.sha256(document.body.serialize().encode()).hexdigest()


class Script:
    """The truth: a life as `tests.faults.record` has it, of which the numbers are those of the entries.

    Where a hub begins anew its numbers do, and those of a topic go on; so what a position promises is not known here.
    """

    epoch = ""
    head = 0
    forgotten: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, list[Known]] = {}
        self._documents: dict[str, Document] = {}

    def known(self, name: str, n: int) -> Known:
        """What a channel is after its n-th entry; any thread may ask."""
        with self._lock:
            return self._known_at(name, n)

    def _known_at(self, name: str, n: int) -> Known:
        if name not in self._known:
            self._documents[name] = Document(html(name, 0))
            self._known[name] = [Known(0, 0, 0, START, digest(self._documents[name]), "", "open")]
        known, document = self._known[name], self._documents[name]
        while len(known) <= n:
            patches = entry(name, len(known))
            for patch in patches:
                document.apply(patch)
            chain = linked(known[-1].chain, [patch.wire() for patch in patches])
            known.append(Known(0, len(known), 0, chain, digest(document), "", "open"))
        return known[n]

    def after(self, name: str, number: int, generation: int = 0) -> list[Known]:
        return [] if generation else [self.known(name, number)]

    def at(self, name: str, offset: int) -> None:
        return None

    def said_between(self, names: Sequence[str], after: int, upto: int) -> list[str]:
        return []
