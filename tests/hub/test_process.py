"""The hub as a process of its own: how it is started, what it has of its maker, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from afterload import text
from afterload.errors import HubError
from afterload.hub import process, rendezvous
from afterload.hub.hub import Hub
from afterload.hub.viewer import Follow
from afterload.live import Live
from afterload.settings import Settings
from tests.hub.door import Plain, is_taken, status
from tests.hub.test_hub import Clock
from tests.servers.process import wait_until

SOURCES = Path(process.__file__).parents[2]


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def end(pid: int) -> None:
    assert pid != os.getpid()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_there(pid), 10, f"process {pid} to end")


@pytest.fixture
def process_of(namespace: str) -> Iterator[Callable[..., Live]]:
    """What a process of the app has, that answers requests; closed before the hub is ended."""
    made: list[Live] = []

    def make(several: bool = True, **settings: Any) -> Live:
        made.append(Live(Settings(**{"namespace": namespace, "publish_timeout": 20.0, **settings})))
        made[-1].serve(several)
        wait_until(lambda: made[-1].meeting.is_serving, 20, "it to find its hub")
        return made[-1]

    yield make
    for live in made:
        live.close()


@pytest.fixture
def hub(namespace: str) -> int:
    """A hub as an app starts it; its process."""
    assert process.start(namespace, 60)
    return int(status(namespace)["pid"])


@pytest.fixture
def by_hand(namespace: str, tmp_path: Path) -> Iterator[Any]:
    """As ``afterload hub`` runs it; ended after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**env: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "afterload.hub", namespace]
        with (tmp_path / f"{len(started)}.log").open("wb") as log:
            made = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **env}
            )
        started.append(made)
        return made

    yield start
    for made in started:
        if made.poll() is None:
            made.terminate()
            made.wait(10)


# Starting


def test_it_is_there_when_starting_it_returns(namespace):
    assert process.start(namespace, 60) is True
    found = status(namespace)
    assert (found["hub"], found["namespace"]) == ("process", namespace)


def test_starting_it_again_changes_nothing(namespace, hub):
    assert process.start(namespace, 60) is True
    assert status(namespace)["pid"] == hub


def test_while_one_is_being_started_nobody_else_starts_one(namespace):
    starting = rendezvous.bind(namespace, ":starting")
    assert starting is not None
    with starting:
        assert process.start(namespace, 60) is False
    assert not is_taken(namespace)


RACE = """
import json, sys
from afterload import text
from afterload.live import Live
from afterload.settings import Settings
live = Live(Settings(namespace=sys.argv[1], publish_timeout=30.0))
sys.stdin.readline()
live.serve(True)
position = live.publish("news", text("#a", "1"))
print(json.dumps([live.stats()["pid"], position]), flush=True)
sys.stdin.read()
"""


def test_eight_processes_that_need_one_at_once_have_one(namespace):
    command = [sys.executable, "-c", RACE, namespace]
    racing = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    for one in racing:
        one.stdin.write("\n")
        one.stdin.flush()
    found = [json.loads(one.stdout.readline()) for one in racing]
    assert {pid for pid, _ in found} == {status(namespace)["pid"]}
    assert len({position.partition(".")[0] for _, position in found}) == 1
    assert sorted(int(position.partition(".")[2]) for _, position in found) == list(range(1, 9))
    assert len(status(namespace)["processes"]) == 8
    for one in racing:
        one.communicate(timeout=20)
        assert one.returncode == 0


def test_it_has_nothing_of_who_started_it(namespace, monkeypatch, tmp_path):
    for name in ("GUNICORN_FD", "LISTEN_FDS", "NOTIFY_SOCKET", "WERKZEUG_SERVER_FD"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.chdir(tmp_path)
    read, write = os.pipe()
    with open(tmp_path / "database", "w") as file, socket.socket() as listener:
        for fd in (read, write, file.fileno(), listener.fileno()):
            os.set_inheritable(fd, True)
        process.start(namespace, 60)
        pid = status(namespace)["pid"]
        mine = {os.readlink(f"/proc/self/fd/{fd}") for fd in (read, write, file.fileno(), listener.fileno())}
    os.close(write)
    os.close(read)
    opened = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # that of who has just asked for its status
            opened[int(fd.name)] = os.readlink(fd)
    assert {fd: opened.pop(fd) for fd in (0, 1, 2)} == dict.fromkeys(range(3), "/dev/null")
    assert not mine & set(opened.values())
    kinds = {link.partition(":")[0] for link in opened.values()}
    assert kinds <= {"socket", "anon_inode", "/memfd"}
    assert len(opened) <= 8
    assert os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert Path(f"/proc/{pid}/comm").read_text() == "afterload-hub\n"
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    assert arguments[arguments.index("-m") + 1 :][:2] == ["afterload.hub", namespace]
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    for name in (b"GUNICORN_", b"LISTEN_", b"NOTIFY_", b"WERKZEUG_"):
        assert b"\0" + name not in b"\0" + environment
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert parent != os.getpid()


def test_it_needs_no_home_no_path_and_no_place_to_be(namespace):
    """As in a container, or from cron."""
    code = (
        "import os, sys, tempfile\n"
        "from afterload.hub import process\n"
        "os.chdir(place := tempfile.mkdtemp())\n"
        "os.rmdir(place)\n"
        "assert process.start(sys.argv[1], 60)\n"
    )
    command = ["/usr/bin/env", "-i", f"PYTHONPATH={SOURCES}", sys.executable, "-c", code, namespace]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (done.stderr, done.returncode) == ("", 0)
    assert status(namespace)["hub"] == "process"


def test_one_that_cannot_start_says_why(namespace, monkeypatch, tmp_path):
    (tmp_path / "markupsafe.py").write_text("raise ImportError('it is broken here')\n")
    monkeypatch.setattr(process.markupsafe, "__file__", str(tmp_path / "markupsafe" / "__init__.py"))
    with pytest.raises(HubError, match=r"the hub process does not start: (?s:.*)it is broken here") as caught:
        process.start(namespace, 60)
    assert caught.value.namespace == namespace
    assert not is_taken(namespace)


def test_without_an_interpreter_it_says_so(namespace, monkeypatch):
    monkeypatch.setattr(process, "_python", lambda: "/nowhere/python")
    with pytest.raises(HubError, match=r"no hub process could be started: .*No such file"):
        process.start(namespace, 60)
    starting = rendezvous.bind(namespace, ":starting")
    assert starting is not None  # the next may try
    starting.close()


def test_inside_a_server_that_embeds_python_the_interpreter_is_found(namespace, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/usr/sbin/uwsgi")
    assert process.start(namespace, 60)
    monkeypatch.setattr(sys, "executable", None)
    assert Path(process._python()).name.startswith("python")


@pytest.mark.usefixtures("hub")
def test_what_the_hub_has_to_tell_is_in_the_log_of_a_process_that_is_there(namespace, process_of, caplog):
    process_of()
    plain = Plain(namespace)
    plain.raw(b"GET / HTTP/1.1\r\n\r\n")
    assert "begins no frame" in plain.sent_away()
    plain.close()
    wait_until(lambda: any("begins no frame" in m for m in caplog.messages), 20, "the hub's record")
    (record,) = [r for r in caplog.records if "begins no frame" in r.getMessage()]
    assert record.name == "afterload.hub"


# Ending


REAPED = """
import ctypes, os, signal, sys
from afterload.hub import process
from afterload.hub.calls import Calls
from afterload.hub.hub import Hub
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what is orphaned below is this one's
process.start(sys.argv[1], float(sys.argv[2]))
pid = -1  # it is the only child there is
if sys.argv[3] != "idle":
    pid = Calls(sys.argv[1], 10).call("stats")["pid"]
    os.kill(pid, signal.SIGHUP)
    os.kill(pid, getattr(signal, sys.argv[3]))
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(("idle", "how"), [("60", "SIGTERM"), ("60", "SIGINT"), ("0.1", "idle")])
def test_its_exit_status_is_0_and_none_of_those_that_gunicorn_takes_for_words(namespace, idle, how):
    """As the first process of a container it would read 3 and 4 of its orphans."""
    command = [sys.executable, "-W", "ignore", "-c", REAPED, namespace, idle, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (done.stderr, done.stdout) == ("", "0\n")
    assert not is_taken(namespace)


def test_its_viewers_get_their_bye_when_it_is_told_to_end(hub, process_of):
    live = process_of(several=False)
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    live.adopt(ours, Follow(None, ("news",)))
    live.publish("news", text("#a", "1"))
    with theirs:
        os.kill(hub, signal.SIGTERM)
        data = b"".join(iter(lambda: theirs.recv(65536), b""))
    assert b"event: hello" in data
    assert b"event: bye" in data


def test_it_ends_when_no_process_has_been_there_for_a_while_and_not_before(namespace, process_of):
    process.start(namespace, 30)
    live = process_of(hub_idle=0.2)
    pid = status(namespace)["pid"]
    wait_until(lambda: status(namespace)["uptime"] > 1.0, 20, "five times as long to have passed")
    assert live.publish("news", text("#a", "1"))
    second = process_of(hub_idle=0.2)
    live.close()
    passed = status(namespace)["uptime"] + 0.6
    wait_until(lambda: status(namespace)["uptime"] > passed, 20, "three times as long to have passed")
    second.close()
    wait_until(lambda: not is_there(pid), 20, "it to end")
    assert not is_taken(namespace)


def test_a_process_that_comes_before_it_has_ended_keeps_it():
    clock = Clock()
    hub = Hub(Settings(hub_idle=30.0), clock=clock)
    door: Any = SimpleNamespace(members={}, say_that_it_ends=lambda: None)
    ends = process._Ends(hub, door, 5.0, True)

    def passed(seconds: float) -> bool:
        for _ in range(3):
            hub.poller.run_once(0)
        clock.now += seconds
        hub.poller.run_once(0)
        return ends.ended

    assert not passed(4.9)
    door.members["first"] = 1
    door.entered()
    assert not passed(100)
    door.members.clear()
    door.emptied()
    assert not passed(20)
    door.members["second"] = 1
    door.entered()
    assert not passed(5)
    door.members.clear()
    door.emptied()
    assert not passed(29.9)  # it begins with the last that has gone
    assert passed(0.2)
    hub.release()


def test_who_only_asks_does_not_keep_it(namespace):
    """Else a monitor that asks for its status would be what it is there for."""
    process.start(namespace, 3)
    pid = status(namespace)["pid"]

    def asked_until_it_has_ended() -> bool:
        try:
            status(namespace)
        except HubError:
            return not is_there(pid)
        return False

    wait_until(asked_until_it_has_ended, 20, "it to end")


# By hand


def test_one_that_is_run_by_hand_has_the_place_of_one_that_an_app_has_started(hub, by_hand, process_of):
    live = process_of()
    assert live.stats()["pid"] == hub
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    live.adopt(ours, Follow(None, ("news",)))
    with theirs:
        mine = by_hand()
        data = b"".join(iter(lambda: theirs.recv(65536), b""))
    assert b"event: bye" in data
    wait_until(lambda: not is_there(hub), 20, "the other one to end")
    assert live.publish("news", text("#a", "1"))
    assert live.stats()["pid"] == mine.pid


def test_one_that_is_run_by_hand_does_not_end_when_nobody_is_there(namespace, by_hand, process_of):
    mine = by_hand()
    wait_until(lambda: is_taken(namespace), 20, "the hub")
    process_of(hub_idle=0.1).close()
    wait_until(lambda: status(namespace)["processes"] == [], 20, "it to be alone")
    passed = status(namespace)["uptime"] + 0.5
    wait_until(lambda: status(namespace)["uptime"] > passed, 20, "five times as long to have passed")
    assert mine.poll() is None


def test_a_second_one_that_is_run_by_hand_waits_for_its_place(namespace, by_hand, tmp_path):
    first = by_hand()
    wait_until(lambda: is_taken(namespace), 20, "the first")
    second = by_hand()
    wait_until(lambda: "waits for its place" in (tmp_path / "1.log").read_text(), 20, "the second to say so")
    assert status(namespace)["pid"] == first.pid
    first.terminate()
    assert first.wait(10) == 0
    wait_until(lambda: is_taken(namespace), 20, "the second to have the place")
    assert status(namespace)["pid"] == second.pid
    second.send_signal(signal.SIGINT)
    assert second.wait(10) == 0


def test_one_that_waits_for_its_place_can_be_told_to_end(namespace, by_hand, tmp_path):
    by_hand()
    wait_until(lambda: is_taken(namespace), 20, "the first")
    second = by_hand()
    wait_until(lambda: "waits for its place" in (tmp_path / "1.log").read_text(), 20, "the second to say so")
    second.terminate()
    assert second.wait(10) == 0


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_when_it_has_its_place(namespace, by_hand, tmp_path, abstract):
    address = f"\0{namespace}-notify" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(address)
        notified.settimeout(20)
        by_hand(NOTIFY_SOCKET=address.replace("\0", "@"))
        assert notified.recv(100) == b"READY=1"
    assert is_taken(namespace)


def test_a_systemd_that_is_not_there_does_not_keep_it_from_running(namespace, by_hand, tmp_path):
    mine = by_hand(NOTIFY_SOCKET=str(tmp_path / "nobody"))
    wait_until(lambda: "could not be told" in (tmp_path / "0.log").read_text(), 20, "it to say so")
    assert status(namespace)["pid"] == mine.pid


def test_one_that_is_run_by_hand_logs_to_its_own_output_and_is_no_hub_of_records(
    namespace, by_hand, tmp_path
):
    by_hand()
    wait_until(lambda: is_taken(namespace), 20, "the hub")
    plain = Plain(namespace)
    plain.raw(b"nonsense")
    assert "begins no frame" in plain.sent_away()
    plain.close()
    wait_until(lambda: "is sent away" in (tmp_path / "0.log").read_text(), 20, "its record")


# More than there are descriptors for


def test_more_viewers_than_it_has_descriptors_for_are_each_answered_and_it_goes_on(
    namespace, tmp_path, process_of
):
    command = f"ulimit -n 256; exec {sys.executable} -m afterload.hub {namespace}"
    with (tmp_path / "log").open("wb") as log:
        small = subprocess.Popen(["sh", "-c", command], stdout=log, stderr=log)
    wait_until(lambda: is_taken(namespace), 20, "the hub")
    live = process_of()
    try:
        viewers = []
        for _ in range(220):
            ours, theirs = socket.socketpair()
            theirs.settimeout(20)
            live.adopt(ours, Follow(None, ("news",)))
            viewers.append(theirs)
        held = 0
        for theirs in viewers:
            data = b""
            while b"\n\n" not in data:
                more = theirs.recv(65536)
                assert more, "a viewer was closed without a word"
                data += more
            assert data.startswith(b"event: hello")
        live.publish("news", text("#a", "everybody"))
        for theirs in viewers:
            data = b""
            while b"everybody" not in data and b"event: bye" not in data:
                more = theirs.recv(65536)
                if not more:
                    break
                data += more
            held += b"everybody" in data
            theirs.close()
        assert 100 < held < 256
        found = live.stats()
        assert found["errors"] == 0
        assert found["pid"] == small.pid
    finally:
        live.close()
        small.terminate()
        assert small.wait(10) == 0
