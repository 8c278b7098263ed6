"""The Flask extension on every kind of server: the same pages, the same bytes, and no thread or session held."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.handover.certificate import make_certificate
from tests.handover.raw import Raw, dechunked, get, get_json
from tests.servers.process import Server, Servers, wait_until

APP = "tests.servers.live_app:app"
TAKEN = ("sync", "gthread", "werkzeug", "reload")
HELD = (*TAKEN, "tls-gthread", "tls-werkzeug")  # one way or another


@dataclass
class Site:
    """The site on one server."""

    server: Server
    kind: str

    @property
    def tls(self) -> bool:
        return self.kind.startswith("tls")

    def get(self, path: str, **headers: str) -> Raw:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return get(self.server, path, tls=self.tls, headers=named)

    def post(self, path: str) -> bytes:
        raw = get(self.server, path, tls=self.tls, method="POST", headers={"Content-Length": "0"})
        assert b" 200 OK\r\n" in raw.data, raw.data
        return payload(raw)

    def stats(self, channel: str = "") -> dict[str, Any]:
        of = f"?of={channel}" if channel else ""
        found: dict[str, Any] = get_json(self.server, f"/stats{of}", tls=self.tls)
        return found

    def follow(self, path: str, position: str = "") -> Raw:
        # Not kept alive, so that `rest` need not wait for the server to give up on a further request.
        headers = {"Accept": "text/event-stream", "Connection": "close"}
        if position:
            headers["Last-Event-ID"] = position
        raw = Raw(self.server, tls=self.tls).ask(path, headers=headers)
        raw.until(b"\r\n\r\n")
        return raw


def start(servers: Servers, kind: str, tmp_path_factory: pytest.TempPathFactory, *more: str) -> Site:
    tls = make_certificate(tmp_path_factory.mktemp("certificate")) if kind.startswith("tls") else ("", "")
    if kind in ("sync", "gthread", "gevent"):
        threads = 1 if kind == "sync" else 4  # more would make it gthread
        server = servers.gunicorn(APP, *more, worker_class=kind, threads=threads)
    elif kind == "tls-gthread":
        server = servers.gunicorn(APP, "--certfile", tls[0], "--keyfile", tls[1])
    elif kind in ("werkzeug", "reload"):
        reload = kind == "reload"
        server = servers.werkzeug(APP, *(("--exclude-patterns", "*") if reload else ()), reload=reload)
    else:
        env = {"SITE_CERT": tls[0], "SITE_KEY": tls[1]}
        server = servers.module("tests.servers.live_app", "{port}", kind[:3], ready="Running on", env=env)
    return Site(server, kind)


def payload(raw: Raw) -> bytes:
    """The body of a whole answer."""
    return dechunked(raw.body) if b"transfer-encoding: chunked" in raw.head.lower() else raw.body


def last_id(raw: Raw) -> str:
    return re.findall(rb"\nid: (\S+)\n", raw.data)[-1].decode()


def normal(blocks: bytes) -> bytes:
    """What differs from run to run, made the same: epochs, keys, and the spread of `retry`."""
    blocks = re.sub(rb"\bid: [\w~-]+\.", b"id: E.", blocks)
    return re.sub(rb"retry: \d+", b"retry: N", blocks)


@pytest.fixture(scope="module", params=HELD)
def site(
    request: pytest.FixtureRequest, module_servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Site:
    return start(module_servers, request.param, tmp_path_factory)


# One URL: the page and its stream.


def test_the_page_is_answered_by_the_server(site):
    raw = site.get("/named/page", Accept="text/html")
    assert b" 200 OK\r\n" in raw.data
    assert b"nothing received yet" in payload(raw)
    assert re.search(rb'data-position="[\w-]+\.\d+~"', raw.data)
    assert re.search(rb"\r\nvary: [^\r]*accept", raw.head.lower())


STREAM_HEAD = {
    b"cache-control": b"no-store, no-transform",
    b"content-type": b"text/event-stream; charset=utf-8",
    b"set-cookie": b"seen=head; Path=/",
    b"vary": b"Accept",
    b"x-accel-buffering": b"no",
    b"x-after": b"1",
}


def test_the_streams_head_is_that_of_the_app_on_every_server(site):
    with site.follow("/named/head") as raw:
        status, *lines = raw.head.split(b"\r\n")
        assert re.fullmatch(rb"HTTP/1\.[01] 200 OK", status)
        found = {name.lower(): value for name, value in (line.split(b": ", 1) for line in lines)}
        found.pop(b"server", None)
        assert re.fullmatch(rb"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", found.pop(b"date"))
        how = found.pop(b"transfer-encoding", None), found.pop(b"connection")
        assert how == (None, b"close") or (how[0] == b"chunked" and site.kind not in TAKEN)
        assert found == STREAM_HEAD


PRIVATE = b"""event: hello
id: E.0
retry: N
data: {"v":1,"resumed":false,"heartbeat":20.0,"channels":["~"]}

""" + b"".join(b"id: E.%d\ndata: step %d\n\n" % (i, i) for i in range(1, 6)) + b"""event: end
id: E.6
data: {"channel":"~","status":"done","message":""}

"""  # fmt: skip


def test_a_private_loop_is_the_same_bytes_on_every_server_and_204_after_its_end(site):
    with site.follow("/private") as raw:
        raw.rest()
    assert normal(payload(raw)) == PRIVATE
    gone = site.get("/private", Accept="text/event-stream", Last_Event_ID=last_id(raw))
    assert b" 204 NO CONTENT\r\n" in gone.data.upper()
    assert gone.body == b""


SHARED = b"""event: hello
id: 0
retry: N
data: {"v":1,"resumed":false,"heartbeat":20.0,"channels":["shared"]}

""" + b"".join(b"id: E\ndata: shared %d\n\n" % i for i in range(1, 6)) + b"""event: end
id: E
data: {"channel":"shared","status":"done","message":""}

"""  # fmt: skip


def test_a_shared_loop_runs_once_for_all_and_is_the_same_bytes_on_every_server(site):
    with site.follow("/shared") as raw, site.follow("/shared") as second:
        for viewer in (raw, second):
            viewer.until(b'"channels"')
        wait_until(lambda: viewers(site, "shared") == 2, 20, "both to follow")
        site.post("/go")
        for viewer in (raw, second):
            viewer.rest()
            viewer.close()  # gunicorn waits for it, and closes no other connection meanwhile
    for viewer in (raw, second):
        # Its offsets depend on what else was published on this server before.
        assert re.sub(rb"id: E\.\d+", b"id: E", normal(payload(viewer))) == SHARED
    gone = site.get("/shared", Accept="text/event-stream", Last_Event_ID=last_id(raw))
    assert b" 204 NO CONTENT\r\n" in gone.data.upper()


def viewers(site: Site, channel: str) -> int:
    found: int = site.stats(channel)["following"][channel]
    return found


NAMED = rb"""event: hello
id: 0
retry: N
data: {"v":1,"resumed":false,"heartbeat":20.0,"channels":["cut-a","cut-b"]}

event: patch
id: E
data: ["cut-a",1,[["text","#data","one"],["append_text","#log","one\u003cbr>"]]]

event: patch
id: E
data: ["cut-b",1,[["text","#data","two"],["append_text","#log","two\u003cbr>"]]]

"""


def test_channels_by_name_are_the_same_bytes_on_every_server_and_resume_where_they_were_cut(site):
    with site.follow("/named/cut") as raw:
        raw.until(b'"channels"')
        wait_until(lambda: viewers(site, "cut-b") == 1, 20, "it to be held")
        site.post("/publish/cut-a/one")
        raw.until(b"br>")
        site.post("/publish/cut-b/two")
        raw.until(b"br>", 2)
        raw.until(b"\n\n", 3)
        at = last_id(raw)
        # In chunks or not; the last one's end may not be there yet.
        received = re.sub(rb"\r\n[0-9a-fA-F]+\r\n", b"", b"\r\n" + raw.body).strip(b"\r\n") + b"\n\n"
    assert re.sub(rb"id: E\.\d+", b"id: E", normal(received)) == NAMED

    site.post("/publish/cut-a/three")
    with site.follow("/named/cut", at) as raw:
        raw.until(b"three\\u003cbr>")
        assert b'"resumed":true' in raw.data
        assert f"event: hello\nid: {at}\n".encode() in raw.data
        for word in (b"one", b"two", b"event: snapshot", b"event: refresh"):
            assert word not in raw.body
        wait_until(lambda: viewers(site, "cut-b") == 1, 20, "it to be held")
        site.post("/publish/cut-b/four")
        raw.until(b"four\\u003cbr>")
    wait_until(lambda: viewers(site, "cut-b") == 0, 20, "the viewer to be seen leaving")


# No worker, context or session is held.


def test_many_viewers_are_held_beside_ordinary_requests_on_a_pool_of_one(site):
    # Through the server each holds a thread of it, and there is one to be left for the private loops' streams.
    most = 60 if site.kind in TAKEN else 1
    opened = [site.follow("/named/many") for _ in range(most)]
    try:
        for raw in opened:
            raw.until(b'"channels"')
        wait_until(lambda: viewers(site, "many-a") == most, 20, f"{most} viewers to be held")
        for _ in range(5):
            assert payload(site.get("/plain")) == b"plain 1"
            with site.follow("/private") as private:
                assert b"event: end" in private.rest()
        site.post("/publish/many-a/everybody")
        for raw in opened:
            raw.until(b"everybody")
    finally:
        for raw in opened:
            raw.close()
    wait_until(lambda: viewers(site, "many-a") == 0, 20, "all to be seen leaving")


def test_each_stream_was_handed_over_or_none_was(site):
    before = site.stats()
    with site.follow("/private") as raw:
        raw.rest()
    with site.follow("/named/counted") as raw:
        raw.until(b'"channels"')
    after = site.stats()
    done = after["handovers"] - before["handovers"], after["fallbacks"] - before["fallbacks"]
    assert done == ((2, 0) if site.kind in TAKEN else (0, 2))
    assert (after["fallbacks"] if site.kind in TAKEN else after["handovers"]) == 0
    assert after["errors"] == 0


@pytest.mark.parametrize(("path", "status"), [("/forbidden", b"403"), ("/broken", b"500"), ("/none", b"404")])
def test_what_the_app_refuses_is_refused_by_the_app(site, path, status):
    raw = site.get(path, Accept="text/event-stream")
    assert raw.data.split(b" ")[1] == status
    assert b"secret detail" not in raw.data
    assert b"Traceback" not in raw.data
    assert b"text/html" in raw.head


def test_a_fallback_is_said_once_and_why(site):
    with site.follow("/private") as raw:
        raw.rest()
    said = site.server.log_of_this_run().count("holds a thread of the server")
    assert said == (0 if site.kind in TAKEN else 1)
    if site.tls:
        assert "does TLS itself" in site.server.log_of_this_run()


def test_nothing_was_logged_as_an_error(site):
    log = site.server.log_of_this_run().replace("RuntimeError: secret detail", "")
    log = re.sub(r"(?s)Exception on /broken.*?raise RuntimeError\(\"secret detail\"\)", "", log)
    assert "Traceback" not in log
    assert "afterload: an error" not in log


# Bounds of the machine.


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_more_viewers_than_descriptors_leave_the_server_as_it_is(servers, kind):
    """Without a reserve the threaded worker ends at the first connection that it cannot accept."""
    threads = 4 if kind == "gthread" else 1
    limited = f"ulimit -n 160; exec {sys.executable} -m gunicorn {APP} --bind 127.0.0.1:{{port}}"
    limited += f" --worker-class {kind} --threads {threads} --no-control-socket"
    limited += " --config python:tests.servers.gunicorn_conf"
    site = Site(servers.command(f"few-{kind}", ["sh", "-c", limited], ready="Worker ready"), kind)
    before = site.stats()["pid"]
    held: list[Raw] = []
    through = short = 0
    for _ in range(200):
        raw = site.follow("/named/some")
        raw.until(b'"channels"')
        through += b"\r\nServer: gunicorn" in raw.head
        if through > threads // 2:  # past those that may hold a thread
            with raw:
                assert b"event: bye" in raw.rest()
            short += 1
        else:
            held.append(raw)
    assert 50 < len(held) < 160
    assert site.stats("some-a")["following"]["some-a"] == len(held) == 200 - short
    site.post("/publish/some-a/everybody")
    for raw in held:
        raw.until(b"everybody")
        raw.close()
    assert site.stats()["pid"] == before
    assert site.server.log_of_this_run().count("is left to the server") == 1


# A server that nobody knows, with one thread: there is none to hold.


def test_a_server_of_one_thread_serves_short_streams_and_stays_free(servers, tmp_path_factory):
    site = start(servers, "unknown", tmp_path_factory)
    texts: list[bytes] = []
    position = ""
    for _ in range(100):
        raw = site.get(
            "/private", Accept="text/event-stream", **({"Last_Event_ID": position} if position else {})
        )
        if b" 204 " in raw.data.partition(b"\r\n")[0]:
            break
        assert b"event: hello" in raw.body
        texts += re.findall(rb"data: (step \d)", raw.body)
        position = last_id(raw)
        assert (b"event: bye" in raw.body) != (b"event: end" in raw.body)
    else:
        raise AssertionError("the loop has no end")
    assert texts == [b"step %d" % i for i in range(1, 6)]
    assert site.get("/plain").body == b"plain 1"
    with site.follow("/named/some") as raw:
        assert b"event: bye" in raw.rest()
    stats = site.stats()
    assert stats["handovers"] == 0
    assert stats["viewers"] == 0


# Several processes: they have one hub, which is none of them.


def workers(site: Site, count: int) -> set[int]:
    """So many of them, once each has answered."""
    answered: set[int] = set()

    def all_of_them() -> bool:
        answered.add(site.stats()["pid"])
        return len(answered) >= count

    wait_until(all_of_them, 20, f"{count} workers to have answered")
    return answered


def post_to(site: Site, worker: int, path: str) -> bytes:
    """A request that this worker answers."""
    found: list[bytes] = []

    def answered_by_it() -> bool:
        with Raw(site.server).ask("/stats") as raw:
            raw.until(b"}\n")
            if json.loads(raw.body)["pid"] != worker:
                return False
            raw.data = b""  # what is asked for next, by the same connection, is asked of the same worker
            found.append(raw.ask(path, method="POST", headers={"Connection": "close"}).rest())
        return True

    wait_until(answered_by_it, 20, f"worker {worker} to answer")
    assert b" 200 OK\r\n" in found[0]
    return found[0].partition(b"\r\n\r\n")[2]


def test_what_each_of_several_workers_publishes_arrives_at_the_viewers_of_all(servers):
    site = Site(servers.gunicorn(APP, workers=2), "gthread")
    both = workers(site, 2)
    opened = [site.follow("/named/some") for _ in range(20)]
    for raw in opened:
        raw.until(b'"channels"')
    wait_until(lambda: viewers(site, "some-a") == len(opened), 20, "all of them to be held")
    positions = [post_to(site, pid, f"/publish/some-a/word-{pid}-").decode() for pid in both]
    for raw in opened:
        for pid in both:
            raw.until(f"word-{pid}-<br>".replace("<", "\\u003c").encode())
        assert [last_id(raw)] == positions[-1:]
        raw.close()
    stats = site.stats()
    assert stats["hub"] == "process"
    assert {process["pid"] for process in stats["processes"]} == both
    assert "short streams" not in site.server.log_of_this_run()
    wait_until(lambda: viewers(site, "some-a") == 0, 20, "all to be seen leaving")


def test_a_shared_loop_runs_once_for_the_viewers_of_several_workers(servers):
    site = Site(servers.gunicorn(APP, workers=2), "gthread")
    both = workers(site, 2)
    opened = [site.follow("/shared") for _ in range(12)]
    for raw in opened:
        raw.until(b'"channels"')
    wait_until(lambda: viewers(site, "shared") == len(opened), 20, "all of them to be held")
    runner = site.stats()["loops_run"]["shared"]
    assert runner in both
    for pid in both - {runner}:
        post_to(site, pid, "/go")  # of no use there: it waits in the other one
    post_to(site, runner, "/go")
    for raw in opened:
        raw.rest()
        assert re.sub(rb"id: E\.\d+", b"id: E", normal(payload(raw))) == SHARED
        raw.close()


def test_with_max_requests_viewers_are_held_and_stay_when_their_worker_ends(servers, tmp_path_factory):
    site = start(servers, "gthread", tmp_path_factory, "--max-requests", "10")
    with site.follow("/named/some") as raw:
        raw.until(b'"channels"')
        seen = {site.stats()["pid"]}

        def three() -> bool:
            seen.add(site.stats()["pid"])
            return len(seen) >= 3

        wait_until(three, 40, "two workers to have ended")
        site.post("/publish/some-a/everybody")
        raw.until(b"everybody")
        assert raw.data.count(b"event: ") == 2, "it is not to be told of anything but hello and the patch"
    assert "short streams" not in site.server.log_of_this_run()


def test_max_requests_is_told_of_once_where_a_page_has_a_loop_of_its_own(servers, tmp_path_factory):
    site = start(servers, "gthread", tmp_path_factory, "--max-requests", "1000")
    for _ in range(3):
        with site.follow("/named/some") as raw:
            raw.until(b'"channels"')
    assert "(max_requests)" not in site.server.log_of_this_run()
    for _ in range(3):
        with site.follow("/private") as raw:
            assert b"event: end" in raw.rest()
    assert site.server.log_of_this_run().count("ends its worker after 1000 requests (max_requests)") == 1


# Starting and ending.


def eventpolls(pid: int) -> int:
    links = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(fd))
        except FileNotFoundError:
            pass
    return sum("eventpoll" in link for link in links)


def tasks(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_nothing_starts_at_import_neither_in_the_reloaders_parent_nor_in_its_child(servers, tmp_path_factory):
    site = start(servers, "reload", tmp_path_factory)
    # The parent listens, and so can be connected to before it has started the child.
    wait_until(lambda: len(site.server.children()) == 1, 20, "the reloader's child")
    [child] = site.server.children()
    parent = site.server.pid
    assert (tasks(parent), eventpolls(parent)) == (1, 0)
    wait_until(lambda: tasks(child) == 2, 20, "the thread that serves beside the one that looks for changes")
    assert eventpolls(child) == 0
    with site.follow("/named/some") as raw:
        raw.until(b'"channels"')
        # Werkzeug has one of its own for a moment, at the end of each request.
        wait_until(lambda: eventpolls(child) == 1, 20, "the hub's poller, and no other")
        assert (tasks(parent), eventpolls(parent)) == (1, 0)


def test_under_the_debugger_viewers_are_handed_over_too(servers):
    site = Site(servers.werkzeug(APP, "--debug", "--exclude-patterns", "*", reload=True), "reload")
    with site.follow("/named/some") as raw:
        raw.until(b'"channels"')
        wait_until(lambda: viewers(site, "some-a") == 1, 20, "it to be held")
        assert b"secret detail" in site.get("/broken").data  # the debugger's page
        site.post("/publish/some-a/one")
        raw.until(b"one")
    stats = site.stats()
    assert (stats["handovers"], stats["fallbacks"], stats["errors"]) == (1, 0, 0)


def test_an_app_that_is_loaded_before_the_fork_works(servers, tmp_path_factory):
    site = start(servers, "gthread", tmp_path_factory, "--preload")
    arbiter = eventpolls(site.server.pid)
    with site.follow("/named/some") as raw:
        raw.until(b'"channels"')
        wait_until(lambda: viewers(site, "some-a") == 1, 20, "it to be held")
        site.post("/publish/some-a/one")
        raw.until(b"one")
        assert eventpolls(site.server.pid) == arbiter


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_two_hundred_viewers_get_their_bye_and_do_not_hold_up_the_end(servers, tmp_path_factory, kind):
    site = start(servers, kind, tmp_path_factory, "--graceful-timeout", "60")
    opened = [site.follow("/named/some") for _ in range(200)]
    for raw in opened:
        raw.until(b'"channels"')
    site.server.stop(timeout=20)  # a third of what gunicorn would wait for a request
    assert site.server.exit_code == 0
    retries = set()
    for raw in opened:
        found = re.search(rb'event: bye\nretry: (\d+)\ndata: {"retry":(\d+)}\n\n\Z', raw.rest())
        assert found is not None
        retries.add(found[1])
        raw.close()
    assert len(retries) > 10  # they are not to come back in one moment


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_a_worker_that_ends_says_bye_before_its_last_request_is_answered(
    servers, tmp_path_factory, tmp_path, kind
):
    """Its viewers would miss what is published in the next worker, which works already."""
    site = start(servers, kind, tmp_path_factory, "--graceful-timeout", "60")
    mark = tmp_path / "slow"
    with site.follow("/named/some") as raw, Raw(site.server) as slow:
        raw.until(b'"channels"')
        slow.ask(f"/slow?mark={mark}", headers={"Connection": "close"})
        wait_until(mark.exists, 20, "the slow request to have begun")
        site.server.signal(signal.SIGTERM)
        assert b"event: bye" in raw.rest()
        assert slow.silent()
        mark.unlink()
        assert slow.rest().endswith(b"slow")
    wait_until(lambda: not site.server.running, 20, "the server to end")


def test_a_worker_that_is_replaced_lets_its_viewers_follow_the_next(servers, tmp_path_factory):
    site = start(servers, "gthread", tmp_path_factory)
    with site.follow("/named/some") as raw:
        raw.until(b'"channels"')
        first = site.stats()["pid"]
        site.server.signal(signal.SIGHUP)
        assert b"event: bye" in raw.rest()
    wait_until(lambda: site.stats()["pid"] != first, 20, "the next worker to answer")
    with site.follow("/named/some", "gone.7") as raw:
        raw.until(b"event: refresh")


def test_requests_and_viewers_at_once_from_many_threads_find_no_thread_held(servers, tmp_path_factory):
    site = start(servers, "gthread", tmp_path_factory)
    failures: list[str] = []

    def client(number: int) -> None:
        for i in range(10):
            try:
                if number % 2:
                    with site.follow("/private") as raw:
                        assert b"step 5" in raw.rest()
                else:
                    with site.follow("/named/some") as raw:
                        raw.until(b'"channels"')
                        assert b"plain 1" in site.get("/plain").body
            except Exception as error:
                failures.append(f"{number}.{i}: {error!r}")

    running = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert failures == []
    wait_until(lambda: site.stats()["viewers"] == 0, 20, "all to be seen leaving")
    stats = site.stats()
    assert (stats["handovers"], stats["fallbacks"], stats["errors"]) == (80, 0, 0)


def test_under_gevent_viewers_are_held_by_greenlets_and_follow(servers, tmp_path_factory):
    site = start(servers, "gevent", tmp_path_factory)
    with site.follow("/private") as raw:
        raw.until(b"event: end")
    with site.follow("/named/some") as raw:
        raw.until(b'"channels"')
        wait_until(lambda: viewers(site, "some-a") == 1, 20, "it to be held")
        assert payload(site.get("/plain")) == b"plain 1"
        site.post("/publish/some-a/one")
        raw.until(b"one")
    stats = site.stats()
    assert (stats["handovers"], stats["fallbacks"], stats["errors"]) == (0, 2, 0)
    assert "worker class 'gevent' cannot be taken" in site.server.log_of_this_run()
