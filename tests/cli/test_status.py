"""``afterload status``: what it shows of hubs that run, and of those that do not answer."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from afterload.cli import main
from afterload.cli.status import duration
from afterload.hub import rendezvous
from tests.cli.hubs import afterload, environment, new_namespace, running, table
from tests.handover.raw import Raw
from tests.servers.process import Servers, wait_until

pytestmark = pytest.mark.server

APP = "tests.servers.live_app:app"
STREAM = {"Accept": "text/event-stream"}
COUNTERS = {"errors": 0, "connects": 5}


def stats(**other: Any) -> dict[str, Any]:
    """What a hub says."""
    return {
        "namespace": "shop", "hub": "process", "pid": 7, "title": "", "version": 1, "epoch": "e", "uptime": 3.0,
        "published": 1234, "viewers": 0, "behind": 0, "lag": 0.0, "channels": {}, "loops_run": {},
        "loops_offered": [], "processes": [], **COUNTERS, **other,
    }  # fmt: skip


def channel(viewers: int = 0, status: str = "open") -> dict[str, Any]:
    return {"viewers": viewers, "entries": 1, "status": status, "state_bytes": 2}


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **other: Any) -> str:
    """What is shown of a hub that says this."""
    monkeypatch.setattr("afterload.cli.status._ask", lambda namespace: stats(**other))
    assert main(["status", "--namespace", "shop"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


# Hubs that run


def test_a_hub_process_says_what_is_here_and_who_runs_what(servers: Servers) -> None:
    namespace = new_namespace()
    env = {"AFTERLOAD_NAMESPACE": namespace}
    server = servers.gunicorn(APP, workers=2, env=env)
    with (
        Raw(server).ask("/shared", headers=STREAM) as page,
        Raw(server).ask("/named/n", headers=STREAM) as named,
    ):
        page.until(b"event: hello")
        named.until(b"event: hello")

        def everybody() -> bool:
            found = json.loads(afterload("status", "--json", "--namespace", namespace).stdout)
            return (
                len(found[0]["processes"]) == 2 and found[0]["viewers"] == 2 and bool(found[0]["loops_run"])
            )

        wait_until(everybody, 20, "both workers, both viewers and the loop")
        done = afterload("status", "--namespace", namespace)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(rf"{namespace}\n  hub        process \d+ \(.*\), up \d", done.stdout)
    workers = "|".join(map(str, server.children()))
    assert len(re.findall(rf"^    ({workers})  \S+ {APP}.*  \d+\.\d s +\d+ +\d+$", done.stdout, re.M)) == 2
    assert "\n  viewers    2\n" in done.stdout
    assert re.search(r"^    shared +1 +\d+  open +\d+$", done.stdout, re.M)
    assert re.search(rf"^    shared  run by process ({workers}) \(\S+ {APP}", done.stdout, re.M)
    assert re.search(r"^    connects +2$", done.stdout, re.M)


def test_a_hub_in_a_thread_says_of_which_process(servers: Servers) -> None:
    namespace = new_namespace()
    server = servers.gunicorn(APP, env={"AFTERLOAD_NAMESPACE": namespace})
    with Raw(server).ask("/shared", headers=STREAM) as page:
        page.until(b"event: hello")
        done = afterload("status", AFTERLOAD_NAMESPACE=namespace)
    assert (done.returncode, done.stderr) == (0, "")
    [worker] = server.children()
    assert re.search(rf"^  hub        thread of process {worker} \(\S+ {APP} .*\), up \d", done.stdout, re.M)
    assert re.search(rf"^    shared  run by process {worker} \(\S+ {APP}", done.stdout, re.M)


def test_all_hubs_of_this_user_are_shown_and_those_of_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AFTERLOAD_NAMESPACE", raising=False)
    one, two, gone = new_namespace(), new_namespace(), new_namespace()
    me = os.geteuid()
    present = [(me, one), (me, two), (me, gone), (me + 1, "theirs")]
    monkeypatch.setattr(rendezvous, "_TABLE", table(tmp_path / "unix", *present))
    with running(tmp_path / "one", "--namespace", one), running(tmp_path / "two", "--namespace", two):
        assert main(["status", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert main(["status"]) == 0
        out, err = capsys.readouterr()
    assert [hub["namespace"] for hub in found] == [one, two]
    assert [line for line in out.splitlines() if line and line[0] != " "] == [one, two]
    assert err == ""


def test_one_that_does_not_answer_is_said_beside_those_that_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AFTERLOAD_NAMESPACE", raising=False)
    hanging, good = sorted([new_namespace(), new_namespace()])
    monkeypatch.setattr(
        rendezvous, "_TABLE", table(tmp_path / "unix", *((os.geteuid(), n) for n in (hanging, good)))
    )
    with (
        running(tmp_path / "hanging", "--namespace", hanging) as hub,
        running(tmp_path / "good", "--namespace", good),
    ):
        hub.process.send_signal(signal.SIGSTOP)
        assert main(["status", "--json"]) == 1
    out, err = capsys.readouterr()
    assert [hub["namespace"] for hub in json.loads(out)] == [good]
    assert err.startswith(f"afterload status: the hub of namespace '{hanging}' does not answer (")


def test_something_that_is_no_hub_is_said_to_be_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace = new_namespace()
    listener = rendezvous.bind(namespace)
    assert listener is not None
    with listener:
        listener.setblocking(True)
        peer = subprocess.Popen(
            [sys.executable, "-P", "-m", "afterload.cli", "status", "--namespace", namespace],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
        )  # fmt: skip
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            out, err = peer.communicate(timeout=20)
    assert (peer.returncode, out) == (1, b"")
    assert err.startswith(b"afterload status: the hub of namespace '" + namespace.encode())


# None


def test_that_there_is_none_of_a_namespace_is_said() -> None:
    namespace = new_namespace()
    for arguments in ([], ["--json"]):
        done = afterload("status", "--namespace", namespace, *arguments)
        assert done.returncode == 1
        assert done.stdout == ("[]\n" if arguments else "")
        assert done.stderr.startswith(
            f"afterload status: no hub of namespace '{namespace}' runs: no page follows"
        )


def test_that_there_is_none_at_all_is_said_and_which_others_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AFTERLOAD_NAMESPACE", raising=False)
    me = os.geteuid()
    monkeypatch.setattr(rendezvous, "_TABLE", table(tmp_path / "unix"))
    assert main(["status"]) == 1
    assert capsys.readouterr().err == (
        f"afterload status: no hub of this user (number {me}) runs: no page follows\n"
    )
    monkeypatch.setattr(rendezvous, "_TABLE", table(tmp_path / "unix", (me + 1, "shop")))
    assert main(["status"]) == 1
    assert capsys.readouterr().err == (
        f"afterload status: no hub of this user (number {me}) runs: no page follows; others have hubs: "
        f"'shop' (user {me + 1})\n"
    )
    assert main(["status", "--namespace", "shop"]) == 1
    assert f"is of user {me + 1}, and this process is of user {me}" in capsys.readouterr().err


def test_where_processes_cannot_meet_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendezvous, "POSSIBLE", False)
    assert main(["status"]) == 1
    assert capsys.readouterr().err == "afterload status: processes meet on Linux only\n"


# How it is shown


def test_viewers_that_are_behind_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shown(monkeypatch, capsys, viewers=5000, behind=3, lag=75.2)
    assert "\n  viewers    5,000; 3 behind, the longest for 1 min 15 s\n" in out
    assert "\n  published  1,234\n" in out


def test_the_channels_with_most_viewers_are_shown_and_how_many_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shown(monkeypatch, capsys, channels={f"c{n}": channel(viewers=n) for n in range(1021)})
    names = re.findall(r"^    (c\d+) ", out, re.M)
    assert names == [f"c{n}" for n in range(1020, 1000, -1)]
    assert "\n  channels   1,021\n" in out
    assert "\n    and 1,001 more\n" in out


def test_of_each_loop_it_is_said_how_it_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shown(
        monkeypatch,
        capsys,
        processes=[{"pid": 9, "title": "gunicorn app:app", "seconds": 1.0, "viewers": 1234, "loops": 5}],
        loops_offered=["baked", "clock", "idle", "waiting"],
        loops_run={"clock": 9},
        channels={"baked": channel(status="failed"), "clock": channel(1), "waiting": channel(1)},
    )
    assert "    9    gunicorn app:app  1.0 s        1,234      5\n" in out
    assert re.findall(r"^    (baked|clock|idle|waiting) +([a-z].*)$", out, re.M) == [
        ("baked", "ended: failed"),
        ("clock", "run by process 9 (gunicorn app:app)"),
        ("idle", "nobody watches"),
        ("waiting", "no process has room for it"),
    ]


def test_nothing_that_a_name_or_a_title_has_reaches_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J\r\n\x9b\u202eoops" + "x" * 300
    out = shown(
        monkeypatch,
        capsys,
        title=evil,
        processes=[{"pid": 9, "title": evil, "seconds": 1.0, "viewers": 1234, "loops": 5}],
        channels={evil: channel()},
        loops_offered=[evil],
        loops_run={evil: 9},
    )
    assert [c for c in out if not c.isprintable() and c != "\n"] == []
    assert out.count("\\x1b[2J\\r\\n\\x9b\\u202eoops") == 5
    assert max(map(len, out.splitlines())) < 400


def test_json_has_the_same_and_is_safe_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = stats(channels={"\x1b\udc80é": channel()})
    monkeypatch.setattr("afterload.cli.status._ask", lambda namespace: said)
    assert main(["status", "--namespace", "shop", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == [said]
    assert out.isascii()
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (60, "1 min 0 s"), (3599.9, "59 min 59 s"),
        (3600, "1 h 0 min"), (86399, "23 h 59 min"), (86400, "1 d 0 h"), (8_640_000, "100 d 0 h"),
    ],
)  # fmt: skip
def test_durations_are_for_people(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_who_reads_only_the_beginning_is_no_error(tmp_path: Path) -> None:
    namespace = new_namespace()
    with running(tmp_path / "log", "--namespace", namespace):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.close()
            done = subprocess.run(
                [sys.executable, "-P", "-m", "afterload.cli", "status", "--namespace", namespace],
                stdout=theirs, stderr=subprocess.PIPE, env=environment(), check=False, timeout=50,
            )  # fmt: skip
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_terminal_without_unicode_is_shown_what_it_has(tmp_path: Path) -> None:
    namespace = new_namespace()
    with running(tmp_path / "log", "--namespace", namespace):
        afterload("publish", "café", "#x", "y", "--namespace", namespace)
        done = afterload("status", "--namespace", namespace, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n    caf\\xe9" in done.stdout
