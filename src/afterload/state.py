"""The state that a channel's patches leave: a compacted list of patches, in order.

A page is brought to a channel's state by applying patches, so the state *is* a list of patches: the
channel's own, less those whose effect a later one takes away. That gives two answers from one structure:

- all of it, applied to the page as it was served, is the **snapshot**;
- the part written after a position, applied to a page at that position, is what the page missed, in its
  shortest form. It needs no history, only that the state is unbroken since then.

A patch is dropped only when a later one makes it void *whatever the page looks like*, as long as an id stands for
one element: the same property of the same target set again; content appended to a target whose content is then
set; the oldest pieces of a container trimmed by ``keep``; an appended element that is appended again under its id.
Everything is kept in the order of its last write, since a patch can need the element that an earlier one brought.

Some patches are never dropped, and so may be few (`KEPT_MAX`), and limit what others may do:

- ``replace remove before after`` look for an element that a piece has brought, and change how many there are: what
  was appended before one of them is dropped only when all of it is.
- selector targets, and a change of an id, look at the page as it was just then: nothing before one is dropped for
  what comes behind it.

The property that tests hold against a document model: any sequence applied whole, or compacted at any point,
leaves the same document.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from html import unescape
from html.parser import HTMLParser
from typing import Any

from .patch import EFFECTS, Patch

KEPT_MAX = 200
_PIECES = frozenset({"append", "prepend", "append_text"})
VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
_ID = re.compile(r"""id\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'=<>`]+))""", re.IGNORECASE)
_OVERHEAD = 64  # bytes a patch costs beside its target and content


class _Op:
    """One patch of the state.

    Attributes:
        parts: the texts of merged append_text patches with their offsets.
        barrier: how often ids may have come into the page before it; for append_text.
        root: id of the element that it appends.
        base: key of the patch that set the content it adds to; None if that is the page's own.
    """

    __slots__ = ("barrier", "base", "offset", "parts", "patch", "root", "size")

    def __init__(self, patch: Patch, offset: int, size: int) -> None:
        self.patch = patch
        self.offset = offset
        self.size = size
        self.parts: list[tuple[int, str]] | None = None
        self.barrier = 0
        self.root: str | None = None
        self.base: Hashable | None = None

    @property
    def begins(self) -> int:
        """The offset of the first of its parts."""
        return self.parts[0][0] if self.parts else self.offset

    def whole(self) -> Patch:
        return self._joined(part for _, part in self.parts) if self.parts else self.patch

    def since(self, offset: int) -> Patch:
        return self._joined(part for at, part in self.parts if at > offset) if self.parts else self.patch

    def _joined(self, parts: Iterable[str]) -> Patch:
        return Patch(self.patch.action, self.patch.target, "".join(parts), self.patch.options)


@dataclass(frozen=True, slots=True)
class Held:
    """A patch of a state, for those who look into it.

    Attributes:
        patch: of merged text, its first part.
        parts: what it brings, each with its offset; of merged text there are several.
        again: `fresh` sends all of it, whatever the page shows of it.
    """

    patch: Patch
    parts: tuple[tuple[int, Any], ...]
    again: bool


class _Content:
    """What was added to one target since its content was last set.

    `simple` says that all of it was appended (or all prepended) with one `keep`, one root node each: then
    the oldest pieces can be dropped. Otherwise pieces stay until the content is set again.

    Attributes:
        base: key of the patch that set the content, or None.
        pieces: keys of what was added since `seal`.
        sealed: keys of what was added before.
    """

    __slots__ = ("base", "by_root", "keep", "kind", "pieces", "seal", "sealed", "simple")

    def __init__(self, base: Hashable | None, seal: int) -> None:
        self.base = base
        self.pieces: dict[Hashable, None] = {}
        self.sealed: list[Hashable] = []
        self.seal = seal
        self.by_root: dict[str, Hashable] = {}
        self.kind = ""
        self.keep: int | None = None
        self.simple = True

    def sealed_at(self, seal: int) -> None:
        """Pieces from before the seal cannot be dropped one by one any more."""
        if self.seal != seal:
            self.seal = seal
            self.sealed += self.pieces
            self.pieces.clear()
            self.by_root.clear()


class State:
    """A compacted, ordered list of patches.

    Args:
        max_bytes: bound on its size; 0 is none.
        max_cells: bound on the number of patches in it; 0 is none.
    """

    __slots__ = (
        "_barrier",
        "_contents",
        "_era",
        "_kept",
        "_max_bytes",
        "_max_cells",
        "_next",
        "_ops",
        "overflowed",
        "size",
    )

    def __init__(self, max_bytes: int = 0, max_cells: int = 0) -> None:
        self._max_bytes = max_bytes
        self._max_cells = max_cells
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self._ops: dict[Hashable, _Op] = {}
        self._contents: dict[str, _Content] = {}
        self._next = 0  # number of what has no key of its own
        self._kept = 0  # patches that are never dropped; also the seal of what was added before them
        self._era = 0  # part of the keys, so that nothing is dropped across one
        self._barrier = 0
        self.size = 0
        self.overflowed = False

    def __len__(self) -> int:
        return len(self._ops)

    def apply(self, patch: Patch, offset: int) -> None:
        """Adds one patch. Past a bound the state is emptied and `overflowed` set.

        Effects are not state and are ignored.
        """
        if patch.action in EFFECTS:
            return
        self._add(patch, offset)
        if (
            (self._max_bytes and self.size > self._max_bytes)
            or (self._max_cells and len(self._ops) > self._max_cells)
            or (self._max_cells and self._kept > KEPT_MAX)
        ):
            self.clear()
            self.overflowed = True

    def whole(self) -> list[Patch]:
        """The patches that bring a page as it was served to this state."""
        return [op.whole() for op in self._ops.values() if op.patch.action != "message"]

    def since(self, offset: int) -> list[Patch]:
        """The patches that bring a page that has everything up to `offset` to this state."""
        return [
            op.since(offset)
            for op in self._ops.values()
            if op.offset > offset and op.patch.action != "message"
        ]

    def fresh(self, offset: int) -> list[Patch]:
        """The patches for a page whose own HTML already shows everything up to `offset`.

        What is newer, and of the older what stands for itself: the last value set somewhere does no harm where
        the page shows it already, and helps where it does not; a row appended before would be there twice.
        """
        alone = self._alone(offset)
        return [
            op.whole() if key in alone or op.base in alone else op.since(offset)
            for key, op in self._ops.items()
            if key != "message" and (key in alone or op.offset > offset)
        ]

    def _alone(self, offset: int) -> set[Hashable]:
        """Keys of the patches up to `offset` that set back nothing that others have done since."""
        # Content is sent again with all that was added to it, or not at all: known when all of it has been seen.
        left: set[Hashable] = set()
        while True:
            alone, left_now = self._alone_without(left, offset)
            if left_now == left:
                return alone
            left = left_now

    def _alone_without(self, left: set[Hashable], offset: int) -> tuple[set[Hashable], set[Hashable]]:
        """One look at what is left, when it is known that the content of these keys is `left` alone."""
        alone: set[Hashable] = set()
        left = left.copy()
        pieces_behind = False
        brought: set[str] = set()
        for key, op in reversed(self._ops.items()):
            if op.begins > offset:
                continue
            if isinstance(key, int):
                # It has looked at the page as it was then: what is before it stays as it is.
                left |= {op.base for k, op in self._ops.items() if k in alone and op.base is not None} - alone
                break
            adds = op.patch.action in _PIECES and (op.base is None or op.base in left)
            brings = _brings_ids(op.patch)
            if adds or key in left or op.patch.target[1:] in brought or (brings and pieces_behind):
                pieces_behind |= adds
                left.add(key if op.base is None else op.base)
                if brings:
                    brought |= ids_in(str(op.patch.content))
            else:
                alone.add(key)
        return alone, left

    def parts(self) -> list[tuple[int, Patch]]:
        """All of it, each with its offset, and merged text in its parts: applied to an empty state, the same state."""
        found: list[tuple[int, Patch]] = []
        for op in self._ops.values():
            if op.parts:
                found += [
                    (at, Patch(op.patch.action, op.patch.target, part, op.patch.options))
                    for at, part in op.parts
                ]
            else:
                found.append((op.offset, op.patch))
        return found

    def held(self, offset: int) -> list[Held]:
        """All of it but plain strings, with what `fresh` would do for a page that shows what is up to an offset."""
        alone = self._alone(offset)
        return [
            Held(
                op.patch,
                ((op.offset, op.patch.content),) if op.parts is None else tuple(op.parts),
                key in alone or op.base in alone,
            )
            for key, op in self._ops.items()
            if key != "message"
        ]

    @property
    def message(self) -> str | None:
        """The last plain string, or None."""
        op = self._ops.get("message")
        return None if op is None else str(op.patch.content)

    def _add(self, patch: Patch, offset: int) -> None:
        action, target = patch.action, patch.target
        options = patch.options or {}
        if options.get("select") or (action == "attr" and options["name"].lower() == "id"):
            self._keep(patch, offset)
            self._era += 1
            self._contents.clear()
        elif action in ("text", "html"):
            self._set_content(patch, offset)
        elif action in ("append", "prepend"):
            self._add_piece(patch, offset)
        elif action == "append_text":
            self._add_text(patch, offset)
        elif action in ("attr", "class"):
            self._put((self._era, action, target, options["name"]), patch, offset)
        elif action == "value":
            self._put((self._era, action, target), patch, offset)
        elif action in ("title", "message"):
            self._put(action, patch, offset)
        else:
            self._keep(patch, offset)

    def _put(self, key: Hashable, patch: Patch, offset: int) -> _Op:
        self._drop(key)
        op = _Op(patch, offset, _size(patch))
        self._ops[key] = op
        self.size += op.size
        if _brings_ids(patch):
            self._barrier += 1
        return op

    def _drop(self, key: Hashable) -> None:
        op = self._ops.pop(key, None)
        if op is not None:
            self.size -= op.size

    def _keep(self, patch: Patch, offset: int) -> None:
        self._next += 1
        self._kept += 1
        self._barrier += 1
        self._put(self._next, patch, offset)

    def _set_content(self, patch: Patch, offset: int) -> None:
        old = self._contents.get(patch.target)
        if old is not None:
            for piece in (*old.sealed, *old.pieces):
                self._drop(piece)
        key = (self._era, "content", patch.target)
        self._contents[patch.target] = _Content(key, self._kept)
        self._put(key, patch, offset)

    def _content(self, target: str) -> _Content:
        content = self._contents.get(target)
        if content is None:
            content = self._contents[target] = _Content(None, self._kept)
        content.sealed_at(self._kept)
        return content

    def _piece(self, content: _Content, patch: Patch, offset: int) -> tuple[Hashable, _Op]:
        self._next += 1
        key = ("piece", self._next)
        content.pieces[key] = None
        op = self._put(key, patch, offset)
        op.base = content.base
        return key, op

    def _add_piece(self, patch: Patch, offset: int) -> None:
        html = str(patch.content)
        keep = (patch.options or {}).get("keep")
        content = self._content(patch.target)
        if not content.pieces and not content.sealed:
            content.kind, content.keep = patch.action, keep
        elif content.kind != patch.action or content.keep != keep:
            content.simple = False
        root = None
        if content.simple and (keep is not None or "id" in html):
            single, root = root_of(html)
            # without keep nothing is counted, so only what carries ids must be one node
            content.simple = single
        if root is not None:
            older = content.by_root.pop(root, None)
            if older is not None and content.simple:
                self._drop(older)
                content.pieces.pop(older, None)
        key, op = self._piece(content, patch, offset)
        op.root = root
        if root is not None:
            content.by_root[root] = key
        if content.simple and keep is not None:
            if len(content.pieces) >= keep:
                for older_piece in content.sealed:
                    self._drop(older_piece)
                content.sealed.clear()
            while len(content.pieces) > keep:
                oldest = next(iter(content.pieces))
                del content.pieces[oldest]
                gone = self._ops[oldest].root
                if gone is not None:
                    content.by_root.pop(gone, None)
                self._drop(oldest)

    def _add_text(self, patch: Patch, offset: int) -> None:
        text = str(patch.content)
        content = self._content(patch.target)
        last = next(reversed(content.pieces), None)
        if last is not None:
            op = self._ops[last]
            # Merging moves the text to the place of the earlier one: wrong only if something in between
            # could have brought a new element of that id.
            if op.parts is not None and op.barrier == self._barrier:
                op.parts.append((offset, text))
                op.offset = offset
                op.size += len(text)
                self.size += len(text)
                return
        content.simple = False
        _, op = self._piece(content, patch, offset)
        op.parts = [(offset, text)]
        op.barrier = self._barrier


def compact(patches: Iterable[Patch]) -> list[Patch]:
    """The shortest list of patches with the same effect; effects (``navigate reload dispatch``) stay in order.

    An effect can look at the page, so nothing is merged across one.
    """
    out: list[Patch] = []
    state = State()
    for patch in patches:
        if patch.action in EFFECTS:
            out += state.whole()
            out.append(patch)
            state.clear()
        else:
            state._add(patch, 0)
    return out + state.whole()


def _size(patch: Patch) -> int:
    return len(patch.target) + _OVERHEAD + (len(patch.content) if isinstance(patch.content, str) else 8)


def _brings_ids(patch: Patch) -> bool:
    """Whether the patch can bring an element with an id into the page."""
    return patch.action in ("html", "append", "prepend") and "id" in str(patch.content)


def ids_in(html: str) -> set[str]:
    """All ids in a piece of HTML, and perhaps some that are none."""
    return {unescape(a or b or c) for a, b, c in _ID.findall(html)}


class _Roots(HTMLParser):
    """Counts the top-level nodes of a piece of HTML and notes the id of the first."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.depth = 0
        self.nodes = 0
        self.id: str | None = None
        self.odd = False
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self.open:
            self.nodes += 1
            if self.nodes == 1:
                self.id = dict(attrs).get("id")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)  # "/>" means nothing on an HTML element

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.odd = True

    def handle_data(self, data: str) -> None:
        if not self.open and data.strip():
            self.nodes += 1

    def handle_comment(self, data: str) -> None:
        self.odd = True

    def handle_decl(self, decl: str) -> None:
        self.odd = True

    def handle_pi(self, data: str) -> None:
        self.odd = True

    def unknown_decl(self, data: str) -> None:
        self.odd = True


def root_of(html: str) -> tuple[bool, str | None]:
    """Whether the HTML is one plain node, and that node's id."""
    if "<" not in html and "&" not in html:
        return bool(html.strip()), None
    parser = _Roots()
    try:
        parser.feed(html)
        parser.close()
    except AssertionError:  # some that is none, such as "<![x", is more than the parser of Python takes
        return False, None
    if parser.odd or parser.open or parser.nodes != 1:
        return False, None
    return True, parser.id or None
