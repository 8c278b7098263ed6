"""The page of `afterload run`: the app that serves it, and the thread that brings the output to it.

Whoever opens it late gets the last lines, as the channel is written by one loop from its beginning (`Hub.begin`).
"""

from __future__ import annotations

import hmac
import ipaddress
import math
import os
import re
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flask import Flask, Response, abort, request
from markupsafe import Markup

from ..flask import Live
from ..patch import append, attr, text, title
from .command import Output, Piece
from .terminal import Terminal, colours

CHANNEL = "output"
_TURN = 0.1  # seconds from one publish to the next
# Rows that a page is given at once after it had few, and rows a second where that goes on: nobody reads as fast, and a
# page of 2,000 rows stays usable (at 3,000 a second it did not answer for seconds).
BURST, RATE = 300, 300
_ROW_BYTES = 200  # that are taken for each row; most need fewer, some are more than one row then
_BYTES = 32_768  # taken in one turn: what pyte can do beside a command that wants the CPU
_LINE_END = re.compile(r"\s*\n\s*")
_ROW = Markup('<div class="row{}">{}</div>')
_GAP = Markup('<div class="gap">{} left out here</div>')
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types afterload"
)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Pace:
    """How many rows a page is given: a burst at once, and for good no more than a reader's browser can take.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._rows = float(BURST)

    def rows(self) -> int:
        """Rows that may be given now; less than 1 where a page was given more than it should have been."""
        now = self._clock()
        self._rows = min(BURST, self._rows + (now - self._at) * RATE)
        self._at = now
        return math.floor(self._rows)

    def given(self, rows: int) -> float:
        """Says how many were given; returns the seconds until some may be given again."""
        # Form feeds and the like can make thousands of rows of few bytes; they do not stop the page for minutes.
        self._rows = max(self._rows - rows, -RATE)
        return max(_TURN, (1 - self._rows) / RATE)


class Show:
    """A command's page.

    Args:
        arguments: the command, for the page to say.
        columns: width of its terminal.
        rows: height of its terminal; 0 where it has pipes.
        lines: as many are kept for those who come late.
        host: the address that is listened on.
        port: the port.
        token: what a viewer has to show; None where only this machine can come.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        columns: int,
        rows: int,
        lines: int,
        host: str,
        port: int,
        token: str | None,
    ) -> None:
        self.name = _name(arguments)
        self._keep = lines
        self._left_bytes = self._left_lines = 0
        if rows:
            self._terminals = {1: Terminal(columns, rows)}
        else:
            self._terminals = {n: Terminal(columns, 1, bare=True) for n in (1, 2)}
        self._ids = [
            (stream, row, f"#s{stream}-{row}") for stream in self._terminals for row in range(rows or 1)
        ]
        self._shown: dict[str, Markup] = {}
        self._over = threading.Event()
        self.app = Flask(__name__)
        # Rows are bounded by `keep`, and each by the width, so bytes need no bound of their own.
        # Two commands that run at the same time are not one app.
        name = f"run-{os.getpid()}"
        self.live = Live(
            self.app, namespace=name, state_bytes=0, state_cells=lines + 2 * len(self._ids) + 100
        )
        self.live.hub.begin(CHANNEL)
        _guard(self.app, host, port, token)
        ids = [(target[1:], stream) for stream, _, target in self._ids]

        @self.app.get("/")
        def page() -> Response:
            return self.live.page("run.html", CHANNEL, name=self.name, ids=ids, keep=lines)

        @self.app.get("/colours.css")
        def palette() -> Response:
            return Response(colours(), mimetype="text/css")

    def follow(self, output: Output) -> None:
        """Brings the output to the page, in a thread of its own, until its end."""
        threading.Thread(target=self._publish, args=(output,), name="page", daemon=True).start()

    def end(self, status: int, seconds: float) -> str:
        """Says how it ended, once all output is on its way; returns what is said."""
        self._over.wait()
        said = f"{ending(status)} after {duration(seconds)}"
        mark = "✓" if status == 0 else "✗"
        self.live.publish(
            CHANNEL,
            text("#result", said),
            attr("#result", "data-ok", "yes" if status == 0 else "no"),
            title(_clean(f"{mark} {ending(status)} · {self.name}")),
        )
        self.live.hub.finish(CHANNEL, "done" if status == 0 else "failed", said)
        return said

    def _publish(self, output: Output) -> None:
        pace = Pace()
        try:
            while True:
                # At the end what is left is bounded, and waited for.
                rows = max(BURST, self._keep // 10) if output.finished else max(1, pace.rows())
                pieces = output.take(min(_BYTES, rows * _ROW_BYTES), rows)
                if pieces is None:
                    break
                began = time.monotonic()
                wait = pace.given(self._show(pieces))
                time.sleep(max(0.0, (_TURN if output.finished else wait) - (time.monotonic() - began)))
            final = [
                _ROW.format("" if stream == 1 else " err", row)
                for stream, terminal in self._terminals.items()
                for row in terminal.feed(b"", final=True)
            ]
            self._send(final)
        finally:
            output.finish()  # where this failed, the command must not wait for it
            self._over.set()

    def _show(self, pieces: list[Piece]) -> int:
        final: list[Markup] = []
        for piece in pieces:
            if piece.left_bytes:
                self._left_bytes += piece.left_bytes
                self._left_lines += piece.left_lines
                for stream, terminal in self._terminals.items():
                    final += self._rows(stream, terminal.cut())
                final.append(_GAP.format(_amount(piece.left_bytes, piece.left_lines)))
            else:
                final += self._rows(piece.stream, self._terminals[piece.stream].feed(piece.data))
        self._send(final)
        return len(final)

    def _rows(self, stream: int, rows: list[Markup]) -> Iterator[Markup]:
        return (_ROW.format("" if stream == 1 else " err", row) for row in rows)

    def _send(self, final: list[Markup]) -> None:
        things: list[Any] = [append("#past", row, keep=self._keep) for row in final[-self._keep :]]
        rows = {stream: terminal.rows() for stream, terminal in self._terminals.items()}
        for stream, row, target in self._ids:
            now = rows[stream][row]
            if self._shown.get(target, "") != now:
                self._shown[target] = now
                things.append(text(target, now))
        if self._left_bytes:
            left = (
                f"{_amount(self._left_bytes, self._left_lines)} left out: it came faster than a page can show"
            )
            if self._shown.get("#left") != left:
                self._shown["#left"] = Markup(left)  # noqa: S704 - our own words
                things.append(text("#left", left))
        if things:
            self.live.publish(CHANNEL, *things)


def _guard(app: Flask, host: str, port: int, token: str | None) -> None:
    """Lets in only who may see it. Another site's page could reach us by a name of its own (DNS rebinding)."""
    names = {
        f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host)
    }
    names |= {name.removesuffix(":80") for name in names if port == 80}
    cookie = f"afterload-run-{port}"  # cookies are of a host, whatever the port

    @app.before_request
    def check() -> None:
        if token is None:
            if request.headers.get("Host", "").lower() not in names:
                abort(403, "This page is served to this machine only, under localhost or its address.")
            return
        shown = [request.args.get("token", ""), request.cookies.get(cookie, "")]
        if not any(hmac.compare_digest(one.encode("utf-8", "replace"), token.encode()) for one in shown):
            abort(403, "The URL needs the token that was printed with it.")

    @app.after_request
    def seal(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        if token is not None and response.status_code == 200 and "token" in request.args:
            # No redirect to hide the token: after a link in a message, it would come without the strict cookie.
            response.set_cookie(cookie, token, httponly=True, samesite="Strict")
        return response


def ending(status: int) -> str:
    """How a command ended, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ended by signal {-status}"


def duration(seconds: float) -> str:
    """A duration for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _amount(size: int, lines: int) -> str:
    number = float(size)
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            break
        number /= 1000
    shown = f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
    return f"{lines:,} lines ({shown})"


def _name(arguments: Sequence[str]) -> str:
    """The command on one line: a script that is an argument may have several."""
    return shlex.join(_LINE_END.sub(" ↵ ", one.strip()) if "\n" in one else one for one in arguments)


def _clean(name: str) -> str:
    return name.encode("utf-8", "replace").decode()
