"""``afterload run`` as a process: what it passes on, how it ends, and who is let in."""

from __future__ import annotations

import http.client
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from afterload.cli.command import Output
from afterload.cli.show import BURST, RATE, Pace
from afterload.wire.sse import Decoder, Event
from tests.servers.process import wait_until

pytestmark = pytest.mark.server

RUN = [sys.executable, "-m", "afterload.cli", "run", "--port", "0"]
BAR = """
import sys, time
for n in range(0, 101, 10):
    print(f"\\r{n:3d}%|{'#' * (n // 10):10}|", end="", file=sys.stderr, flush=True)
    time.sleep(0.02)
print(file=sys.stderr)
"""


class Running:
    """One run, with what it says."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        self.process = subprocess.Popen(
            [*RUN, *arguments],
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.DEVNULL,
                "stderr": subprocess.PIPE,
                **options,
            },
        )
        assert self.process.stderr is not None
        said = self.process.stderr.readline().decode()
        found = re.search(r"http://(.+):(\d+)/(\S*)", said)
        assert found, said
        self.port, self.query = int(found[2]), found[3]

    def said(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline().decode()

    def get(self, path: str = "/", **headers: str) -> tuple[int, str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path, headers={"Accept": "text/html", **headers})
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, body, response.headers

    def stream(
        self, path: str = "/", then: Callable[[], object] = lambda: None, rows: int = 0, **headers: str
    ) -> list[Event]:
        """All that a viewer gets who comes now, until the end, or until that many rows.

        `then` is called when the stream has begun.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", path, headers={"Accept": "text/event-stream", **headers})
        response = connection.getresponse()
        assert response.status == 200
        decoder, events = Decoder(), []
        then()
        while data := response.read1(65536):
            events += decoder.feed(data)
            if any(event.event == "end" for event in events) or 0 < rows <= count(events):
                break
        connection.close()
        return events

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


def count(events: list[Event]) -> int:
    """Rows that were added."""
    return sum(event.data.count('["append","#past"') for event in events)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start_(*arguments: str, **options: Any) -> Running:
        started.append(Running(*arguments, **options))
        return started[-1]

    yield start_
    for run in started:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()
        if run.process.stderr is not None:
            run.process.stderr.close()


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, "--exit", *arguments],
        **{"capture_output": True, "text": True, "check": False, "timeout": 50, **options},
    )


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


@pytest.mark.parametrize("mode", [[], ["--no-pty"]])
def test_output_and_exit_status_are_those_of_the_command(mode: list[str]) -> None:
    done = run(*mode, "--", "sh", "-c", "echo hello; exit 3")
    assert (done.returncode, done.stdout) == (3, "hello\n")
    assert "exit status 3 after" in done.stderr


def test_the_command_has_a_terminal_of_known_size_and_with_no_pty_none() -> None:
    show = "import os; tty = os.isatty(1); print(tty, os.environ['TERM'], *(os.get_terminal_size(1) if tty else ()))"
    assert run("--", sys.executable, "-c", show).stdout == "True xterm-256color 100 30\n"
    assert (
        run("--no-pty", "--", sys.executable, "-c", show, env={**os.environ, "TERM": "x"}).stdout
        == "False x\n"
    )


def test_error_output_stays_error_output_without_a_terminal() -> None:
    done = run("--no-pty", "--", "sh", "-c", "echo out; echo err >&2")
    assert done.stdout == "out\n"
    assert "\nerr\n" in done.stderr


def test_what_is_piped_in_reaches_the_command() -> None:
    assert run("--", "tr", "a-z", "A-Z", input="shout").stdout == "SHOUT"


def test_a_command_may_have_any_arguments() -> None:
    assert run("echo", "-n", "--port", "--", "x").stdout == "--port -- x"
    assert run("--", "echo", "--", "x").stdout == "-- x\n"


@pytest.mark.parametrize(("command", "status"), [("/nonexistent/command", 127), ("/", 126)])
def test_a_command_that_cannot_be_run_is_said(command: str, status: int) -> None:
    done = run("--", command)
    assert done.returncode == status
    assert done.stderr.startswith(f"afterload run: cannot run {command!r}: ")
    assert done.stderr.count("\n") == 1


CLOSE = (
    "import os, sys, time; os.close(1); os.close(2); time.sleep(0.3); open(sys.argv[1], 'w').write('done')"
)


@pytest.mark.parametrize("mode", [[], ["--no-pty"]])
@pytest.mark.parametrize(
    "command",
    [
        ["sh", "-c", 'echo hi; exec > "$1.log" 2>&1; sleep 0.3; echo log; printf done > "$1"', "sh"],
        [sys.executable, "-c", CLOSE],
    ],
)
def test_a_command_may_close_its_output_and_go_on(
    mode: list[str], command: list[str], tmp_path: Path
) -> None:
    done = run(*mode, "--", *command, str(tmp_path / "reached"))
    assert (done.returncode, (tmp_path / "reached").read_text()) == (0, "done"), done.stderr
    assert "exit status 0 after" in done.stderr


MANY = r"""
import sys, threading
from afterload.cli.command import Command, Output
for command in (["true"], ["sleep", "0.01"], ["echo", "the end"], ["sh", "-c", "echo the end; exec >&- 2>&-"]):
    for _ in range(100):
        output, ended, status = Output(100), threading.Event(), []
        started = Command(command, output, terminal=(80, 24), echo=False)
        started.follow(lambda got: (status.append(got), ended.set()))
        ended.wait()
        text = b""
        while (pieces := output.take(1000, 10)) is not None:
            text += b"".join(piece.data for piece in pieces)
        assert status == [0], (command, status)
        assert text == (b"the end\r\n" if "the end" in str(command) else b""), (command, text)
"""


def test_no_command_is_hung_up_at_its_end_or_loses_its_last_output() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", [[], ["--no-pty"]])
def test_what_a_command_leaves_behind_does_not_keep_the_run_going(mode: list[str], tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"(while :; do echo still; sleep 0.02; done) & echo $! > {pid}; echo done; exit 4"
    done = run(*mode, "--", "sh", "-c", script)
    assert done.returncode == 4
    assert "done\n" in done.stdout
    wait_until(lambda: not alive(int(pid.read_text())), 10, "the end of what was left")


def test_a_signal_that_ended_the_command_is_named() -> None:
    done = run("--", "sh", "-c", "kill -SEGV $$")
    assert done.returncode == 128 + signal.SIGSEGV
    assert "ended by SIGSEGV" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("mode", [[], ["--no-pty"]])
def test_it_ends_with_the_command_and_all_it_has_started(
    start: Callable[..., Running], mode: list[str], number: signal.Signals, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    running = start(*mode, "--", "sh", "-c", f"sleep 600 & echo $$ $! > {pids}; wait; sleep 600")
    wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"), 10, "the command")
    assert running.end(number) == 128 + number
    started = [int(pid) for pid in pids.read_text().split()]
    wait_until(lambda: not any(alive(pid) for pid in started), 10, "the end of all of it")


def test_a_command_that_ignores_all_but_the_last_is_killed(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    up = tmp_path / "up"
    running = start("--", "sh", "-c", f"trap '' INT TERM HUP; echo > {up}; while :; do sleep 1; done")
    wait_until(up.exists, 10, "the command")
    assert running.end() == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_watches_is_told_the_end_however_it_ends(
    start: Callable[..., Running], number: signal.Signals
) -> None:
    running = start("--", "sh", "-c", "while :; do echo line; sleep 0.01; done")
    events = running.stream(then=lambda: running.process.send_signal(number))
    assert events[-1].event == "end"
    assert f"ended by {number.name}" in events[-1].data
    assert running.process.wait(20) == 128 + number


def test_a_terminal_that_is_closed_ends_the_command(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(
            RUN[0], [*RUN, "--", "sh", "-c", f"echo $$ > {pid_file}; while :; do echo x; sleep 0.05; done"]
        )
    wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"), 20, "the command")
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert not alive(int(pid_file.read_text()))


def test_who_comes_late_gets_the_last_lines_and_the_end(start: Callable[..., Running]) -> None:
    running = start("--lines", "50", "--", "seq", "1", "1000")
    assert "exit status 0" in running.said()
    events = running.stream()
    data = "\n".join(event.data for event in events)
    assert [n for n in range(1, 1001) if f'row\\">{n}\\u003c/div>' in data] == [*range(922, 972)]
    assert [event.event for event in events][-1] == "end"
    assert '"done"' in data
    assert running.end() == 0


def test_a_burst_loses_nothing(start: Callable[..., Running]) -> None:
    running = start("--", "seq", "1", "1900")
    assert "exit status 0" in running.said()
    data = "\n".join(event.data for event in running.stream())
    assert [int(n) for n in re.findall(r'row\\">(\d+)\\u003c/div>', data)] == [*range(1, 1872)]
    assert [n for n in range(1872, 1901) if f'","{n}"]' in data] == [*range(1872, 1901)]
    assert "left out" not in data


@pytest.mark.parametrize(
    "arguments",
    [["yes"], ["--wait", "yes"], ["--no-pty", "yes"], ["base64", "-w", "0", "/dev/urandom"]],
)
def test_a_flood_is_brought_no_faster_than_a_page_can_take(
    start: Callable[..., Running], arguments: list[str]
) -> None:
    began = time.monotonic()
    running = start("--quiet", *arguments)
    rows = count(running.stream(rows=1000))
    # What one turn has beyond its due, long lines and the screen before a gap, is taken off the next.
    assert 1000 <= rows <= BURST + RATE * (time.monotonic() - began) + 200


def test_a_pace_is_kept_whatever_comes() -> None:
    now, given = 0.0, 0
    pace = Pace(lambda: now)
    for turn in range(1000):
        rows = max(1, pace.rows())
        assert rows <= BURST
        rows = rows * 2 if turn % 7 == 0 else rows
        given += rows
        now += pace.given(rows)
        assert given <= BURST + RATE * now + 1
    now += 10
    assert pace.rows() == BURST


def test_a_flood_neither_stops_nor_grows_and_what_is_left_out_is_said(start: Callable[..., Running]) -> None:
    running = start("--lines", "200", "--", "sh", "-c", "yes | head -c 6000000; echo the end")
    assert "exit status 0" in running.said()
    data = "\n".join(event.data for event in running.stream())
    assert "left out: it came faster than a page can show" in data
    assert "the end" in data
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak
    assert int(peak[1]) < 120_000


def test_who_waits_loses_nothing() -> None:
    output = Output(10, wait=True)
    lines = [b"%d\n" % n for n in range(500)]

    def write() -> None:
        for line in lines:
            output.put(1, line)
        output.finish()

    threading.Thread(target=write, daemon=True).start()
    taken = []
    while (pieces := output.take(100, 7)) is not None:
        assert not any(piece.left_bytes for piece in pieces)
        taken += [piece.data for piece in pieces]
    assert b"".join(taken) == b"".join(lines)


def test_what_is_left_out_is_counted() -> None:
    output = Output(10)
    for n in range(100):
        output.put(1, b"%02d\n" % n)
    output.finish()
    taken = []
    while (pieces := output.take(1000, 4)) is not None:
        taken += pieces
    gap, *rest = taken
    assert gap.left_bytes + sum(len(piece.data) for piece in rest) == 300
    assert gap.left_lines + sum(piece.data.count(b"\n") for piece in rest) == 100
    assert rest[-1].data == b"99\n"


def test_at_the_end_as_many_lines_are_there_as_are_kept() -> None:
    output = Output(2000)
    for _ in range(20):
        output.put(1, b"y\n" * 1365)
    output.finish()
    lines = 0
    while (pieces := output.take(10_000, 300)) is not None:
        lines += sum(piece.data.count(b"\n") for piece in pieces)
    assert 2000 <= lines <= 2000 + 1365


def test_another_name_for_this_machine_is_refused(start: Callable[..., Running]) -> None:
    running = start("--", "true")
    port = running.port
    for name in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST"):
        assert running.get(Host=f"{name}:{port}")[0] == 200
    for name in (
        "evil.example",
        f"evil.example:{port}",
        "localhost",
        "127.0.0.1:1",
        f"localhost.evil.example:{port}",
    ):
        assert running.get(Host=name)[0] == 403
        assert running.get("/static/run.css", Host=name)[0] == 403
        assert running.get(Host=name, Accept="text/event-stream")[0] == 403


def test_who_comes_over_the_network_needs_the_token(start: Callable[..., Running]) -> None:
    running = start("--host", "0.0.0.0", "--", "echo", "secret")
    assert running.query.startswith("?token=")
    for path in ("/", "/?token=", "/?token=wrong", "/?token=%ff%ed%a0%80", "/colours.css"):
        assert running.get(path)[0] == 403
    assert running.get(Accept="text/event-stream")[0] == 403
    status, _, headers = running.get("/" + running.query)
    assert status == 200
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert running.get("/colours.css", Cookie=cookie.partition(";")[0])[0] == 200
    assert "secret" in str(running.stream("/" + running.query))


def test_the_policy_lets_nothing_inline_run(start: Callable[..., Running]) -> None:
    _, page, headers = start("--", "echo", "<b>").get()
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "<h1>echo &#39;&lt;b&gt;&#39;</h1>" in page
    assert "style=" not in page


def test_a_script_of_several_lines_has_a_name_of_one(start: Callable[..., Running]) -> None:
    _, page, _ = start("--", "sh", "-c", "\nfor n in 1 2\n\n  do\n\techo $n\n  done\n", "a  b").get()
    assert "<h1>sh -c &#39;for n in 1 2 ↵ do ↵ echo $n ↵ done&#39; &#39;a  b&#39;</h1>" in page


def test_a_bar_is_one_row_that_changes(start: Callable[..., Running]) -> None:
    running = start("--", sys.executable, "-c", BAR)
    data = "\n".join(event.data for event in running.stream())
    assert '"100%|##########|"' in data
    assert "#past" not in data
