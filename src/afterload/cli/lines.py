"""Blocks as a terminal and programs behind it are given them: one way of writing a function.

Each yields what is written for a block, in pieces: the text, and its line end, which only text that goes on has not.
What came from a page is data of somebody's: to a terminal none of its control characters goes as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from .hubs import plain
from .wires import Block

_MARKUP = frozenset({"html", "append", "prepend", "replace", "before", "after"})
_CONTENTS = frozenset({"text", "value", "append_text"})
_SHOWN = frozenset(
    {"text", "value", "append_text", "html", "append", "prepend"}
)  # without a word of their own
# In the midst of a word; what any other element holds stands apart.
_INLINE = frozenset(
    "a abbr b bdi bdo cite code data dfn em i kbd mark q s samp small span strong sub sup time u var".split()
)
_HIDDEN = frozenset({"script", "style", "template"})
# What a terminal needs for some scripts and numbers, and does nothing but show.
_HARMLESS = frozenset("\t\u00a0\u200c\u200d\u202f")


Piece = tuple[str, str]


def for_people(block: Block, terminal: bool) -> Iterator[Piece]:
    """A line for each patch: its target and what is shown there; a plain string as it is."""
    if block.event == "message":
        yield _text(block.data[0], terminal), "\n"
    elif block.event in ("patch", "snapshot"):
        for _, _, patches, *_ in block.data:
            for patch in patches:
                yield _line(*patch), "\n"


def contents(block: Block, terminal: bool) -> Iterator[Piece]:
    """Plain strings, and what elements show; text that is added to other text goes on in its line."""
    if block.event == "message":
        yield _text(block.data[0], terminal), "\n"
    elif block.event in ("patch", "snapshot"):
        for _, _, patches, *_ in block.data:
            for action, _, content, *_ in patches:
                if action in _MARKUP or action in _CONTENTS:
                    yield _text(_shown(action, content), terminal), "" if action == "append_text" else "\n"


def for_programs(block: Block, terminal: bool) -> Iterator[Piece]:
    """A JSON object on a line for each patch, plain string, and whatever else a page would act on.

    The last one of a block has its position, as ``id``: whoever has dealt with it has everything up to there.
    """
    records = list(_records(block))
    if records and block.id:
        records[-1]["id"] = block.id
    for record in records:
        # ASCII, so without the control characters of C1; JSON leaves DEL as it is.
        yield json.dumps(record).replace("\x7f", "\\u007f"), "\n"


def _records(block: Block) -> Iterator[dict[str, Any]]:
    if block.event == "message":
        yield {"event": "message", "text": block.data[0]}
    elif block.event in ("patch", "snapshot"):
        for channel, _, patches, *_ in block.data:
            if block.event == "snapshot":
                yield {"event": "snapshot", "channel": channel}
            for action, target, content, *options in patches:
                what = {"action": action, "target": target, "content": content}
                yield {"event": "patch", "channel": channel, **what, **(options[0] if options else {})}
    elif block.event in ("reset", "refresh", "end"):
        yield {"event": block.event, **block.data[0]}


def _line(action: str, target: str, content: Any, options: dict[str, Any] | None = None) -> str:
    options = options or {}
    words = [target] if target else []
    if action == "attr":
        words.append(options.get("name", ""))
    elif action not in _SHOWN:
        words.append(action)
    if action == "dispatch":
        words.append(options.get("name", ""))
    if action == "class":
        shown = ("+" if content else "-") + options.get("name", "")
    elif action == "dispatch":
        shown = json.dumps(content, ensure_ascii=False)
    else:
        shown = "" if content is None else _shown(action, content)
    said = " ".join(words) + (f": {shown}" if shown else ":" if action in _SHOWN else "")
    return _safe(said)


def _shown(action: str, content: Any) -> str:
    return without_tags(content) if action in _MARKUP else str(content)


def _text(text: str, terminal: bool) -> str:
    return "\n".join(map(_safe, text.split("\n"))) if terminal else text


def _safe(text: str) -> str:
    return text if text.isprintable() else "".join(c if c in _HARMLESS else plain(c) for c in text)


def without_tags(markup: str) -> str:
    """The text that markup shows, on one line.

    Example:
        >>> without_tags("<li id=o1><b>Tom</b>&#32;&amp; Ann<br><time>12:00</time></li>")
        'Tom & Ann 12:00'
    """
    if "<" not in markup and "&" not in markup:
        return markup
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    return " ".join("".join(reader.found).split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._apart(tag)
        if tag in _HIDDEN:
            self._hidden += 1
        if tag == "img":
            self.found.append(dict(attrs).get("alt") or "")

    def handle_endtag(self, tag: str) -> None:
        self._apart(tag)
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.found.append(data)

    def _apart(self, tag: str) -> None:
        if tag not in _INLINE:
            self.found.append(" ")
