"""The marks that `<template for>` needs, around the content of each element of a page that has an id."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from html import unescape
from operator import itemgetter

from ..state import VOID
from .tidy import OTHER

BARS = frozenset({"meter", "progress"})
_CACHED = 16_384  # characters; longer pages are seldom the same twice
_TAG = re.compile(
    r"<(?:!--.*?(?:-->|\Z)"
    r"|(?P<end>/?)(?P<tag>[a-z][^\s/>]*+)(?P<attributes>(?:[^>\"']|\"[^\"]*\"|'[^']*')*+)(?:>|(?P<open>.*)))",
    re.DOTALL | re.IGNORECASE,
)
_ATTRIBUTE = re.compile(r"""([^\s"'<>/=]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'=<>`]+)))?""")
_SIMPLE_ID = re.compile(r"[A-Za-z_][-\w]*", re.ASCII)
# The first line break in these is none, unless something stands before it.
_BREAK = re.compile(r"\r\n?|\n|&#(?:0*10|x0*a);", re.IGNORECASE)
_BROKEN = frozenset({"listing", "pre"})


@dataclass(frozen=True, slots=True)
class Place:
    """An element of the page as it was served.

    Attributes:
        scale: of a bar, its ``value``, ``min`` and ``max`` as far as they are said.
        start: where its content begins in the page.
        end: where it ends.
    """

    tag: str
    scale: tuple[tuple[str, str], ...] = ()
    start: int = 0
    end: int = 0


def marked(html: str) -> tuple[str, dict[str, Place]]:
    """A page with marks around the content of each of its elements that has a simple id, and these elements.

    Left as they are: those that are not over yet, and those whose content is no HTML.
    """
    return (_cached if len(html) <= _CACHED else _marked)(html)


def _marked(html: str) -> tuple[str, dict[str, Place]]:
    cuts: list[tuple[int, str, str]] = []
    places = _places(html)
    for name, place in places.items():
        if place.tag not in BARS:
            cuts += [(place.start, name, f'<?start name="{name}">'), (place.end, name, "<?end>")]
    pieces: list[str] = []
    starts: dict[str, int] = {}
    moved = {name: place for name, place in places.items() if place.tag in BARS}
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


_cached = lru_cache(maxsize=32)(_marked)


def _places(html: str) -> dict[str, Place]:
    found: dict[str, Place] = {}
    opened: list[tuple[str, dict[str, str], int]] = []
    counts: Counter[str] = Counter()
    at = 0
    while tag := _TAG.search(html, at):
        at = tag.end()
        name = (tag["tag"] or "").lower()
        if not name or tag["open"] is not None:
            continue  # a comment, or there is no end
        if tag["end"]:
            while counts[name]:
                begun, attributes, start = opened.pop()
                counts[begun] -= 1
                if begun == name:
                    if _SIMPLE_ID.fullmatch(attributes.get("id", "")):
                        place = Place(name, _scale(name, attributes), start, tag.start())
                        found.setdefault(attributes["id"], place)
                    break
        elif name in OTHER:
            if not tag["attributes"].endswith("/") or name not in ("math", "svg"):
                end = re.compile(rf"</{name}\b", re.IGNORECASE).search(html, at)
                at = end.start() if end else len(html)
        elif name not in VOID:
            attributes = _attributes(tag["attributes"]) if "id" in tag["attributes"].lower() else {}
            line_break = _BREAK.match(html, at) if name in _BROKEN else None
            opened.append((name, attributes, line_break.end() if line_break else at))
            counts[name] += 1
    return found


def _attributes(tag: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, *values in _ATTRIBUTE.findall(tag):
        found.setdefault(name.lower(), unescape("".join(values)))
    return found


def _scale(tag: str, attributes: dict[str, str]) -> tuple[tuple[str, str], ...]:
    if tag not in BARS:
        return ()
    return tuple((name, attributes[name]) for name in ("value", "min", "max") if name in attributes)
