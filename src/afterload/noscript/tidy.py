"""Pieces of HTML, brought into a form that ends where it should; and what there is to be read of them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from html.parser import HTMLParser

from markupsafe import escape

from ..state import VOID, root_of

MOST = 16_384  # characters of a piece; longer ones are left out
ADDED_MOST = 4000  # characters of what was added to one element; the oldest go first

# Their content is no HTML, or is not shown, or is not ours to touch.
OTHER = frozenset(
    "iframe math noembed noframes noscript object plaintext script select style svg template textarea title xmp".split()
)
_ATTRIBUTE_NAME = re.compile(r"[a-z_:][-a-z0-9_:.]*", re.ASCII)
_LINES = frozenset(
    "address article aside blockquote br dd div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header "
    "hr li main nav ol p pre section table tr ul".split()
)
_NOT_IN_ITSELF = frozenset("dd dt li option p td th tr".split())
_LEFT_OUT = "…"


class _Tidy(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html: list[str] = []
        self.text: list[str] = []
        self._opened: list[str] = []
        self._left_out = 0
        self.feed(html)
        self.close()
        while self._opened:
            self.handle_endtag(self._opened[-1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._opened and self._opened[-1] == tag and tag in _NOT_IN_ITSELF:
            self.handle_endtag(tag)
        if tag not in VOID:
            self._opened.append(tag)
            self._left_out += tag in OTHER
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
            self._left_out -= last in OTHER
            if last == tag:
                return

    def handle_data(self, data: str) -> None:
        if not self._left_out:
            self.html.append(str(escape(data)))
            self.text.append(re.sub(r"[ \t\n\f\r]+", " ", data))


class Piece:
    """A piece of content.

    Args:
        content: what was said.
        is_html: it is markup, or else a text.

    Attributes:
        name: the id of its element, if it is one that has one.
    """

    def __init__(self, content: str, is_html: bool) -> None:
        if len(content) > MOST:
            content, is_html = _LEFT_OUT, False
        self.content = content
        self.is_html = is_html
        self.name = root_of(content)[1] if is_html and "id" in content else None

    @cached_property
    def _tidied(self) -> tuple[str, str]:
        if self.is_html:
            try:
                tidy = _Tidy(self.content)
                return "".join(tidy.html), "".join(tidy.text)
            except (
                AssertionError
            ):  # some that is none, such as "<![x", is more than the parser of Python takes
                pass
        return str(escape(self.content)), self.content

    @property
    def html(self) -> str:
        """It as markup that ends where it should, without what is no markup inside (scripts, styles, …)."""
        return self._tidied[0]

    @property
    def text(self) -> str:
        """What there is to be read of it."""
        return self._tidied[1]


class Pieces:
    """Pieces that stand in a row."""

    __slots__ = ("_row", "_size")

    def __init__(self) -> None:
        self._row: deque[Piece] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._row)

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._row)

    def clear(self) -> None:
        """Takes all of them away."""
        self._row.clear()
        self._size = 0

    def add(self, piece: Piece, front: bool = False, most: int | None = None) -> None:
        """One more at an end; at the other one, those that are too many or too long go."""
        (self._row.appendleft if front else self._row.append)(piece)
        self._size += len(piece.content)
        while len(self._row) > 1 and (self._size > ADDED_MOST or (most and len(self._row) > most)):
            self._size -= len((self._row.pop if front else self._row.popleft)().content)

    def drop(self, name: str) -> bool:
        """Takes the one of that id away; whether it was there."""
        gone = [piece for piece in self._row if piece.name == name]
        for piece in gone:
            self._row.remove(piece)
            self._size -= len(piece.content)
        return bool(gone)

    @property
    def html(self) -> str:
        """All of them as markup."""
        return "".join([piece.html for piece in self._row])

    @property
    def text(self) -> str:
        """What there is to be read of them."""
        return "".join([piece.text for piece in self._row])
