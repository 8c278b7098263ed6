"""A terminal's screen as rows of HTML: what a command has written, colours and moved cursors and all.

pyte keeps the screen. It is fed with nothing but what it is known to take, for it fails, or eats what follows, on
some of what real programs write: `Filter` leaves out titles, links, clipboard and device strings, private sequences,
and characters without a width; so a program can neither disturb the page nor break the terminal.

A row that scrolls off the top is final. What is still on the screen may change.
"""

from __future__ import annotations

import re
import unicodedata
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import pyte
from markupsafe import Markup, escape
from pyte.graphics import FG_BG_256
from wcwidth import wcwidth

_TOKEN = re.compile(
    r"\x1b(?:"
    r"\[(?P<private>[<-?]?)(?P<parameters>[0-9:;]*)(?P<rest>[0-?]*[ -/]*)(?P<final>[@-~])"
    r"|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC, DCS, SOS, PM, APC
    r"|[ -/]+[0-~]"
    r"|(?P<escape>[0-Z\\`-~])"
    r")?"
)
_OPEN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?\Z")
_OPEN_MOST = 65_536  # characters of a sequence that does not end; then it is no sequence
_FINALS = frozenset("@ABCDEFGHJKLMPXadefgmr`")
_ESCAPES = frozenset("DEM78c")
_ALTERNATE = frozenset({47, 1047, 1049})
_MODES = _ALTERNATE | {6, 7, 25}  # of those that pyte knows, not the one that changes the width
_DROPPED = dict.fromkeys([*range(8), *range(14, 27), *range(28, 32), *range(127, 160)])
_MARKS_MOST = 4  # combining marks on one character

_NAMES = ["black", "red", "green", "brown", "blue", "magenta", "cyan", "white"]
_INDEX = {name: i for i, name in enumerate(_NAMES)} | {
    f"bright{name}": i + 8 for i, name in enumerate(_NAMES)
}
_INDEX["bfightmagenta"] = 13  # as pyte 0.8 spells it for backgrounds
PALETTE = [tuple(int(colour[i : i + 2], 16) for i in (0, 2, 4)) for colour in FG_BG_256]


class Filter:
    """Bytes to text that pyte takes. Sequences and characters may be cut anywhere between two calls."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._open = ""
        self._marks = 0

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """The text of what has come; a sequence that is not complete waits for its rest."""
        text = self._open + self._decoder.decode(data, final)
        self._open = ""
        if "\x1b" in text:
            found = _OPEN.search(text, max(0, text.rfind("\x1b") - 1))
            # a string's end may begin with an escape of its own
            start = found.start() if found else -1
            string = _open_string(text)
            start = string if string >= 0 else start
            if start >= 0 and not final and len(text) - start < _OPEN_MOST:
                text, self._open = text[:start], text[start:]
            text = _TOKEN.sub(_known, text)
        text = text.translate(_DROPPED)
        return text if text.isascii() else "".join(self._shown(text))

    def _shown(self, text: str) -> Iterator[str]:
        for char in text:
            if char < "\x7f":
                self._marks = 0
                yield char
                continue
            width = _width(char)
            if width > 0:
                self._marks = 0
                yield char
            elif width == 0 and unicodedata.combining(char) and self._marks < _MARKS_MOST:
                self._marks += 1
                yield char


_STRING = re.compile(r"\x1b[\]PX^_][^\x07\x1b]*(?P<end>\x07|\x1b\\)?")


def _open_string(text: str) -> int:
    """Where a string begins that may still go on, or -1."""
    last = max(_STRING.finditer(text), key=re.Match.end, default=None)
    if last is None or last["end"]:
        return -1
    rest = text[last.end() :]
    return last.start() if rest in ("", "\x1b") else -1


def _known(match: re.Match[str]) -> str:
    if match["escape"]:
        return match[0] if match["escape"] in _ESCAPES else ""
    final = match["final"]
    if not final or match["rest"]:
        return ""
    parameters: str = match["parameters"]
    if match["private"]:
        modes = [mode for mode in parameters.split(";") if mode.isdecimal() and int(mode[:9]) in _MODES]
        if match["private"] != "?" or final not in "hl" or not modes:
            return ""
        return f"\x1b[?{';'.join(modes)}{final}"
    if final not in _FINALS:
        return ""
    if ":" in parameters:
        if final != "m":
            return ""
        parameters = ";".join(map(_plain, parameters.split(";")))
    return f"\x1b[{parameters[:200]}{final}"


def _plain(parameter: str) -> str:
    """A colour with colons as one with semicolons; of another attribute with colons, the attribute."""
    kind, *rest = parameter.split(":")
    if kind in ("38", "48") and rest[:1] == ["2"] and len(rest) >= 4:
        return ";".join([kind, "2", *(part or "0" for part in rest[-3:])])
    if kind in ("38", "48") and rest[:1] == ["5"] and len(rest) == 2:
        return ";".join([kind, "5", rest[1] or "0"])
    return "24" if (kind, rest) == ("4", ["0"]) else kind


@lru_cache(maxsize=4096)
def _width(char: str) -> int:
    return wcwidth(char)


class _Screen(pyte.Screen):
    """A screen that hands out what scrolls off its top, and has an alternate one for full-screen programs."""

    def __init__(self, columns: int, lines: int) -> None:
        self.final: list[Mapping[int, Any]] = []
        self._main: tuple[Any, Any] | None = None
        super().__init__(columns, lines)

    @property
    def on_main(self) -> bool:
        """Whether this is the screen whose rows scroll off."""
        return self._main is None

    def save_cursor(self) -> None:
        self.savepoints.clear()  # else it keeps each of them
        super().save_cursor()

    def reset(self) -> None:
        self._main = None
        super().reset()

    def index(self) -> None:
        top, bottom = self.margins or (0, self.lines - 1)
        if self.cursor.y == bottom and top == 0 and self._main is None:
            self.final.append(self.buffer[0])
        super().index()

    def set_mode(self, *modes: int, **kwargs: Any) -> None:
        if kwargs.get("private") and _ALTERNATE.intersection(modes) and self._main is None:
            self._main = (self.buffer.copy(), (self.cursor.y, self.cursor.x))
            self.buffer.clear()
            self.dirty.update(range(self.lines))
        super().set_mode(*modes, **kwargs)

    def reset_mode(self, *modes: int, **kwargs: Any) -> None:
        super().reset_mode(*modes, **kwargs)
        if kwargs.get("private") and _ALTERNATE.intersection(modes) and self._main is not None:
            buffer, (self.cursor.y, self.cursor.x) = self._main
            self._main = None
            self.buffer.clear()
            self.buffer.update(buffer)
            self.margins = None
            self.dirty.update(range(self.lines))


class Terminal:
    """What a command has written, as rows of HTML.

    Args:
        columns: of the screen; longer lines go on in the next row.
        rows: of the screen.
        bare: a line feed also returns to the line's start, as where no terminal is between.
    """

    def __init__(self, columns: int, rows: int, *, bare: bool = False) -> None:
        self._screen = _Screen(columns, rows)
        self._bare = bare
        self._restart()

    def _restart(self) -> None:
        self._filter = Filter()
        self._stream = pyte.Stream(self._screen)

    def feed(self, data: bytes, *, final: bool = False) -> list[Markup]:
        """Takes output; returns the rows that are final now."""
        text = self._filter.feed(data, final=final)
        if self._bare:
            text = text.replace("\n", "\r\n")
        try:
            self._stream.feed(text)
        except Exception:  # noqa: BLE001 - whatever a hostile program finds in pyte, its output goes on
            self._stream = pyte.Stream(self._screen)
            self._screen.select_graphic_rendition(0)
        gone = [row(line) for line in self._screen.final]
        self._screen.final.clear()
        return gone

    def cut(self) -> list[Markup]:
        """Output has been left out here: what is on the screen is final, and what follows begins anew."""
        gone = [shown for shown in self.rows() if shown] if self._screen.on_main else []
        if self._screen.on_main:
            self._screen.reset()
        self._restart()
        return gone

    def rows(self) -> list[Markup]:
        """The rows of the screen; those below all that is written are empty."""
        shown = [row(self._screen.buffer[y]) for y in range(self._screen.lines)]
        while shown and shown[-1] == _EMPTY:
            shown.pop()
        return shown + [Markup("")] * (self._screen.lines - len(shown))


_EMPTY = Markup("<br>")


def row(line: Mapping[int, Any]) -> Markup:
    """One line of the screen as HTML: escaped, with classes for what it looks like."""
    runs: list[tuple[str, list[str]]] = []
    for x in range(max(line, default=-1) + 1):
        cell = line[x]
        look = _look(*cell[1:])
        if not runs or runs[-1][0] != look:
            runs.append((look, []))
        runs[-1][1].append(cell.data)
    if runs and not runs[-1][0]:
        runs[-1] = ("", ["".join(runs[-1][1]).rstrip(" ")])
    html = "".join(
        f'<span class="{look}">{escape("".join(chars))}</span>' if look else escape("".join(chars))
        for look, chars in runs
    )
    return Markup(html) if html else _EMPTY  # noqa: S704 - escaped above


@lru_cache(maxsize=4096)
def _look(
    foreground: str,
    background: str,
    bold: bool,
    italics: bool,
    under: bool,
    strike: bool,
    reverse: bool,
    *_: Any,
) -> str:
    front = "" if foreground == "default" else str(_nearest(foreground))
    back = "" if background == "default" else str(_nearest(background))
    if reverse:
        front, back = back or "d", front or "d"
    looks = [f"f{front}" if front else "", f"g{back}" if back else ""]
    looks += [n for n, on in (("b", bold), ("i", italics), ("u", under), ("s", strike)) if on]
    return " ".join(filter(None, looks))


@lru_cache(maxsize=4096)
def _nearest(colour: str) -> int:
    """The number of a colour among the 256, or of the nearest to it."""
    if colour in _INDEX:
        return _INDEX[colour]
    rgb = [int(colour[i : i + 2], 16) for i in (0, 2, 4)]
    return min(range(16, 256), key=lambda i: sum((a - b) ** 2 for a, b in zip(PALETTE[i], rgb, strict=True)))


def colours() -> str:
    """The style sheet of colours 16 to 255; the first sixteen are the page's own."""
    rules = []
    for number in range(16, 256):
        light = _luminance(PALETTE[number])
        text = "#000" if light > 0.3 else "#fff"
        rules.append(f".g{number}{{background:{_hex(PALETTE[number])};color:{text}}}")
    for number in range(16, 256):
        rgb = PALETTE[number]
        dark, bright = rgb, rgb
        while _luminance(dark) > 0.18:  # to be read on white
            dark = tuple(int(part * 0.92) for part in dark)
        while _luminance(bright) < 0.16:  # and on black
            bright = tuple(min(255, int(part * 1.06) + 6) for part in bright)
        rules.append(f".f{number}{{color:light-dark({_hex(dark)},{_hex(bright)})}}")
        rules.append(f"[class*=g].f{number}{{color:{_hex(rgb)}}}")
    return "\n".join(rules)


def _hex(rgb: tuple[int, ...]) -> str:
    return "#" + "".join(f"{part:02x}" for part in rgb)


def _luminance(rgb: tuple[int, ...]) -> float:
    # https://www.w3.org/TR/WCAG22/#dfn-relative-luminance
    linear = [(p / 255 / 12.92) if p <= 10 else ((p / 255 + 0.055) / 1.055) ** 2.4 for p in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
