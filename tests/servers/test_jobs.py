"""Jobs under real servers: started in one process, followed and ended from others, and what happens to their hub."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from afterload.wire.sse import Decoder, Event
from tests.handover.raw import Raw, get, get_json
from tests.servers.process import ROOT, Server, Servers, wait_until
from tests.soak.cafe import hub_of

APP = "tests.servers.jobs_app:app"
STOPPED = "The server was stopped before it had finished."
GONE = "The server no longer has what this page was following."


@pytest.fixture
def start_server(servers: Servers, tmp_path: Path) -> Callable[..., Server]:
    def start(workers: int, *arguments: str) -> Server:
        return servers.gunicorn(APP, *arguments, workers=workers, env={"JOBS_FOLDER": str(tmp_path)})

    return start


def counted(event: Event) -> int:
    """What an event has the page show; 0 if it counts nothing."""
    return max([int(count) for count in re.findall(r'"#n","(\d+)"', event.data)], default=0)


class Follower:
    """A page that follows a job, and what it was sent."""

    def __init__(self, raw: Raw, id: str, position: str) -> None:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": position} if position else {})
        self.raw = raw.ask(f"/jobs/{id}", headers=headers)
        self.decoder = Decoder()
        self.events: list[Event] = []
        while b"\r\n\r\n" not in raw.data:
            data = raw.sock.recv(65536)
            if not data:  # of a server that ends
                raise ConnectionResetError("ended without an answer")
            raw.data += data
        assert raw.data.startswith(b"HTTP/1.1 200"), raw.data
        self._feed(raw.body)

    def _feed(self, data: bytes) -> None:
        self.events += self.decoder.feed(data)

    def until(self, condition: Callable[[Event], bool]) -> Event:
        """The first event of that kind; of those before it nothing is left."""
        while True:
            while self.events:
                event = self.events.pop(0)
                if condition(event):
                    return event
            data = self.raw.sock.recv(65536)
            assert data, "the stream has ended without it"
            self._feed(data)

    def counts(self) -> Event:
        """The next event that counts."""
        return self.until(lambda event: '"#n"' in event.data)

    def end(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.until(lambda event: event.event == "end").data)
        return found


@contextmanager
def following(server: Server, id: str, position: str = "") -> Iterator[Follower]:
    with Raw(server) as raw:
        yield Follower(raw, id, position)


def post(server: Server, path: str) -> Any:
    return json.loads(get(server, path, method="POST").body)


def by_another(server: Server, pid: int, path: str, method: str = "GET") -> Any:
    """What another process than this one answers."""
    found: list[Any] = []

    def answered() -> bool:
        with Raw(server) as raw:
            # by one connection it is one worker
            raw.ask("/stats").until(b"}\n")
            if json.loads(raw.body)["pid"] == pid:
                return False
            raw.data = b""
            raw.ask(path, method=method, headers={"Connection": "close"}).rest()
            found.append(json.loads(raw.body))
        return True

    wait_until(answered, 20, "another worker to answer")
    return found[0]


def status(server: Server, id: str) -> str:
    return str(get_json(server, f"/status/{id}")["status"])


@pytest.mark.parametrize("workers", [1, 3])
def test_a_job_is_followed_and_ended_by_any_worker_and_remembered(start_server, tmp_path, workers):
    server = start_server(workers)
    started = post(server, "/start/one")
    job, pid = started["id"], started["pid"]
    for _ in range(6):  # of whichever workers
        with following(server, job) as page:
            page.counts()
    if workers > 1:
        assert by_another(server, pid, f"/status/{job}")["status"] == "open"
    (tmp_path / "one").touch()
    with following(server, job) as page:
        assert page.end() == {"channel": f"job-{job}", "status": "done", "message": ""}
    for _ in range(4):
        with following(server, job) as late:
            assert '"all"' in late.counts().data
            assert late.end()["status"] == "done"
    assert status(server, job) == "done"
    assert b" 404 " in get(server, "/jobs/none").head


@pytest.mark.parametrize("workers", [1, 3])
def test_a_job_is_cancelled_from_any_worker_and_its_pages_see_it(start_server, tmp_path, workers):
    server = start_server(workers)
    started = post(server, "/start/one")
    with following(server, started["id"]) as page:
        page.counts()
        if workers > 1:
            answer = by_another(server, started["pid"], f"/cancel/{started['id']}", "POST")
        else:
            answer = post(server, f"/cancel/{started['id']}")
        assert answer["told"] is True
        assert page.end()["status"] == "cancelled"
    assert (tmp_path / "one-ended").exists()
    assert status(server, started["id"]) == "cancelled"
    assert post(server, f"/cancel/{started['id']}")["told"] is False


def test_a_job_is_lost_with_a_worker_that_is_killed_and_others_go_on(start_server, tmp_path):
    server = start_server(3)
    mine = post(server, "/start/mine")
    other: dict[str, Any] = {}

    def started_elsewhere() -> bool:
        other.update(post(server, "/start/other"))
        return bool(other["pid"] != mine["pid"])

    wait_until(started_elsewhere, 20, "another worker to start one")
    with following(server, mine["id"]) as page, following(server, other["id"]) as others:
        page.counts()
        os.kill(mine["pid"], signal.SIGKILL)
        assert page.end() == {"channel": f"job-{mine['id']}", "status": "lost", "message": GONE}
        others.counts()
        (tmp_path / "other").touch()
        assert others.end()["status"] == "done"
    assert status(server, mine["id"]) == "lost"  # it is not begun again
    assert not (tmp_path / "mine-ended").exists()


def test_a_job_goes_on_where_its_hub_is_killed_and_its_pages_are_right_again(start_server, tmp_path):
    server = start_server(3)
    job = post(server, "/start/one")["id"]
    done = post(server, "/start/done")["id"]
    (tmp_path / "done").touch()
    wait_until(lambda: status(server, done) == "done", 20, "the other to be done")
    with following(server, job) as page:
        last = page.until(lambda event: counted(event) >= 10)
        os.kill(hub_of(get_json(server, "/stats")["namespace"]), signal.SIGKILL)
        page.raw.rest()
    seen: set[str] = set()

    def is_back() -> bool:
        """The page comes again, to whichever worker, until it is brought to the state of the job."""
        with following(server, job, last.id) as again:
            event = again.until(lambda event: event.event != "hello")
            seen.add(event.event)
            if event.event == "bye":
                return False
            snapshot = again.until(lambda event: event.event == "snapshot")
            assert '"append_text","#log","..."' in snapshot.data
            return counted(snapshot) >= 10  # it has not begun again

    wait_until(is_back, 30, "the page to be right again")
    assert seen <= {"bye", "reset"}  # and was never told that the job is lost
    assert not (tmp_path / "one-ended").exists()
    assert status(server, done) == "done"  # what had ended is still known
    (tmp_path / "one").touch()
    with following(server, job) as page:
        assert page.end()["status"] == "done"


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("sig", [signal.SIGHUP, signal.SIGTERM])
def test_a_job_that_ends_with_its_server_says_so(start_server, tmp_path, workers, sig):
    server = start_server(workers)
    started = post(server, "/start/one")
    with following(server, started["id"]) as page:
        last = page.counts()
        server.signal(sig)
        assert page.end() == {"channel": f"job-{started['id']}", "status": "lost", "message": STOPPED}
    wait_until((tmp_path / "one-ended").exists, 20, "it to have ended")
    if sig == signal.SIGHUP:
        # A page that did not hear of it is told as well, and not sent away.
        def is_told() -> bool:
            try:
                with following(server, started["id"], last.id) as page:
                    event = page.until(lambda event: event.event in ("end", "bye"))
            except ConnectionError:  # of the worker that ends
                return False
            return event.event == "end" and json.loads(event.data)["status"] == "lost"

        wait_until(is_told, 20, "the page to be told that its job is lost")


SCRIPT = """
from tests.servers.jobs_app import counting, live
job = live.start(counting, "script")
print(job.id, flush=True)
print(job.wait(60), flush=True)
"""


def test_a_script_starts_one_that_pages_of_the_app_follow_also_where_the_app_is_started_anew(
    start_server, tmp_path
):
    server = start_server(1)
    environment = {**os.environ, **server._env}
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None
        job = script.stdout.readline().strip()
        with following(server, job) as page:
            page.counts()
        server.kill()  # and with it the hub
        server.start()
        with following(server, job) as page:  # no 404, as the script may yet come
            page.counts()
            (tmp_path / "script").touch()
            assert page.end()["status"] == "done"
        assert script.stdout.readline().strip() == "done"
