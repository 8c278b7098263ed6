r"""What a document that goes on shows where scripts do not run.

A browser that runs scripts sees text it never reads: each **part** is inside of ``<noscript>``, inside of an element
that removes itself. One that runs none reads it as elements, and two techniques stand side by side in it:

- ``<template for="n"><?start name="n">…<?end></template>`` replaces what is between ``<?start name="n">`` and
  ``<?end>`` in the page, where a browser knows that (Chromium, since 2026). So the content of each element with an id
  is put between such marks (`marked`); to other browsers they are comments.
- elsewhere a style sheet hides an element's content, and shows a text in its place. These rules hold only as long as
  there is an element that a ``<template for>`` would have taken away.

A part says for each element that has changed all that it shows, so parts may be left out: there are two in a second
at most, and fewer the longer it goes on. What is shown is text and HTML of elements with an id that the page was
served with, what is added to them, bars, and what is removed; nothing else.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from html import unescape
from html.parser import HTMLParser
from operator import itemgetter
from typing import Self

from markupsafe import escape

from .log import End, Item, Message, Patches, Snapshot, Step
from .patch import Patch
from .state import root_of

INTERVAL = 0.5  # seconds between two parts
SLOWER_AFTER = 250  # parts; then the interval doubles
ADDED_MOST = 4000  # characters of what was added to one element; the oldest go first
REFRESH = 5  # seconds until a page of channels that was cut is asked for again

_FAILED = "af-failed"  # id of what shows that a loop has failed

_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
# Their content is no HTML, or is not shown, or is not ours to mark.
_OTHER = frozenset(
    "iframe math noembed noframes noscript object plaintext script select style svg template textarea title xmp".split()
)
_TAG = re.compile(
    r"<!--.*?-->|<(?P<end>/?)(?P<tag>[a-z][^\s/>]*)(?P<attributes>(?:[^>\"']|\"[^\"]*\"|'[^']*')*)>",
    re.DOTALL | re.IGNORECASE,
)
_ATTRIBUTE = re.compile(r"""([^\s"'<>/=]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'=<>`]+)))?""")
_ATTRIBUTE_NAME = re.compile(r"[a-z_:][-a-z0-9_:.]*", re.ASCII)
_SIMPLE_ID = re.compile(r"[A-Za-z_][-\w]*", re.ASCII)
_INLINE = frozenset(
    "a abbr b bdi bdo button cite code data del dfn em i ins kbd label mark meter output progress q s samp small span "
    "strong sub sup time u var".split()
)
# As a grid they would not be what they are: there is a bullet, or a table around them.
_NO_GRID = frozenset("caption dd dt li summary tbody td tfoot th thead tr".split())
_BARS = frozenset({"meter", "progress"})
_LINES = frozenset(
    "address article aside blockquote br dd div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header "
    "hr li main nav ol p pre section table tr ul".split()
)
_NOT_IN_ITSELF = frozenset("dd dt li option p td th tr".split())


@dataclass(frozen=True, slots=True)
class _Place:
    """An element of the page as it was served.

    Attributes:
        scale: the least and the most that a bar shows.
        start: where its content begins in the page.
        end: where it ends.
    """

    tag: str
    scale: tuple[float, float] = (0.0, 0.0)
    start: int = 0
    end: int = 0


@lru_cache(maxsize=64)
def marked(html: str) -> tuple[str, dict[str, _Place]]:
    """A page with marks around the content of each of its elements that has an id, and these elements.

    Left as they are: those that are not over yet, and those whose content is no HTML.
    """
    cuts: list[tuple[int, str, str]] = []
    places = _places(html)
    for name, place in places.items():
        if place.tag not in _BARS:
            cuts += [(place.start, name, f'<?start name="{name}">'), (place.end, name, "<?end>")]
    pieces: list[str] = []
    starts: dict[str, int] = {}
    moved = {name: place for name, place in places.items() if place.tag in _BARS}
    done = length = 0
    for at, name, mark in sorted(
        cuts, key=itemgetter(0)
    ):  # it is stable: an empty element's <?end> comes second
        pieces += [html[done:at], mark]
        length += at - done
        done = at
        if name not in starts:
            starts[name] = length + len(mark)
        else:
            moved[name] = replace(places[name], start=starts[name], end=length)
        length += len(mark)
    return "".join([*pieces, html[done:]]), moved


def _places(html: str) -> dict[str, _Place]:
    found: dict[str, _Place] = {}
    opened: list[tuple[str, dict[str, str], int]] = []
    at = 0
    while tag := _TAG.search(html, at):
        at = tag.end()
        name = (tag["tag"] or "").lower()
        if not name:
            continue  # a comment
        if tag["end"]:
            begun = next((i for i in reversed(range(len(opened))) if opened[i][0] == name), None)
            if begun is not None:
                _, attributes, start = opened[begun]
                del opened[begun:]
                if _SIMPLE_ID.fullmatch(attributes.get("id", "")):
                    place = _Place(name, _scale(name, attributes), start, tag.start())
                    found.setdefault(attributes["id"], place)
        elif name in _OTHER:
            end = re.compile(rf"</{name}\b", re.IGNORECASE).search(html, at)
            at = end.start() if end else len(html)
        elif name not in _VOID:
            attributes = _attributes(tag["attributes"]) if "id" in tag["attributes"].lower() else {}
            # the first line break in it is none
            start = at + 1 if name == "pre" and html.startswith("\n", at) else at
            opened.append((name, attributes, start))
    return found


def _attributes(tag: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, *values in _ATTRIBUTE.findall(tag):
        found.setdefault(name.lower(), unescape("".join(values)))
    return found


def _scale(tag: str, attributes: dict[str, str]) -> tuple[float, float]:
    if tag not in _BARS:
        return 0.0, 0.0
    try:
        return float(attributes.get("min", 0)) if tag == "meter" else 0.0, float(attributes.get("max", 1))
    except ValueError:
        return 0.0, 1.0


class _Tidy(HTMLParser):
    """Brings a piece of HTML into a form that ends where it should; and its text.

    What is not HTML inside (scripts, styles, ...) is left out.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html: list[str] = []
        self.text: list[str] = []
        self._opened: list[str] = []
        self._left_out = 0
        self.feed(html)
        self.close()
        if self._opened:
            self.handle_endtag(self._opened[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._opened and self._opened[-1] == tag and tag in _NOT_IN_ITSELF:
            self.handle_endtag(tag)
        if tag not in _VOID:
            self._opened.append(tag)
            self._left_out += tag in _OTHER
        if self._left_out or not tag.isalnum():
            return
        said = [
            f' {name}="{escape(value or "")}"' for name, value in attrs if _ATTRIBUTE_NAME.fullmatch(name)
        ]
        self.html.append(f"<{tag}{''.join(said)}>")
        if tag in _LINES:
            self.text.append("\n")
        elif tag in ("td", "th"):
            self.text.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._opened:
            return
        while True:
            last = self._opened.pop()
            if not self._left_out and last.isalnum():
                self.html.append(f"</{last}>")
            self._left_out -= last in _OTHER
            if last == tag:
                return

    def handle_data(self, data: str) -> None:
        if not self._left_out:
            self.html.append(str(escape(data)))
            self.text.append(re.sub(r"[ \t\n\f\r]+", " ", data))


class _Pieces:
    """Pieces of content that stand in a row: each the id of its element if it has one, and HTML or a text."""

    __slots__ = ("_row", "_size")

    def __init__(self) -> None:
        self._row: deque[tuple[str | None, str, bool]] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._row)

    def clear(self) -> None:
        """Takes all of them away."""
        self._row.clear()
        self._size = 0

    def add(self, name: str | None, content: str, html: bool, front: bool, most: int | None) -> None:
        """One more at an end; at the other one, those that are too many or too long go."""
        (self._row.appendleft if front else self._row.append)((name, content, html))
        self._size += len(content)
        while len(self._row) > 1 and (self._size > ADDED_MOST or (most and len(self._row) > most)):
            self._size -= len((self._row.pop if front else self._row.popleft)()[1])

    def drop(self, name: str) -> None:
        """Takes the one of that id away."""
        self._size -= sum(len(piece[1]) for piece in self._row if piece[0] == name)
        self._row = deque(piece for piece in self._row if piece[0] != name)

    def html(self) -> str:
        """All of it as HTML that ends where it should."""
        return "".join(
            ["".join(_Tidy(said).html) if html else str(escape(said)) for _, said, html in self._row]
        )

    def text(self) -> str:
        """What there is to be read of it."""
        return "".join(["".join(_Tidy(said).text) if html else said for _, said, html in self._row])


class _Change:
    """What an element shows now.

    Attributes:
        served: what it was served with is still there.
        front: what stands before that.
        behind: what stands behind it.
        bar: per cent that are filled, or None.
        removed: it is not there any more.
        framed: which rules there are already for a content that is in a style sheet.
    """

    __slots__ = ("bar", "behind", "framed", "front", "removed", "served")

    def __init__(self) -> None:
        self.served = True
        self.front = _Pieces()
        self.behind = _Pieces()
        self.bar: float | None = None
        self.removed = False
        self.framed = ""

    def set(self, content: str, html: bool) -> None:
        """Its content is nothing but this."""
        self.served = False
        self.front.clear()
        self.behind.clear()
        self.behind.add(None, content, html, False, None)

    def add(self, content: str, html: bool, front: bool = False, keep: int | None = None) -> None:
        """This is added to its content, of which so many pieces are kept."""
        name = root_of(content)[1] if html and "id" in content else None
        if name is not None:
            self.front.drop(name)
            self.behind.drop(name)
        side, other = (self.front, self.behind) if front else (self.behind, self.front)
        side.add(name, content, html, front, keep)
        if keep and len(side) >= keep:
            self.served = False
            other.clear()


class Shown:
    """What a page shows where scripts do not run.

    Args:
        html: the page up to where its updates begin.
        into: target of plain strings, if the page said one.
        nonce: for a Content-Security-Policy.
        clock: in seconds.

    Attributes:
        html: the page to be sent instead, with marks in it.
    """

    def __init__(self, html: str, into: str | None, nonce: str | None, clock: Callable[[], float]) -> None:
        self.html, places = marked(html)
        self._places = places | {_FAILED: _Place("div", start=len(self.html), end=len(self.html))}
        self._into = into
        self._nonce = f' nonce="{escape(nonce)}"' if nonce else ""
        self._clock = clock
        self._alone = True
        self._begin()

    def _begin(self) -> None:
        self._changes: dict[str, _Change] = {}
        self._new: set[str] = set()
        self._next = 0.0
        self._parts = 0
        self._whole: bytes | None = b""

    def shared(self) -> Self:
        """The same for all pages that are made alike: those that it equals may be sent the same parts.

        What is added to an element is not in these, as it is not known what each page was served with.
        """
        shared = copy(self)
        shared._alone = False
        shared._nonce = shared.html = ""
        shared._begin()
        return shared

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Shown) or self._alone or other._alone:
            return False
        return self._into == other._into and self._forms() == other._forms()

    def __hash__(self) -> int:
        return hash((self._into, self._alone))

    def _forms(self) -> dict[str, tuple[str, tuple[float, float]]]:
        return {name: (place.tag, place.scale) for name, place in self._places.items()}

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
        """What has the page asked for again when it is over."""
        return _utf8(_apart(f'<meta http-equiv="refresh" content="{REFRESH}">'))

    def closing(self) -> str:
        """What stands behind the last part, where the page is complete."""
        style = f"<style{self._nonce}>#af-more{{display:none}}</style>"
        return _apart(f'<template for="af-more"></template>{style}')

    @property
    def owes(self) -> bool:
        """There is something new, and it is time."""
        return bool(self._new) and self._clock() >= self._next

    def part(self, steps: Iterable[Step] = (), now: bool = False) -> bytes:
        """Notes what is new in a log's answer; says it if it is time, or is to be said now."""
        for step in steps:
            self._take(step.items)
        if not (self._new and (now or self.owes)):
            return b""
        self._parts += 1
        self._next = self._clock() + INTERVAL * 2 ** (self._parts // SLOWER_AFTER)
        changed = self._with_those_inside(self._new)
        self._new.clear()
        return self._say(changed)

    def whole(self) -> bytes:
        """All that has changed, for one who may have missed parts."""
        if self._whole is None:
            self._whole = self._say(set(self._changes), framed=False)
        return self._whole

    def _take(self, items: Iterable[Item]) -> None:
        for item in items:
            match item:
                case Patches() | Snapshot():
                    for patch in item.patches:
                        self._apply(patch)
                case Message() if self._into is not None and self._into[1:] in self._places:
                    self._set(self._into[1:], item.text)
                case End() if item.status != "done":
                    self._set(_FAILED, item.message)

    def _say(self, changed: set[str], framed: bool = True) -> bytes:
        # those inside of others behind them, as these have brought back what they were served with
        names = sorted(changed, key=lambda name: self._places[name].start)
        templates = [self._template(name) for name in names]
        rules = [self._rules(name, framed) for name in names]
        return (
            _utf8(_apart(f"{''.join(templates)}<style{self._nonce}>{''.join(rules)}</style>"))
            if names
            else b""
        )

    def _set(self, name: str, content: str) -> None:
        change = self._changes.setdefault(name, _Change())
        change.set(content, html=False)
        self._new.add(name)
        self._whole = None

    def _apply(self, patch: Patch) -> None:
        name = patch.target[1:]
        place = self._places.get(name)
        options = patch.options or {}
        if place is None or patch.target[:1] != "#" or "select" in options:
            return
        change = self._changes.get(name) or _Change()
        match patch.action:
            case "remove":
                change.removed = True
            case "value" if place.tag in _BARS:
                change.bar = _filled(place, patch.content)
            case "attr" if place.tag in _BARS and options["name"] == "value":
                change.bar = _filled(place, patch.content)
            case "text" | "html" if place.tag not in _BARS:
                change.set(patch.content, patch.action == "html")
            case "append" | "prepend" if self._alone and place.tag not in _BARS:
                change.add(patch.content, True, patch.action == "prepend", options.get("keep"))
            case "append_text" if self._alone and place.tag not in _BARS:
                change.add(patch.content, False)
            case _:
                return
        self._changes[name] = change
        self._new.add(name)
        self._whole = None

    def _with_those_inside(self, ids: set[str]) -> set[str]:
        spans = [(self._places[name].start, self._places[name].end) for name in ids]
        return ids | {
            name
            for name in self._changes
            if any(
                start <= self._places[name].start and self._places[name].end <= end for start, end in spans
            )
        }

    def _template(self, name: str) -> str:
        place, change = self._places[name], self._changes[name]
        if change.removed or change.bar is not None:
            return ""
        served = self.html[place.start : place.end] if change.served else ""
        content = change.front.html() + served + change.behind.html()
        return f'<template for="{name}"><?start name="{name}">{content}<?end></template>'

    def _rules(self, name: str, framed: bool) -> str:
        place, change = self._places[name], self._changes[name]
        if change.removed:
            return f"#{name}{{display:none!important}}"
        if change.bar is not None:
            return _BAR.format(name=name, filled=change.bar)
        element = f":root:has(#af-css) #{name}"
        front, behind = change.front.text(), change.behind.text()
        if change.served:
            frame = _ADDS
            if self.html[place.start : place.end].rstrip().endswith(">"):
                behind = behind.removeprefix("\n")
        else:
            frame = _CELL if place.tag in _NO_GRID else _INLINE_GRID if place.tag in _INLINE else _GRID
            front, behind = (front + behind).strip("\n"), ""
        rules = "" if framed and frame == change.framed else frame.replace("&", element)
        if framed:
            change.framed = frame
        content = f'{element}::before{{content:"{_css(front)}"}}{element}::after{{content:"{_css(behind)}"}}'
        return rules + content


# & stands for the element. What it holds is put where there is no room, and a text beside it.
_ADDS = "&::before,&::after{white-space:pre-line}"
_GRID = (
    "&{display:grid!important;grid-template:auto 0/0 auto!important;grid-auto-rows:0!important;overflow:clip!important}"
    "&>*{display:none!important}&::before{grid-area:1/1/2/3;white-space:pre-line}"
)
_INLINE_GRID = _GRID.replace("grid!", "inline-grid!", 1)
_CELL = "&{font-size:0!important}&>*{display:none!important}&::before{font-size:1rem;white-space:pre-line}"
_BAR = (
    "#{name}{{appearance:none!important;height:1em;color:inherit;"
    "background:linear-gradient(90deg,currentColor {filled:.4g}%,#8884 0)!important}}"
    "#{name}::-webkit-progress-bar,#{name}::-webkit-progress-value,#{name}::-webkit-meter-bar{{background:none!important}}"
    "#{name}::-moz-progress-bar,#{name}::-moz-meter-bar{{background:none!important}}"
)


def _apart(html: str) -> str:
    """Elements that are direct children of the body where scripts do not run, and text that goes elsewhere."""
    # Without scripts </div> closes all that is open in it, and the end tags behind have nothing to close. With them,
    # the <noscript> is a text, and document.js takes away the <div>. (A <template for> has to be near its target.)
    return f"<div hidden><af-p><noscript></div>{html}</noscript></af-p></div>"


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _css(text: str) -> str:
    """A text inside of a string of a style sheet that is inside of a page."""
    return re.sub(r'[\x00-\x1f\x7f"\\<]', lambda found: f"\\{ord(found[0]):06x}", text)


def _filled(place: _Place, value: str | None) -> float:
    least, most = place.scale
    try:
        return max(0.0, min(100.0, 100 * (float(value or 0) - least) / (most - least)))
    except (ValueError, ZeroDivisionError):
        return 0.0
