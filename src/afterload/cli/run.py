"""``afterload run``: a page that follows what a command writes."""

from __future__ import annotations

import argparse
import importlib.util
import queue
import secrets
import signal
import sys
import threading
import time
from typing import Any

from .serve import CannotListenError, add_address, in_url, listen, server_on

PORT = 23424
_COLUMNS, _ROWS = 100, 30
_PATIENCE = 3.0  # seconds that the command has to end after each signal
_FAREWELL = 1.5  # seconds that viewers have to take the end


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "run",
        usage="%(prog)s [options] [--] COMMAND [ARG]...",
        help="run a command and serve a page that follows its output",
        description="Runs a command on a terminal of its own and serves a page that follows its output, which is "
        "written here too. When the command has ended, the page stays until Ctrl-C; the exit status is the command's.",
    )
    add_address(parser, PORT)
    parser.add_argument(
        "--no-pty",
        action="store_true",
        help="give it pipes instead of a terminal; the page then marks what is error output",
    )
    parser.add_argument(
        "--lines",
        type=_lines,
        default=2000,
        help="lines the page keeps, also for those who open it late (default: %(default)s)",
    )
    parser.add_argument(
        "--wait",
        action="store_true",
        help="a command that writes faster than the page shows waits, and nothing is left out",
    )
    parser.add_argument("--quiet", action="store_true", help="do not write the output here too")
    parser.add_argument("--exit", action="store_true", help="end with the command, once viewers have the end")
    parser.add_argument("command", metavar="COMMAND", help="what to run; put -- before it")
    rest = parser.add_argument("arguments", metavar="ARG", nargs=argparse.REMAINDER, help="its arguments")
    rest.required = False  # there may be none, and who forgets the command is not to be asked for them
    parser.set_defaults(run=run)


def _lines(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= 100_000):
        raise argparse.ArgumentTypeError(f"lines are a number from 1 to 100000, not {text!r}")
    return int(text)


def _say(what: str) -> None:
    try:
        print(f"afterload run: {what}", file=sys.stderr, flush=True)
    except OSError:
        pass  # the terminal is closed, and nobody reads it


def run(chosen: argparse.Namespace) -> int:
    """Runs the command, and serves until Ctrl-C, SIGTERM or SIGHUP."""
    for module in ("flask", "pyte"):
        if importlib.util.find_spec(module) is None:
            print("afterload run needs Flask and pyte: pip install 'afterload[run]'", file=sys.stderr)
            return 1
    from .command import Command, Output
    from .show import CHANNEL, Show, is_loopback

    try:
        listener = listen(chosen.host, chosen.port)
    except CannotListenError as error:
        _say(str(error))
        return 1
    # The reader is to get its turn soon, or the command would be slowed by what shows its output.
    sys.setswitchinterval(0.001)
    arguments = [chosen.command, *chosen.arguments]
    output = Output(chosen.lines, wait=chosen.wait)
    happened: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()  # its put() may interrupt its get()
    before = {
        number: signal.signal(number, lambda got, _: happened.put(("signal", got)))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        size = None if chosen.no_pty else (_COLUMNS, _ROWS)
        try:
            command = Command(arguments, output, terminal=size, echo=not chosen.quiet)
        except (OSError, ValueError) as error:
            listener.close()
            _say(f"cannot run {chosen.command!r}: {getattr(error, 'strerror', None) or error}")
            return 127 if isinstance(error, FileNotFoundError) else 126
        token = None if is_loopback(chosen.host) else secrets.token_urlsafe(24)
        show = Show(
            arguments,
            columns=_COLUMNS,
            rows=0 if chosen.no_pty else _ROWS,
            lines=chosen.lines,
            host=chosen.host,
            port=listener.getsockname()[1],
            token=token,
        )
        server = server_on(listener, chosen.host, show.app)
        threading.Thread(target=server.serve_forever, args=(0.1,), name="server", daemon=True).start()
        query = f"?token={token}" if token else ""
        _say(f"http://{in_url(chosen.host)}:{server.port}/{query}")
        show.follow(output)
        command.follow(lambda status: happened.put(("ended", status)))
        status, stopped = _until_the_end(command, happened)
        said = show.end(status, time.monotonic() - command.began)
        if not (stopped or chosen.exit):
            _say(f"{said}; the page stays until Ctrl-C")
            happened.get()
        else:
            _say(said)
        deadline = time.monotonic() + _FAREWELL
        while show.live.viewers(CHANNEL) and time.monotonic() < deadline:
            time.sleep(0.02)
        show.live.close(timeout=0.8)
        server.shutdown()
        return status if status >= 0 else 128 - status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _until_the_end(command: Any, happened: queue.SimpleQueue[tuple[str, int]]) -> tuple[int, bool]:
    """Waits for the command, and ends it when we are asked to end; says its status, and whether we were."""
    steps: list[int] = []
    deadline: float | None = None
    stopped = False
    while True:
        try:
            what, number = happened.get(
                timeout=None if deadline is None else max(0.0, deadline - time.monotonic())
            )
        except queue.Empty:
            what, number = "late", 0
        if what == "ended":
            return number, stopped
        if what == "signal" and not stopped:
            stopped = True
            steps = [number, *(s for s in (signal.SIGTERM, signal.SIGKILL) if s != number)]
        if steps:
            command.signal(steps.pop(0))
            command.signal(signal.SIGCONT)  # what is stopped would not see it
        deadline = time.monotonic() + _PATIENCE if steps else None
