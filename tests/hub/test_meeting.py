"""Which hub has a process's shared channels: its own, another's, a hub process, and what happens when that one goes."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from afterload import text
from afterload.errors import HubError
from afterload.hub import client, rendezvous
from afterload.hub.viewer import Follow
from afterload.live import Live
from afterload.settings import Settings
from tests.hub.door import descriptors, is_taken, status
from tests.servers.process import wait_until

PATCH = text("#a", "1")


def serve(live: Live, several: bool = False) -> None:
    """Answers a request, when the process has found its hub: that may take longer than a request waits for it."""
    live.serve(several)
    wait_until(lambda: live.meeting.is_serving, 20, "it to find its hub")


def is_client(live: Live) -> bool:
    return live.meeting.shared is not live.hub


def viewer(live: Live, *names: str) -> socket.socket:
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    live.adopt(ours, Follow(None, names or ("news",)))
    return theirs


def until(sock: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        more = sock.recv(65536)
        assert more, f"ended without {mark!r}: {data!r}"
        data += more
    return data


# Alone


def test_a_process_that_answers_nobody_and_publishes_nothing_meets_nobody(process, namespace):
    live = process()
    assert live.hub
    assert live.stats()["published"] == 0
    assert not is_taken(namespace)


def test_under_a_test_nobody_is_met(process, namespace):
    """Else the tests of an app would be seen by who has it open."""
    host, live = process(), process()
    serve(host)
    assert live.publish("news", PATCH).startswith(live.hub.epoch)
    assert host.hub.head() == 0


def test_without_a_namespace_nobody_is_met(process):
    live = process(namespace="")
    serve(live)
    assert live.meeting.is_serving
    assert not live.meeting.is_cut_off
    assert live.publish("news", PATCH).startswith(live.hub.epoch)
    assert (os.geteuid(), "") not in rendezvous.present()
    assert live.meeting._host is None
    assert not is_client(live)


def test_several_processes_without_a_namespace_cannot_work_and_it_is_said(process):
    live = process(namespace="")
    serve(live, True)
    assert live.meeting.is_cut_off == "a namespace is needed"
    assert live.publish("news", PATCH).startswith(live.hub.epoch)


def test_elsewhere_than_on_linux_nobody_is_met(process, monkeypatch, namespace):
    monkeypatch.setattr(rendezvous, "POSSIBLE", False)
    live = process()
    serve(live, True)
    assert live.meeting.is_cut_off == "processes meet on Linux only"
    assert live.publish("news", PATCH).startswith(live.hub.epoch)
    assert not is_taken(namespace)


# One that answers requests


def test_the_first_that_answers_requests_is_the_hub_of_the_others(process, namespace):
    first, second = process(), process()
    serve(first)
    assert is_taken(namespace)
    assert not is_client(first)
    serve(second)
    assert is_client(second)
    with viewer(second) as seen:
        until(seen, b"event: hello")
        for i, live in enumerate((first, second)):
            position = live.publish("news", text("#a", f"from {i}"))
            assert position == f"{first.hub.epoch}.{i + 1}"
            until(seen, f"from {i}".encode())
    assert second.viewers("news") == first.viewers("news")
    stats = second.stats()
    assert (stats["hub"], stats["epoch"]) == ("thread", first.hub.epoch)
    assert stats["own"]["epoch"] == second.hub.epoch
    assert "own" not in first.stats()


def test_answering_more_requests_changes_nothing(process):
    first, second = process(), process()
    for _ in range(3):
        serve(first)
        serve(second)
    assert not is_client(first)
    assert len(status(first.namespace)["processes"]) == 1


def test_one_whose_host_ends_takes_its_place_and_one_that_comes_later_finds_it(process):
    first, second, third = process(), process(), process()
    serve(first)
    serve(second)
    epoch = second.meeting.shared.epoch
    first.close()
    wait_until(lambda: second.meeting.is_serving and not is_client(second), 20, "it to take the place")
    assert second.publish("news", PATCH).startswith(second.hub.epoch)
    assert second.hub.epoch != epoch
    serve(third)
    assert is_client(third)
    assert third.publish("news", PATCH) == f"{second.hub.epoch}.2"


def test_what_is_published_while_there_is_no_hub_waits_for_the_next(process):
    hosts = [process() for _ in range(2)]
    others = [process() for _ in range(3)]
    for live in (hosts[0], *others):
        serve(live)
    stop = threading.Event()
    published: list[str] = []

    def publish() -> None:
        while not stop.is_set():
            for live in others:
                try:
                    published.append(live.publish("news", PATCH))
                except HubError as error:
                    if "may have reached it, or not" not in str(
                        error
                    ):  # it was on its way when the hub ended
                        raise

    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(publish)
        wait_until(lambda: len(published) > 10, 20, "it to begin")
        hosts[0].close()
        at = len(published)
        wait_until(lambda: len(published) > at + 30, 20, "it to go on")
        stop.set()
        publishing.result()
    assert len(published) == len(set(published))
    assert len({position.partition(".")[0] for position in published}) == 2


def test_what_is_published_while_the_hub_is_being_joined_is_not_kept_from_it(process, monkeypatch):
    """The worker is a client already, and has not told its loops and jobs yet."""
    host, worker = process(), process()
    serve(host)
    with viewer(host) as page:
        joining, go = threading.Event(), threading.Event()
        monkeypatch.setattr(worker.loops, "come", lambda outlet: (joining.set(), go.wait(20)))
        worker.meeting.expect(False)
        assert joining.wait(20)
        published: list[tuple[str, int]] = []
        asks = threading.Thread(target=lambda: published.append(worker.meeting.publish("news", (PATCH,))))
        asks.start()
        asks.join(0.2)  # more than it takes where it does not wait
        go.set()
        asks.join(20)
        assert published == [(host.hub.epoch, 1)]
        until(page, b'["text","#a","1"]')
        assert worker.hub.log.head == 0


def test_who_came_before_the_hub_was_found_is_sent_there(process, monkeypatch):
    """A request waits for that a moment only, and a page must not stay where nothing comes."""
    host, worker = process(), process()
    serve(host)
    found, find = threading.Event(), client.Client.find
    monkeypatch.setattr(client.Client, "find", lambda *of: (found.wait(20), find(*of))[1])
    monkeypatch.setattr("afterload.hub.meeting._PATIENCE", 0.01)
    worker.serve(False)
    with viewer(worker) as page, viewer(worker, "news", "other") as other:
        until(page, b"hello")
        found.set()
        for sock in (page, other):
            assert b"event: patch" not in until(sock, b"event: bye")
    wait_until(lambda: worker.meeting.is_settled, 20, "it to be a client")
    wait_until(lambda: worker.hub.stats().get("ended_moved") == 2, 20, "both to have ended")
    late, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(20)
        worker.hub.adopt(late, Follow(None, ("news",)))  # it was on its way there
        until(theirs, b"event: bye")
    with viewer(worker) as page:
        host.publish("news", PATCH)
        until(page, b'["text","#a","1"]')


def test_the_loops_of_a_host_that_ends_go_on_in_another(process):
    first, second = process(), process()
    for live in (first, second):

        def clock(live: Live = live) -> Iterator[Any]:
            while True:
                yield {"#a": "first" if live is first else "second"}
                live.sleep(0.01)

        live.loop(clock)
    serve(first)
    serve(second)
    with viewer(second, "clock") as seen:
        until(seen, b"first")
        first.close()
        until(seen, b"bye")
    wait_until(lambda: not is_client(second), 20, "it to take the place")
    with viewer(second, "clock") as seen:
        until(seen, b"second")


def test_a_run_ends_with_the_hub_that_has_leased_it(process):
    """Another one is begun where somebody watches; two at once would both cost, and one of them for nobody."""
    first, second = process(), process()

    def clock() -> Iterator[Any]:
        while True:
            yield {"#a": "tick"}
            second.sleep(0.01)

    second.loop(clock)
    serve(first)
    serve(second)
    with viewer(first, "clock") as seen:
        until(seen, b"tick")
        assert second.loops.running == 1
        first.close()
        wait_until(lambda: not second.loops.running, 20, "its run to end")


def test_a_process_that_is_told_to_end_gives_the_place_to_another_and_goes_on_to_publish(process):
    """What it still answers may publish."""
    first, second = process(), process()
    serve(first)
    serve(second)
    first.meeting.leave()
    wait_until(lambda: not is_client(second), 20, "the other one to take the place")
    position = first.publish("news", PATCH)
    assert position.startswith(second.hub.epoch)
    assert first.meeting.is_serving  # and does not take it back


def test_a_process_that_is_told_to_end_and_is_the_last_publishes_without_waiting(process):
    """Else each request that is being answered when a server is stopped would wait, and fail."""
    live = process(publish_timeout=5.0)
    serve(live)
    live.meeting.leave()
    live.hub.poller.call(lambda: None)
    assert live.publish("news", PATCH)


def test_a_client_that_is_told_to_end_gives_its_loops_back(process):
    first, second = process(), process()

    def clock() -> Iterator[Any]:
        while True:
            yield {"#a": "tick"}
            second.sleep(0.01)

    second.loop(clock)
    serve(first)
    serve(second)
    with viewer(first, "clock") as seen:
        until(seen, b"tick")
        second.meeting.leave()
        wait_until(lambda: not second.loops.running, 20, "its run to end")
        wait_until(lambda: status(first.namespace)["loops_offered"] == [], 20, "it to offer it no more")
    assert second.publish("news", PATCH).startswith(first.hub.epoch)


# A hub process


@pytest.mark.parametrize(("how", "several"), [("auto", True), ("process", False), ("process", True)])
def test_several_processes_or_a_setting_start_a_hub_process(process, how, several):
    first, second = process(hub=how), process(hub=how)
    serve(first, several)
    serve(second, several)
    assert is_client(first)
    assert is_client(second)
    stats = first.stats()
    assert stats["hub"] == "process"
    assert stats["pid"] != os.getpid()
    with viewer(first) as seen:
        until(seen, b"event: hello")
        second.publish("news", PATCH)
        until(seen, b'"#a","1"')


@pytest.mark.parametrize(("how", "several"), [("auto", False), ("thread", False), ("thread", True)])
def test_one_process_or_a_setting_start_none(process, how, several):
    live = process(hub=how)
    serve(live, several)
    assert not is_client(live)
    assert not live.meeting.is_cut_off


@pytest.mark.parametrize("how", ["auto", "thread", "process"])
def test_a_hub_that_is_there_is_always_used(process, how):
    host, live = process(), process(hub=how)
    serve(host)
    serve(live)
    assert live.meeting.shared.epoch == host.hub.epoch
    assert is_client(live)


def test_a_hub_process_that_is_killed_is_replaced_without_a_request(process):
    live = process(hub="process")
    serve(live)
    pid, epoch = live.stats()["pid"], live.meeting.shared.epoch
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: live.meeting.shared.epoch != epoch, 20, "another one")
    assert live.stats()["pid"] != pid
    assert live.publish("news", PATCH).startswith(live.meeting.shared.epoch)


def test_a_process_that_is_about_to_serve_finds_its_hub_and_offers_nothing_yet(process):
    host, live = process(), process()

    def clock() -> Iterator[Any]:
        yield {"#a": "tick"}

    live.loop(clock)
    serve(host)
    live.meeting.expect(False)
    wait_until(lambda: is_client(live), 20, "it to find the hub")
    assert status(host.namespace)["loops_offered"] == []
    serve(live)
    wait_until(lambda: status(host.namespace)["loops_offered"] == ["clock"], 20, "it to offer its loop")


# A script


@pytest.mark.usefixtures("no_test")
def test_a_script_reaches_the_pages_of_the_app_that_runs(process):
    host, script = process(), process()
    serve(host)
    with viewer(host) as seen:
        until(seen, b"event: hello")
        assert script.publish("news", PATCH) == f"{host.hub.epoch}.1"
        until(seen, b'"#a","1"')
    assert script.viewers("other") == 0
    assert script.stats()["epoch"] == host.hub.epoch


@pytest.mark.usefixtures("no_test")
def test_a_script_where_no_app_runs_reaches_nobody_and_does_not_wait(process, namespace):
    script = process()
    assert script.publish("news", PATCH).startswith(script.hub.epoch)
    assert not is_taken(namespace)
    host = process()
    serve(host)  # and finds the app when that has been started
    assert script.publish("news", PATCH).startswith(host.hub.epoch)


@pytest.mark.usefixtures("no_test")
def test_a_script_offers_to_run_no_loops(process):
    host, script = process(), process()
    script.loop(a_loop())
    serve(host)
    script.publish("news", PATCH)
    assert status(host.namespace)["loops_offered"] == []


def a_loop() -> Callable[[], Iterator[Any]]:
    def clock() -> Iterator[Any]:
        yield {"#a": "tick"}

    return clock


@pytest.mark.usefixtures("no_test")
def test_a_script_that_outlives_the_app_finds_the_next(process):
    host, script = process(), process()
    serve(host)
    script.publish("news", PATCH)
    host.close()
    following = process()
    serve(following)
    assert script.publish("news", PATCH).startswith(following.hub.epoch)


@pytest.mark.usefixtures("no_test")
def test_a_script_that_outlives_the_app_is_told_when_there_is_none(process):
    host, script = process(), process()
    serve(host)
    script.publish("news", PATCH)
    script.meeting._settings = script.settings.updated({"publish_timeout": 0.3})
    host.close()
    with pytest.raises(HubError):
        script.publish("news", PATCH)
    with pytest.raises(
        HubError, match=r"there has been no hub of namespace .* for 0.3 s \(publish_timeout\)"
    ):
        script.publish("news", PATCH)


@pytest.mark.usefixtures("no_test")
def test_a_script_that_has_no_descriptor_for_it_has_none_for_now(process, monkeypatch):
    """Its jobs look for a hub in a thread that is to go on."""
    meeting = process().meeting

    def none(*what: Any) -> None:
        raise OSError(24, "too many open files")

    with monkeypatch.context() as few:
        few.setattr(client.Client, "find", none)
        assert (meeting.present(), meeting.looks) == (None, True)
    app = process()
    serve(app)
    wait_until(lambda: meeting.present() is not None, 20, "it to find the hub")


@pytest.mark.usefixtures("no_test")
def test_a_script_of_another_user_is_told_so(process, monkeypatch, namespace):
    """It publishes to nobody, and whoever wrote it is to know."""
    monkeypatch.setattr(rendezvous, "present", lambda: [(os.geteuid() + 1, namespace)])
    with pytest.raises(HubError, match="run it as the same user"):
        process().publish("news", PATCH)


@pytest.mark.usefixtures("no_test")
def test_a_script_may_have_a_hub_process_of_its_own(process):
    script = process(hub="process")
    position = script.publish("news", PATCH)
    assert is_client(script)
    assert script.stats()["hub"] == "process"
    other = process()
    serve(other)
    assert other.publish("news", PATCH).partition(".")[0] == position.partition(".")[0]


# A hub that cannot be had


def test_a_place_that_somebody_else_holds_is_said_once_and_publishing_is_an_error_in_time(
    process, namespace, monkeypatch, caplog
):
    handshake = client._HANDSHAKE
    monkeypatch.setattr(client, "_HANDSHAKE", 0.05)
    holder = rendezvous.bind(namespace)
    assert holder is not None
    live = process(hub="process", publish_timeout=0.5)
    with holder:
        live.serve(False)
        wait_until(lambda: "does not answer" in live.meeting.is_cut_off, 20, "it to say so")
        with pytest.raises(HubError, match=r"there has been no hub of namespace .*: .*does not answer"):
            live.publish("news", PATCH)
        live.serve(False)
        said = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
        assert len(said) == 1
        assert "this process is without the hub of the others" in said[0]
        monkeypatch.setattr(client, "_HANDSHAKE", handshake)
        live.meeting._settings = live.settings.updated({"publish_timeout": 20.0})
    wait_until(lambda: live.meeting.is_serving, 20, "it to find its hub when there is one")
    assert live.publish("news", PATCH)
    assert not live.meeting.is_cut_off


# Ends


def test_a_life_that_is_closed_leaves_nothing_and_the_next_meets_the_others_again(process):
    host, live = process(), process()
    serve(host)
    status(host.namespace)
    before, threads = descriptors(), threading.active_count()
    for _ in range(3):
        serve(live)
        live.publish("news", PATCH)
        live.close()
        wait_until(lambda: status(host.namespace)["processes"] == [], 20, "it to be gone")
    gc.collect()
    wait_until(lambda: threading.active_count() <= threads, 20, "its threads to end")
    wait_until(lambda: descriptors() <= before + 2, 20, "its descriptors to be closed")  # the hub's head


def test_one_that_is_dropped_leaves_the_place_and_nothing_open(namespace):
    before, threads = descriptors(), threading.active_count()
    for _ in range(3):
        live = Live(Settings(namespace=namespace))
        other = Live(Settings(namespace=namespace))
        serve(live)
        serve(other)
        other.publish("news", PATCH)
        del live, other
        gc.collect()
        wait_until(lambda: not is_taken(namespace), 20, "the place to be free")
    wait_until(lambda: threading.active_count() <= threads, 20, "the threads to end")
    wait_until(lambda: descriptors() <= before, 20, "the descriptors to be closed")


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


FORK = """
import os, sys, time
from afterload import text
from afterload.hub import rendezvous
from afterload.live import Live
from afterload.settings import Settings

def serve(live):
    live.serve(False)
    while not live.meeting.is_serving:
        time.sleep(0.01)

namespace, kind = sys.argv[1:]
host = Live(Settings(namespace=namespace))
serve(host)
live = host
if kind == "client":
    live = Live(Settings(namespace=namespace))
    serve(live)
live.publish("news", text("#a", "1"))
epoch = live.meeting.shared.epoch

def sockets():
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
        if "socket:" in link or "memfd:" in link:
            found.append(link)
    return found

before = sockets()
told, telling = os.pipe()
answer, answering = os.pipe()
child = os.fork()
if not child:
    os.close(telling)  # so that it ends with its parent, whatever that one ends of
    left = sockets()
    os.write(answering, repr(left).encode())
    os.read(told, 1)
    serve(live)
    position = live.publish("news", text("#a", "of the child"))
    os.write(answering, b"same" if position.startswith(epoch + ".") else b"other " + position.encode())
    os.read(told, 1)
    os._exit(0)
assert before, "there is something to be inherited"
assert os.read(answer, 1000) == b"[]", "the child holds what is its parent's"
assert live.publish("news", text("#a", "2")) == epoch + ".2", "the parent goes on"
os.write(telling, b".")
assert os.read(answer, 1000) == b"same", "the child is a client of the hub, as any process"
assert host.viewers("news") == 0
os.write(telling, b".")
assert os.waitpid(child, 0)[1] == 0
assert live.publish("news", text("#a", "4")) == epoch + ".4"
print("fine")
"""


@pytest.mark.parametrize("kind", ["host", "client"])
def test_a_forked_child_has_nothing_of_its_parents_and_comes_to_its_hub_by_itself(namespace, kind):
    assert run(FORK, namespace, kind) == "fine\n"


SCRIPT = """
import sys
from afterload import text
from afterload.live import Live
from afterload.settings import Settings
print(Live(Settings(namespace=sys.argv[1])).publish("news", text("#a", "from cron")))
"""


def test_a_process_of_its_own_publishes_and_ends_and_nobody_has_to_wait(process, namespace):
    host = process()
    serve(host)
    with viewer(host) as seen:
        until(seen, b"event: hello")
        assert run(SCRIPT, namespace) == f"{host.hub.epoch}.1\n"
        until(seen, b"from cron")
    wait_until(lambda: status(host.namespace)["processes"] == [], 20, "it to be gone")


LEAVES = """
import sys
from afterload.live import Live
from afterload.settings import Settings
live = Live(Settings(namespace=sys.argv[1]))
live.serve(False)
print(live.meeting.shared.epoch, flush=True)
"""


def test_the_place_of_a_process_that_ends_is_free_at_once(namespace):
    run(LEAVES, namespace)
    assert not is_taken(namespace)


def test_eight_threads_that_come_at_once_make_one_connection(process):
    host, live = process(), process()
    serve(host)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: live.serve(False), range(8)))
        positions = list(pool.map(lambda _: live.publish("news", PATCH), range(40)))
    assert len(set(positions)) == 40
    assert len(status(host.namespace)["processes"]) == 1


def test_a_position_is_no_greater_than_what_was_published_when_it_was_taken(process):
    host, live = process(), process()
    serve(host)
    serve(live)
    for _ in range(50):
        number = int(live.publish("news", PATCH).partition(".")[2])
        assert host.hub.head() == live.meeting.shared.head() == number
