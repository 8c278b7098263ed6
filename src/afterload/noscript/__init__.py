r"""What a document that goes on shows where scripts do not run.

A browser that runs scripts sees text it never reads: each **part** is inside of ``<noscript>``, inside of an element
that removes itself. One that runs none reads it as elements, and two techniques stand side by side in it:

- ``<template for="n"><?start name="n">…<?end></template>`` replaces what is between ``<?start name="n">`` and
  ``<?end>`` in the page, where a browser knows that (Chromium, since 2026). So the content of each element with an id
  is put between such marks (`marks`); to other browsers they are comments.
- elsewhere a style sheet hides an element's content, and shows a text in its place (`styles`). These rules hold only
  as long as there is an element that a ``<template for>`` would have taken away.

A part says for each element that has changed all that it shows, so parts may be left out: there are two in a second
at most, and fewer the longer it goes on. What is shown is text and HTML of elements with an id that the page was
served with, what is added to them, bars, and what is removed; nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from copy import copy
from typing import Any, Self

from markupsafe import escape

from ..log import End, Item, Message, Patches, Reset, Snapshot, Step
from ..patch import Patch
from ..state import ids_in
from . import styles
from .marks import BARS, Place, marked
from .tidy import Piece, Pieces

INTERVAL = 0.5  # seconds between two parts
SLOWER_AFTER = 250  # parts; then the interval doubles
_SLOWEST = 4  # doublings
SERVED_MOST = (
    4000  # characters of what a page was served with that are sent again when something is added to it
)
REFRESH = 5  # seconds until a page of channels that was cut is asked for again

_FAILED = "af-failed"  # id of what shows that a loop has failed
_NOSCRIPT = re.compile(r"<(/?)noscript\b", re.IGNORECASE)


class _Change:
    """What an element shows now.

    Attributes:
        channel: who has changed it last.
        served: what it was served with is still there.
        front: what stands before that.
        behind: what stands behind it.
        scale: of a bar, what has changed of it.
        removed: it is not there any more.
        framed: for what, and which rules there are already for a content that is in a style sheet.
    """

    __slots__ = ("behind", "channel", "framed", "front", "removed", "scale", "served")

    def __init__(self) -> None:
        self.channel = ""
        self.served = True
        self.front = Pieces()
        self.behind = Pieces()
        self.scale: dict[str, str] = {}
        self.removed: bool | None = None
        self.framed = "", ""

    def set(self, piece: Piece) -> None:
        """Its content is nothing but this."""
        self.served = False
        self.front.clear()
        self.behind.clear()
        self.behind.add(piece)

    def add(self, piece: Piece, front: bool = False, keep: int | None = None) -> None:
        """This is added to its content, of which so many pieces are kept."""
        if piece.name is not None:
            self.drop(piece.name)
        side, other = (self.front, self.behind) if front else (self.behind, self.front)
        side.add(piece, front, keep)
        if keep and len(side) >= keep:
            self.served = False
            other.clear()

    @property
    def has_content(self) -> bool:
        """Anything has changed of that."""
        return not self.served or len(self.front) + len(self.behind) > 0

    def drop(self, name: str) -> bool:
        """The piece of that id is not there any more; whether it was."""
        return self.front.drop(name) | self.behind.drop(name)


class Shown:
    """What a page shows where scripts do not run.

    Args:
        html: the page up to where its updates begin.
        into: target of plain strings, if the page said one.
        nonce: for a Content-Security-Policy.
        again: it may be asked for again when it was cut.
        clock: in seconds.

    Attributes:
        html: the page to be sent instead, with marks in it.
        missed: viewers that were sent something else when others were sent a part.
    """

    def __init__(
        self, html: str, into: str | None, nonce: str | None, again: bool, clock: Callable[[], float]
    ) -> None:
        self.html, places = marked(html)
        self._places = places | {_FAILED: Place("div", start=len(self.html), end=len(self.html))}
        self._into = into
        self._nonce = f' nonce="{escape(nonce)}"' if nonce else ""
        self._again = again
        self._clock = clock
        self._made: object = self  # pages of which this is equal share their parts
        self._begin()

    def _begin(self) -> None:
        self.missed: set[object] = set()
        self._changes: dict[str, _Change] = {}
        self._new: set[str] = set()
        self._void: set[str] = set()  # what has changed, and is unknown now
        self._next = 0.0
        self._parts = 0
        self._whole: bytes | None = b""

    def shared(self) -> Self:
        """The same for all pages that are made alike: those that it equals may be sent the same parts.

        What is added to what a page was served with is not in these, as that may be different.
        """
        shared = copy(self)
        forms = frozenset((name, place.tag, place.scale) for name, place in self._places.items())
        shared._made = (self._into, self._again, forms)
        shared._nonce = shared.html = ""
        shared._begin()
        return shared

    def form(self) -> dict[str, Any]:
        """A shared one as a JSON value, for `of`."""
        places = [[n, p.tag, p.scale, p.start, p.end] for n, p in self._places.items()]
        return {"into": self._into, "again": self._again, "places": places}

    @classmethod
    def of(cls, form: dict[str, Any], clock: Callable[[], float]) -> Self:
        """A shared one, made of the form of another.

        Raises:
            ValueError: it is no such form (or another of the errors of what is none).
        """
        shown = cls("", form["into"], None, form["again"], clock)
        shown._places = {
            name: Place(str(tag), tuple((str(k), str(v)) for k, v in scale), int(start), int(end))
            for name, tag, scale, start, end in form["places"]
        }
        return shown.shared()

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Shown) and self._is_shared and self._made == other._made

    def __hash__(self) -> int:
        return hash(self._made) if self._is_shared else id(self)

    @property
    def _is_shared(self) -> bool:
        return isinstance(self._made, tuple)

    def opening(self) -> str:
        """What stands before the first part."""
        style = "af-p{display:none}svg[data-af]{position:absolute;z-index:-1;opacity:0}"
        return _apart(
            f"<style{self._nonce}>{style}</style>"
            '<?start name="af-css"><i id="af-css" hidden></i><?end><template for="af-css"></template>'
            f'<div id="{_FAILED}"><?start name="{_FAILED}"><?end></div>'
            '<?start name="af-more"><p id="af-more">This page is still being received.</p><?end>'
        )

    def again(self) -> bytes:
        """What has the page asked for again when it is over, if it may be; no browser does so before.

        It cannot be taken back, so it is for pages that do not end, and for those that are cut.
        """
        return _utf8(_apart(f'<meta http-equiv="refresh" content="{REFRESH}">')) if self._again else b""

    def closing(self) -> str:
        """What stands behind the last part, where the page is complete."""
        style = f"<style{self._nonce}>#af-more{{display:none}}</style>"
        return _apart(f'<template for="af-more"></template>{style}')

    @property
    def owes(self) -> bool:
        """There is something new, and it is time."""
        return bool(self._new or self._void) and self._clock() >= self._next

    def part(self, steps: Iterable[Step] = (), now: bool = False) -> bytes:
        """Notes what is new in a log's answer; says it if it is time, or is to be said now."""
        for step in steps:
            self._take(step.items)
        if not (self.owes or (now and (self._new or self._void))):
            return b""
        self._parts += 1
        self._next = self._clock() + INTERVAL * 2 ** min(self._parts // SLOWER_AFTER, _SLOWEST)
        nothing = _Change()
        nothing.set(Piece("", False))
        changes = dict.fromkeys(self._void, nothing)
        changes |= {name: self._changes[name] for name in self._with_those_inside(self._new)}
        self._new.clear()
        self._void.clear()
        return self._say(changes)

    def whole(self) -> bytes:
        """All that has changed, for one who may have missed parts."""
        if self._whole is None:
            self._whole = self._say(self._changes, framed=False)
        return self._whole

    def joined(self) -> bytes:
        """The same for one who comes now, and for whom parts are as frequent as for the first."""
        self._parts = 0
        return self.whole()

    # What comes in

    def _take(self, items: Iterable[Item]) -> None:
        for item in items:
            match item:
                case Patches(channel) | Snapshot(channel):
                    failed = self._changes.get(_FAILED)
                    if failed is not None and failed.channel == channel:
                        self._forget(_FAILED)
                    for patch in item.patches:
                        self._apply(patch, channel)
                case Message() if self._into is not None and self._into[1:] in self._places:
                    self._change(self._into[1:]).set(Piece(item.text, False))
                case End(channel) if item.status != "done":
                    change = self._change(_FAILED)
                    change.channel = channel
                    change.set(Piece(item.message, False))
                case Reset(channel):
                    for name in [n for n, change in self._changes.items() if change.channel == channel]:
                        self._forget(name)

    def _apply(self, patch: Patch, channel: str) -> None:
        name, options = patch.target[1:], patch.options or {}
        if patch.target[:1] != "#" or "select" in options:
            return
        if patch.action == "remove":
            for other, change in list(self._changes.items()):
                if change.drop(name):
                    self._change(other)
        place = self._places.get(name)
        if place is None:
            return
        known = self._changes.get(name)
        # What others were served with is not known here.
        may_add = not self._is_shared or (known is not None and not known.served)
        match patch.action:
            case "remove":
                self._change(name).removed = True
            case "value" | "attr" if place.tag in BARS:
                what = options.get("name", "value")
                if what not in ("value", "min", "max"):
                    return
                self._change(name).scale[what] = patch.content or ""
            case "text" if place.tag not in BARS:
                self._change(name).set(Piece(patch.content, False))
            case "html" if place.tag not in BARS:
                self._change(name).set(Piece(patch.content, True))
            case "append" | "prepend" if place.tag not in BARS and may_add:
                piece = Piece(patch.content, True)
                self._change(name).add(piece, patch.action == "prepend", options.get("keep"))
            case "append_text" if place.tag not in BARS and may_add:
                self._change(name).add(Piece(patch.content, False))
            case _:
                return
        self._changes[name].channel = channel
        if patch.action in ("html", "append", "prepend") and "id" in patch.content:
            for back in ids_in(patch.content):
                if back in self._changes and self._changes[back].removed:
                    self._change(back).removed = False  # it is there again, under its id

    def _change(self, name: str) -> _Change:
        change = self._changes.get(name)
        if change is None:
            change = self._changes[name] = _Change()
        self._new.add(name)
        self._whole = None
        return change

    def _forget(self, name: str) -> None:
        del self._changes[name]
        self._new.discard(name)
        self._void.add(name)
        self._whole = None

    # What goes out

    def _say(self, changes: dict[str, _Change], framed: bool = True) -> bytes:
        # those inside of others behind them, as these have brought back what they were served with
        said = sorted(changes.items(), key=lambda item: self._places[item[0]].start)
        templates = "".join([self._template(name, change) for name, change in said])
        rules = "".join([self._rules(name, change, framed) for name, change in said])
        return _utf8(_apart(f"{templates}<style{self._nonce}>{rules}</style>")) if said else b""

    def _with_those_inside(self, names: set[str]) -> set[str]:
        found, end = set(names), -1
        for name in sorted(self._changes, key=lambda n: (self._places[n].start, -self._places[n].end)):
            place = self._places[name]
            if name in names:
                end = max(end, place.end)
            elif place.end <= end:
                found.add(name)
        return found

    def _served(self, place: Place) -> str:
        # With scripts, all of it is the text of a <noscript>, and must not end it.
        return _NOSCRIPT.sub(r"<\1span", self.html[place.start : place.end])

    def _is_template(self, place: Place, change: _Change) -> bool:
        """Whether `<template for>` is to show it: not what is long, and was sent already."""
        return not (change.served and place.end - place.start > SERVED_MOST)

    def _template(self, name: str, change: _Change) -> str:
        place = self._places[name]
        if change.removed or not change.has_content or not self._is_template(place, change):
            return ""
        served = self._served(place) if change.served else ""
        content = change.front.html + served + change.behind.html
        return f'<template for="{name}"><?start name="{name}">{content}<?end></template>'

    def _rules(self, name: str, change: _Change, framed: bool) -> str:
        place = self._places[name]
        if change.removed:
            return f"#{name}{{display:none!important}}"
        rules = "" if change.removed is None else f"#{name}{{display:revert!important}}"
        if place.tag in BARS:
            return rules + styles.bar(f"#{name}", place.tag, dict(place.scale) | change.scale)
        if not change.has_content:
            return rules
        anywhere = f"#{name}:not([hidden])"
        element = f":root:has(#af-css) {anywhere}" if self._is_template(place, change) else anywhere
        before, after = change.front.text, change.behind.text
        if change.served:
            frame = styles.ADDS
            if self.html[place.start : place.end].rstrip().endswith(">"):
                after = after.removeprefix("\n")
        else:
            frame = styles.frame(place.tag)
            before, after = (before + after).strip("\n"), ""
        if not framed or change.framed != (element, frame):
            if framed and change.framed[0] == anywhere != element:
                rules += styles.content(anywhere, "", "")  # what a <template for> shows from now on
            rules += frame.replace("&", element)
        if framed:
            change.framed = element, frame
        return rules + styles.content(element, before, after)


def _apart(html: str) -> str:
    """Elements that are direct children of the body where scripts do not run, and text that goes elsewhere."""
    # Without scripts </div> closes all that is open in it, and the end tags behind have nothing to close. With them,
    # the <noscript> is a text, and document.js takes away the <div>. (A <template for> has to be near its target.)
    return f"<div hidden><af-p><noscript></div>{html}</noscript></af-p></div>"


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")
