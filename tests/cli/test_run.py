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
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from afterload.cli.command import Output
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

    def stream(self, path: str = "/", **headers: str) -> list[Event]:
        """All that a viewer gets who comes now, until the end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", path, headers={"Accept": "text/event-stream", **headers})
        response = connection.getresponse()
        assert response.status == 200
        decoder, events = Decoder(), []
        while data := response.read1(65536):
            events += decoder.feed(data)
            if any(event.event == "end" for event in events):
                break
        connection.close()
        return events

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


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
    assert [pid for pid in map(int, pids.read_text().split()) if alive(pid)] == []


def test_a_command_that_ignores_all_but_the_last_is_killed(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    up = tmp_path / "up"
    running = start("--", "sh", "-c", f"trap '' INT TERM HUP; echo > {up}; while :; do sleep 1; done")
    wait_until(up.exists, 10, "the command")
    assert running.end() == 128 + signal.SIGKILL


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


def test_a_bar_is_one_row_that_changes(start: Callable[..., Running]) -> None:
    running = start("--", sys.executable, "-c", BAR)
    data = "\n".join(event.data for event in running.stream())
    assert '"100%|##########|"' in data
    assert "#past" not in data
