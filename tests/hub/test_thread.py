"""The hub's thread: when it starts, how it ends, and what a fork and an exit leave behind."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from afterload import text
from afterload.hub.thread import HubThread
from afterload.hub.viewer import Follow
from afterload.settings import Settings
from tests.servers.process import wait_until

CHANNEL = "news"


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def threads() -> int:
    return sum(thread.name == "afterload-hub" for thread in threading.enumerate())


@pytest.fixture
def runner() -> Iterator[HubThread]:
    runner = HubThread(Settings())
    yield runner
    runner.close()


def connect(runner: HubThread) -> socket.socket:
    """A viewer's end of a connection that the hub was given."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    runner.hub.adopt(ours, Follow(runner.hub.log, (CHANNEL,)))
    return theirs


def until(sock: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        more = sock.recv(65536)
        assert more, f"ended without {mark!r}: {data!r}"
        data += more
    return data


def rest(sock: socket.socket) -> bytes:
    data = b""
    while more := sock.recv(65536):
        data += more
    return data


# Starting


def test_nothing_runs_before_there_is_something_to_do(runner):
    before = threads()
    runner.hub.publish(CHANNEL, (text("#a", "1"),))  # nobody follows it
    assert threads() == before
    with connect(runner) as viewer:
        until(viewer, b"event: hello")
        assert threads() == before + 1


def test_one_thread_is_started_however_many_ask_at_once(runner):
    class Gate:
        """A lock that nobody gets before all have asked for it: none has seen the thread of another."""

        lock, all_of_them = threading.Lock(), threading.Barrier(8)

        def __enter__(self) -> None:
            self.all_of_them.wait(20)
            self.lock.acquire()

        def __exit__(self, *exc: object) -> None:
            self.lock.release()

    before, real = threads(), runner._lock
    runner._lock = Gate()  # type: ignore[assignment]
    asking = [threading.Thread(target=runner.start) for _ in range(8)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    runner._lock = real
    assert threads() == before + 1


def test_a_thread_that_cannot_be_had_now_is_asked_for_again(runner, monkeypatch):
    """Else the process would hold its viewers for ever and never serve one."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ours, theirs = socket.socketpair()
    follow = Follow(runner.hub.log, (CHANNEL,))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError):
            runner.hub.adopt(ours, follow)
    with theirs, connect(runner) as second:
        until(second, b"event: hello")
        until(theirs, b"event: hello")


LIMIT = """
import resource
from afterload.hub.thread import HubThread
from afterload.settings import Settings
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
HubThread(Settings()).start()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
"""


def test_the_soft_limit_on_descriptors_is_raised_to_the_hard_one():
    subprocess.run([sys.executable, "-c", LIMIT], check=True, timeout=50)


# Running


def test_an_error_of_the_poller_itself_is_logged_and_the_thread_goes_on(runner, monkeypatch, caplog):
    real = runner.hub.poller.run_once
    failed = threading.Event()

    def once_broken(timeout: float | None = None) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("the selector is upset")
        real(timeout)

    monkeypatch.setattr(runner.hub.poller, "run_once", once_broken)
    with connect(runner) as viewer:
        until(viewer, b"event: hello")
    assert runner.hub.stats()["errors"] == 1
    [record] = caplog.records
    assert "the selector is upset" in str(record.exc_info)


# Ending


def test_closing_says_bye_to_every_viewer_and_leaves_nothing_open():
    before, running = descriptors(), threads()
    runner = HubThread(Settings())
    viewers = [connect(runner) for _ in range(5)]
    for viewer in viewers:
        until(viewer, b"event: hello")
    runner.close()
    for viewer in viewers:
        assert b"event: bye" in rest(viewer)
        viewer.close()
    assert runner.hub.closed
    assert not runner.usable
    assert threads() == running
    assert descriptors() <= before


def test_closing_what_never_ran_and_closing_again_are_nothing():
    before, running = descriptors(), threads()
    runner = HubThread(Settings())
    runner.close()
    runner.close()
    assert not runner.usable
    assert descriptors() <= before
    runner.start()
    runner.hub.poller.wake()
    assert threads() == running


def test_several_may_close_at_once():
    before = descriptors()
    runner = HubThread(Settings())
    with connect(runner) as viewer:
        until(viewer, b"event: hello")
        closing = [threading.Thread(target=runner.close) for _ in range(8)]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        assert rest(viewer).count(b"event: bye") == 1
    assert descriptors() <= before


def test_a_connection_handed_over_while_the_hub_says_bye_gets_its_bye_too(monkeypatch):
    runner = HubThread(Settings())
    real, late = runner.hub.say_bye, []

    def say_bye() -> None:
        real()
        if not late:
            late.append(connect(runner))  # by a request that has just been answered

    monkeypatch.setattr(runner.hub, "say_bye", say_bye)
    with connect(runner) as viewer:
        until(viewer, b"event: hello")
        runner.close()
        assert b"event: bye" in rest(viewer)
    with late[0] as viewer:
        data = rest(viewer)
        assert data.startswith(b"event: hello")
        assert b"event: bye" in data


def test_a_stuck_hub_does_not_hold_up_who_closes_it():
    running = threads()
    runner = HubThread(Settings())
    stuck, go = threading.Event(), threading.Event()

    def command() -> None:
        stuck.set()
        go.wait(50)

    runner.hub.poller.call(command)
    assert stuck.wait(20)
    closing = threading.Thread(target=runner.close, args=(0.05,), daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()
    assert not runner.hub.closed  # its sockets are still in use by the thread
    go.set()
    wait_until(lambda: threads() == running, 20, "the thread to end when it can")
    runner.close()
    assert runner.hub.closed


def test_it_may_be_closed_by_its_own_thread():
    running = threads()
    runner = HubThread(Settings())
    with connect(runner) as viewer:
        until(viewer, b"event: hello")
        runner.hub.poller.call(runner.close)
        assert b"event: bye" in rest(viewer)
    wait_until(lambda: threads() == running, 20, "the thread to end")
    assert runner.hub.closed


# Processes


FORK = """
import os, socket, sys, threading
from afterload import text
from afterload.hub.thread import HubThread
from afterload.hub.viewer import Follow
from afterload.settings import Settings

runner = HubThread(Settings())
hub = runner.hub

def connect():
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    hub.adopt(ours, Follow(hub.log, ("news",)))
    data = b""
    while b"event: hello" not in data:
        data += theirs.recv(65536)
    return theirs

viewers = [connect() for _ in range(3)]
sockets = lambda: sum("socket:" in os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                      if os.path.exists(f"/proc/self/fd/{fd}"))
before = sockets()
told, telling = os.pipe()
answer, answering = os.pipe()
child = os.fork()
if not child:
    state = [hub.closed, runner.usable, before - sockets(), threading.active_count()]
    os.write(answering, repr(state).encode())
    os.read(told, 1)
    os._exit(0)
# Of each viewer the hub's end is closed there, and the pair that wakes the poller; the viewers' own ends are not.
assert os.read(answer, 1000) == b"[True, False, 5, 1]", "the child holds what is its parent's"

def news(viewer, mark):
    data = b""
    while mark not in data:
        more = viewer.recv(65536)
        assert more, data
        data += more

hub.publish("news", (text("#a", "still here"),))
for viewer in viewers:
    news(viewer, b"still here")
runner.close()
for viewer in viewers:
    while viewer.recv(65536):
        pass  # the end comes though the child still lives
os.write(telling, b".")
assert os.waitpid(child, 0)[1] == 0

# A new one works in a child as in any process.
child = os.fork()
if not child:
    runner = HubThread(Settings())
    hub = runner.hub
    viewer = connect()
    hub.publish("news", (text("#a", "in the child"),))
    news(viewer, b"in the child")
    runner.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("fine")
"""


def run(
    code: str, *, pass_fds: tuple[int, ...] = (), arguments: tuple[str, ...] = (), within: float = 50
) -> str:
    # Forking with threads is what is tested; Python 3.12 warns of it.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=within, pass_fds=pass_fds
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def test_a_forked_child_closes_what_it_inherited_and_its_parent_goes_on():
    assert run(FORK) == "fine\n"


EXIT = """
import socket, sys
from afterload.hub.thread import HubThread
from afterload.hub.viewer import Follow
from afterload.settings import Settings
runners = [HubThread(Settings()) for _ in sys.argv[1:]]
for runner, fd in zip(runners, sys.argv[1:]):
    runner.hub.adopt(socket.socket(fileno=int(fd)), Follow(runner.hub.log, ("news",)))
"""


def test_the_end_of_the_process_says_bye():
    pairs = [socket.socketpair() for _ in range(2)]
    fds = tuple(ours.fileno() for ours, _ in pairs)
    run(EXIT, pass_fds=fds, arguments=tuple(map(str, fds)))
    for ours, theirs in pairs:
        ours.close()
        theirs.settimeout(20)
        with theirs:
            data = rest(theirs)
        assert data.startswith(b"event: hello")
        assert b"event: bye" in data


STUCK = """
import threading
from afterload.hub.thread import HubThread
from afterload.settings import Settings
stuck = threading.Event()
runner = HubThread(Settings())
runner.hub.poller.call(lambda: (stuck.set(), threading.Event().wait()))
stuck.wait()
"""


def test_a_stuck_hub_does_not_keep_the_process():
    run(STUCK, within=10)
