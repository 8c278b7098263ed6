"""A command with its output caught: started, read as fast as it writes, and ended with all that it started.

The reader never waits for who shows the output, unless it is asked to: `Output` keeps what is to be shown within a
bound, and drops the oldest beyond it, counted. The command leads a session of its own, so a signal to its process
group reaches all of a pipeline, and Ctrl-C in our terminal reaches the command only through us.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_CHUNK = 16_384  # bytes; what is left out is left out in pieces of this size
_BACKLOG = 1_048_576  # bytes that wait to be shown, at most
# Seconds of silence after the command's end, where something it left behind has its output open, and seconds after
# which it is not listened to even if it goes on.
_AFTERWARDS, _LATEST = 0.5, 3.0
_PIPE_MOST = 1_048_576  # bytes that may be in a pipe, for who has no privileges


@dataclass(slots=True)
class Piece:
    """Some output of one stream (1 or 2), or how much is missing here."""

    stream: int
    data: bytes = b""
    left_bytes: int = 0
    left_lines: int = 0


class Output:
    """What has been read and not been shown yet.

    Args:
        lines: as many wait at most, about.
        wait: who writes waits when it is full; else the oldest is dropped.
    """

    def __init__(self, lines: int, *, wait: bool = False) -> None:
        self._most = lines
        self._wait = wait
        self._pieces: deque[tuple[int, bytes, int]] = deque()
        self._bytes = self._lines = 0
        self._left_bytes = self._left_lines = 0
        self._changed = threading.Condition()
        self._open = True

    def put(self, stream: int, data: bytes) -> None:
        """Adds what was read."""
        lines = data.count(b"\n")
        with self._changed:
            while self._wait and self._open and self._full():
                self._changed.wait()
            self._pieces.append((stream, data, lines))
            self._bytes += len(data)
            self._lines += lines
            while (
                not (self._wait and self._open)
                and self._full(less=self._pieces[0][2])
                and len(self._pieces) > 1
            ):
                _, gone, count = self._pieces.popleft()
                self._bytes -= len(gone)
                self._lines -= count
                self._left_bytes += len(gone)
                self._left_lines += count
            self._changed.notify_all()

    def _full(self, less: int = 0) -> bool:
        return self._bytes > _BACKLOG or self._lines - less > self._most

    @property
    def finished(self) -> bool:
        """Whether all that is to be shown is here."""
        return not self._open

    def hurry(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._wait = False
            self._changed.notify_all()

    def finish(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def take(self, most_bytes: int, most_lines: int) -> list[Piece] | None:
        """Waits for output and takes some, oldest first; None after the last."""
        with self._changed:
            while self._open and not self._pieces:
                self._changed.wait()
            if not self._pieces:
                return None
            taken: list[Piece] = []
            if self._left_bytes:
                stream, data, lines = self._pieces[0]
                # What is shown next begins with a line of its own.
                cut = data.find(b"\n") + 1
                if 0 < cut < len(data):
                    self._pieces[0] = (stream, data[cut:], lines - 1)
                    self._bytes -= cut
                    self._lines -= 1
                    self._left_bytes += cut
                    self._left_lines += 1
                taken.append(Piece(0, b"", self._left_bytes, self._left_lines))
                self._left_bytes = self._left_lines = 0
            while self._pieces and most_bytes > 0 and most_lines > 0:
                stream, data, lines = self._pieces.popleft()
                end = _end(data, lines, most_bytes, most_lines)
                if end < len(data):
                    rest = data[end:]
                    data = data[:end]
                    self._pieces.appendleft((stream, rest, rest.count(b"\n")))
                    lines = data.count(b"\n")
                self._bytes -= len(data)
                self._lines -= lines
                most_bytes -= len(data)
                most_lines -= lines
                taken.append(Piece(stream, data))
            self._changed.notify_all()
            return taken


def _end(data: bytes, lines: int, most_bytes: int, most_lines: int) -> int:
    end = min(len(data), most_bytes)
    if lines > most_lines:
        at = 0
        for _ in range(most_lines):
            at = data.index(b"\n", at) + 1
        end = min(end, at)
    return end


class Command:
    """A command that runs.

    Args:
        arguments: its name and arguments.
        output: where its output goes.
        terminal: columns and rows of its terminal; None for pipes.
        echo: the output is written to our own output and error output too.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self, arguments: Sequence[str], output: Output, *, terminal: tuple[int, int] | None, echo: bool
    ) -> None:
        self.began = time.monotonic()
        self._output = output
        self._echo = echo
        # Nobody types into the page. What is piped to us is for the command.
        stdin = subprocess.DEVNULL if sys.stdin is None or sys.stdin.isatty() else None
        if terminal is None:
            self._process = subprocess.Popen(  # noqa: S603 - running it is the purpose
                arguments,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            assert self._process.stdout is not None
            assert self._process.stderr is not None
            self._files = {self._process.stdout.fileno(): 1, self._process.stderr.fileno(): 2}
            self._theirs = -1
        else:
            columns, rows = terminal
            ours, theirs = pty.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            environment = {
                **os.environ,
                "TERM": "xterm-256color",
                "COLUMNS": str(columns),
                "LINES": str(rows),
            }
            try:
                self._process = subprocess.Popen(  # noqa: S603
                    arguments,
                    stdin=stdin,
                    stdout=theirs,
                    stderr=theirs,
                    env=environment,
                    start_new_session=True,
                    preexec_fn=_take_terminal,  # no thread of ours has started yet
                )
            except (OSError, ValueError):
                os.close(ours)
                os.close(theirs)
                raise
            self._files = {ours: 1}
            # A command may close its output and go on. The terminal that nobody has open would then be at its end, and
            # closing ours would hang it up.
            self._theirs = theirs
        self._exited = threading.Event()
        self._killed = False
        self._lock = threading.Lock()
        self._reaped = False

    def follow(self, ended: Callable[[int], None]) -> None:
        """Reads until the end, in threads of its own; `ended` is called with the exit status (or -signal)."""
        reader = threading.Thread(target=self._read, name="output", daemon=True)
        reader.start()
        threading.Thread(target=self._await, args=(reader, ended), name="command", daemon=True).start()

    def signal(self, number: int) -> None:
        """Sends a signal to the command and what it started, which then does not wait for viewers any more."""
        # What has left the process group may hold the terminal open; it is not waited for any more.
        self._killed |= number == signal.SIGKILL
        self._output.hurry()
        with self._lock:
            if not self._reaped:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)

    def _await(self, reader: threading.Thread, ended: Callable[[int], None]) -> None:
        # Not reaped yet, the number of its process group cannot become another's.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        if self._theirs >= 0:
            os.close(self._theirs)
        self._exited.set()
        reader.join()
        self.signal(signal.SIGHUP)  # to what it left behind, as when a terminal is closed
        self.signal(signal.SIGCONT)
        with self._lock:
            self._reaped = True
            status = self._process.wait()
        self._output.finish()
        ended(status)

    def _read(self) -> None:
        files = dict(self._files)
        ended_at = quiet_since = 0.0
        late = 0  # bytes read since the command's end
        dry = False  # all that the command itself has written has been read
        poll = select.poll()
        for file in files:
            poll.register(file, select.POLLIN)
        while files:
            exited = self._exited.is_set()
            ready = poll.poll(0 if exited and not dry else 100)
            if exited:
                now = time.monotonic()
                ended_at = ended_at or now
                quiet_since = (quiet_since or now) if not ready else 0.0
                dry = dry or not ready or late > _PIPE_MOST * len(files)
                silent = quiet_since and now - quiet_since >= _AFTERWARDS
                if self._killed or silent or (dry and now - ended_at >= _LATEST):
                    break
            for file, _ in ready:
                data = _read_some(file)
                if data:
                    late += len(data) if exited else 0
                    if self._echo:
                        self._pass_on(files[file], data)
                    self._output.put(files[file], data)
                else:
                    poll.unregister(file)
                    del files[file]
        if self._process.stdout is not None and self._process.stderr is not None:
            self._process.stdout.close()
            self._process.stderr.close()
        else:
            self._exited.wait()
            for file in self._files:
                os.close(file)

    def _pass_on(self, file: int, data: bytes) -> None:
        if not os.isatty(file):
            data = data.replace(b"\r\n", b"\n")  # the pseudo-terminal has made two of one
        try:
            while data:
                data = data[os.write(file, data) :]
        except OSError:  # closed, as by `| head`; the page goes on
            self._echo = False


def _read_some(file: int) -> bytes:
    try:
        return os.read(file, _CHUNK)
    except OSError as error:
        if error.errno == errno.EIO:  # how Linux says that the last user of a terminal has gone
            return b""
        raise


def _take_terminal() -> None:
    fcntl.ioctl(1, termios.TIOCSCTTY, 0)
