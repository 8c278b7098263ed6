"""``afterload follow``: a page's stream in a terminal."""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .hubs import CommandError, complain

if TYPE_CHECKING:
    from .wires import Block, Line

_USAGE = "%(prog)s [options] URL"
_WORDS = {"stream": "event stream", "websocket": "WebSocket", "poll": "polls"}
_WIRES = tuple(_WORDS)
_HEARTBEAT = 20.0  # seconds, until the server says
_RETRY = 500  # milliseconds, the same
_LONGEST = 30.0  # seconds between two tries
_BYE = 3600.0  # seconds that a server may ask for at most
_PACE = 0.25  # seconds from one poll to the next, at least
_REDIRECTS = 10
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*)", re.ASCII)
_POSITION = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)
# What the command says itself.
_OURS = frozenset(
    "accept accept-encoding al-close al-wait cache-control connection content-length last-event-id transfer-encoding "
    "upgrade".split()
)
#: Exit statuses by how a channel has ended; of several channels, that of the first here that one of them has.
ENDS = {"failed": 3, "lost": 5, "cancelled": 4, "done": 0}
DENIED, GAVE_UP = 6, 7


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "follow",
        usage=_USAGE,
        help="follow a live page in the terminal",
        description="Follows a live page as a browser does, and prints what comes: a line for each patch, its target "
        "and what is shown there; plain strings as they are. After an interruption it goes on where it was. What "
        "happens is said on stderr.",
        epilog="exit status: 0 everything has ended as done (or --count is reached), 3 failed, 4 cancelled, 5 lost, "
        "6 the page may not be followed (403, 404, a login), 7 gave up, 1 something else hinders it",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--text", action="store_true", help="print plain strings and contents only")
    form.add_argument("--json", action="store_true", help="print a JSON object on each line, for programs")
    parser.add_argument(
        "-H", "--header", metavar="'NAME: VALUE'", action="append", type=_header, default=[],
        help="send this header too, such as 'Cookie: session=...'",
    )  # fmt: skip
    parser.add_argument(
        "--position", metavar="POSITION", type=_position, default="0",
        help="begin behind this position: an \"id\" of --json, or a page's data-position",
    )  # fmt: skip
    parser.add_argument("--count", metavar="N", type=_least(1), help="end after so many lines")
    parser.add_argument(
        "--retries", metavar="N", type=_least(0), help="give up after so many in a row (default: never)"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=10.0,
        help="that the server may take to answer (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--wire", choices=_WIRES,
        help="only this one (default: the event stream; if nothing comes by it, the WebSocket, and then polls)",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="do not say what happens")
    parser.add_argument("url", metavar="URL", help="of the page")
    parser.set_defaults(run=run)


def _header(text: str) -> tuple[str, str]:
    found = _HEADER.fullmatch(text)
    if found is None or not all(c.isprintable() or c == "\t" for c in text):
        raise argparse.ArgumentTypeError(f"a header is 'Name: value', not {text!r}")
    name, value = found.groups()
    if name.lower() in _OURS or name.lower().startswith("sec-websocket-"):
        raise argparse.ArgumentTypeError(f"{name} is what the command sends itself")
    return name, value.strip()


def _position(text: str) -> str:
    if _POSITION.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"a position is 1 to 128 of A-Z a-z 0-9 . _ ~ -, not {text!r}")
    return text


def _least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and int(text[:18]) >= least):
            raise argparse.ArgumentTypeError(f"it is a number from {least}, not {text!r}")
        return int(text[:18])

    return number


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.1 <= found <= 3600:
        raise argparse.ArgumentTypeError(f"seconds are a number from 0.1 to 3600, not {text!r}")
    return found


def run(chosen: argparse.Namespace) -> int:
    """Follows until all is over."""
    try:
        return _Follower(chosen).follow()
    except CommandError as error:
        complain("follow", error)
        return error.status


class _Enough(Exception):  # noqa: N818 - no mistake
    """So many lines as were wanted."""


class _Unwritable(Exception):  # noqa: N818 - stands for one that must not be taken for the line's
    """What is printed goes nowhere."""


class _Refresh(Exception):  # noqa: N818
    """The server cannot say what was missed."""


class _Bye(Exception):  # noqa: N818
    """The server sends away.

    Attributes:
        seconds: after which to come back.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class _Follower:
    """What is known of the page that is followed, and how far it has got."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        from . import lines
        from .wires import Address

        try:
            self._address = Address.of(chosen.url, _joined(chosen.header))
        except ValueError as error:
            raise CommandError(f"{chosen.url!r} is no URL of a page: {error}", 2) from None
        self._write = (
            lines.for_programs if chosen.json else lines.contents if chosen.text else lines.for_people
        )
        self._left: int | None = chosen.count
        self._retries: int | None = chosen.retries
        self._timeout: float = chosen.timeout
        self._quiet: bool = chosen.quiet
        self._wires = [chosen.wire] if chosen.wire else list(_WIRES)
        self._wire = 0
        self._position: str = chosen.position
        self._seqs: dict[str, int] = {}  # channel -> the number of its last entry
        self._open: set[str] = set()
        self._ends: dict[str, str] = {}  # channel -> its status
        self._heartbeat = _HEARTBEAT
        self._retry = _RETRY
        self._redirects = self._failures = self._heals = 0
        self._known = False  # there is such a page
        self._live = False
        self._midline = False

    def follow(self) -> int:
        """Follows until all is over; the exit status.

        Raises:
            CommandError: it cannot go on.
        """
        try:
            while not self._once():
                pass
        except _Enough:
            return 0
        except _Unwritable:
            self._midline = False
            raise BrokenPipeError from None
        finally:
            if self._midline:
                print(flush=True)
        return next((status for end, status in ENDS.items() if end in self._ends.values()), 0)

    def _once(self) -> bool:
        """One request, and what comes of it; whether all is over."""
        from http.client import HTTPException
        from ssl import SSLCertVerificationError

        from . import wires

        line = wires.Line(self._address, self._timeout)
        try:
            return self._connect(line)
        except wires.Over:
            return True
        except wires.Denied as denied:
            raise CommandError(f"denied: {denied}", DENIED) from None
        except wires.Moved as moved:
            self._move(moved.to)
        except wires.Unfit as unfit:
            if len(self._wires) == 1:
                raise CommandError(str(unfit), 1) from None
            self._next(str(unfit))
        except _Bye as bye:
            self._again("the server sends away", bye.seconds * (1 + random.random()))  # noqa: S311 - no secret
        except _Refresh:
            self._begin_anew()
        except TimeoutError:
            if self._live:
                self._again(f"silent for {line.timeout:g} s", 0.0)
            else:
                self._next(f"no answer within {line.timeout:g} s")
        except SSLCertVerificationError as error:
            if not self._known:
                raise CommandError(f"{self._address.host}: {error.verify_message}", 1) from None
            self._again(error.verify_message)
        except wires.Cut as cut:
            self._again(str(cut))
        except HTTPException as error:
            self._again("the connection was cut" if self._live else f"no answer ({type(error).__name__})")
        except OSError as error:
            self._again(error.strerror or str(error) or type(error).__name__)
        return False

    # Requests

    def _connect(self, line: Line) -> bool:
        from . import wires

        wire = self._wires[self._wire]
        began = time.monotonic()
        if wire == "poll":
            # The server waits for news as long as a heartbeat, so after 2.5 of them it is gone.
            if self._live:
                line.wait(2.5 * self._heartbeat)
            found = wires.poll(line, self._position, self._heartbeat if self._live else 0.0)
        else:
            found = (wires.stream if wire == "stream" else wires.websocket)(line, self._position)
        with closing(found) as blocks:
            if self._take_all(line, blocks):
                return True
        if wire != "poll":
            raise wires.Cut(
                "the connection was cut" if self._live else "the answer has ended before it began"
            )
        self._hear([])  # that nothing is new was an answer too
        time.sleep(max(0.0, _PACE - (time.monotonic() - began)))
        return False

    def _begin_anew(self) -> None:
        """Follows from the state on, where a page would fetch its HTML and go on from there.

        HTML cannot be shown here, and behind its position would be missing what is in it already. Who has no position
        is given all that the server still knows.
        """
        # All that follow are told at the same time; one that is told again and again waits longer.
        wait = _backoff(_RETRY, self._heals)
        self._say(
            f"refresh: what was missed is not known any more, the state comes anew; again in {wait:.1f} s"
        )
        self._position, self._live = "0", False
        self._heals += 1
        self._seqs.clear()
        self._ends.clear()
        time.sleep(wait)

    def _move(self, to: str) -> None:
        if self._known:
            raise CommandError(f"denied: it redirects to {to}", DENIED)
        self._redirects += 1
        if self._redirects > _REDIRECTS:
            raise CommandError(f"more than {_REDIRECTS} redirects, the last to {to}", 1)
        try:
            new = self._address.moved(to)
        except ValueError as error:
            raise CommandError(f"it redirects to {to!r}, which is no URL of a page: {error}", 1) from None
        kept = ""
        if not self._address.shares(new) and (self._address.headers or self._position != "0"):
            # They are secrets, and this is somebody else.
            new, self._position = replace(new, headers={}), "0"
            kept = ", without the headers and the position given"
        self._say(f"redirected to {new.url}{kept}")
        self._address = new

    def _next(self, why: str) -> None:
        """The next wire; after the last, the first again, later."""
        self._live = False
        self._wire = (self._wire + 1) % len(self._wires)
        if self._wire == 0:
            self._again(why)
        else:
            self._say(f"{why}; now by {_WORDS[self._wires[self._wire]]}")

    def _again(self, why: str, wait: float | None = None) -> None:
        """Waits for the next try; `wait` is the time that is known already.

        Raises:
            CommandError: there were as many as were wanted.
        """
        self._live = False
        if self._retries is not None and self._failures >= self._retries:
            raise CommandError(f"gave up: {why}", GAVE_UP)
        if wait is None:
            wait = _backoff(self._retry, self._failures)
        self._failures += 1
        self._say(f"{why}; again in {wait:.1f} s")
        time.sleep(wait)

    # Blocks

    def _take_all(self, line: Line, blocks: Iterator[Block]) -> bool:
        from .wires import Cut

        for block in blocks:
            try:
                over = self._take(block)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                raise Cut("a block that cannot be read") from None
            if block.retry is not None:
                self._retry = block.retry
            if over:
                return True
            line.wait(2.5 * self._heartbeat)
        return False

    def _take(self, block: Block) -> bool:
        """Deals with a block; whether all is over."""
        over = False
        match block.event:
            case "hello":
                self._hello(block.data[0])
            case "patch" | "snapshot":
                self._lines(block)
            case "message":
                self._heals = 0
                self._print(block)
            case "reset":
                channel = block.data[0]["channel"]
                self._seqs.pop(channel, None)
                self._print(block)
                self._say(f"reset: {_of(channel)} begins anew")
            case "refresh":
                self._print(block)
                raise _Refresh
            case "end":
                over = self._end(block)
            case "bye":
                raise _Bye(min(_BYE, max(0.0, block.data[0]["retry"] / 1000)))
        if block.id:
            self._position = block.id
        return over

    def _hello(self, detail: dict[str, Any]) -> None:
        if detail["v"] != 1:
            raise CommandError(
                f"the server speaks version {detail['v']!r} of the wire, and this is of version 1", 1
            )
        channels = [str(name) for name in detail["channels"]]
        heartbeat = float(detail["heartbeat"])
        self._heartbeat = min(max(heartbeat, 0.01), 3600.0) if heartbeat > 0 else _HEARTBEAT
        self._open = set(channels)
        self._hear(channels)

    def _hear(self, channels: list[str]) -> None:
        """The server is there, and lets follow."""
        self._known = True
        self._failures = 0
        if not self._live:
            self._live = True
            names = f" {', '.join(map(_of, channels))}" if channels else ""
            self._say(f"follows{names} by {_WORDS[self._wires[self._wire]]}")

    def _lines(self, block: Block) -> None:
        from .wires import Cut

        news: dict[str, int] = {}
        for channel, seq, _, *since in block.data:
            before = since[0] if since else seq - 1
            if block.event == "patch" and channel in self._seqs and before > self._seqs[channel]:
                raise Cut("something between is missing")
            news[channel] = seq
        if block.event == "snapshot" and self._seqs:
            self._say("snapshot: what is shown by now, and not each step that was missed")
        self._print(block)
        self._heals = 0
        self._seqs |= news

    def _end(self, block: Block) -> bool:
        detail = block.data[0]
        channel, status, message = detail["channel"], str(detail["status"]), str(detail.get("message", ""))
        self._print(block)
        self._ends[channel] = status
        self._open.discard(channel)
        self._say(f"{_of(channel)} has ended: {status}" + (f" ({message})" if message else ""))
        return not self._open

    # What is shown

    def _print(self, block: Block) -> None:
        pieces = list(self._write(block, sys.stdout.isatty()))
        try:
            for text, end in pieces:
                if self._midline and end:
                    text = f"\n{text}"
                self._midline = not f"{text}{end}".endswith("\n")
                print(text, end=end)
                if self._left is not None:
                    self._left -= 1
                    if not self._left:
                        raise _Enough
            sys.stdout.flush()
        except BrokenPipeError:
            raise _Unwritable from None
        except OSError as error:
            raise CommandError(f"cannot write: {error.strerror or error}", 1) from None

    def _say(self, what: str) -> None:
        if self._quiet:
            return
        if self._midline and sys.stdout.isatty():
            print(flush=True)
            self._midline = False
        complain("follow", what)


def _joined(headers: list[tuple[str, str]]) -> dict[str, str]:
    """Headers by name; those of one name are one, as a server reads them."""
    found: dict[str, tuple[str, str]] = {}
    for name, value in headers:
        known = found.get(name.lower())
        mark = "; " if name.lower() == "cookie" else ", "
        found[name.lower()] = (name, f"{known[1]}{mark}{value}" if known else value)
    return dict(found.values())


def _backoff(retry: int, failures: int) -> float:
    """Seconds until the next try: full jitter, as all that followed the same server come back to it."""
    most: float = min(_LONGEST, retry / 1000 * 2 ** min(failures, 16))
    return most * random.random()  # noqa: S311 - no secret


def _of(channel: str) -> str:
    return "the page's own loop" if channel == "~" else channel
