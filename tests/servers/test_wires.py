"""The WebSocket and the poll on real servers: who is let in, what comes, and what they cost."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from afterload.wire.sse import Decoder, Event
from tests.handover.raw import Raw
from tests.servers.process import Server, Servers, wait_until
from tests.servers.test_live import HELD, TAKEN, Site, payload, start

JSON = "application/json"


@pytest.fixture(scope="module", params=[kind for kind in HELD if kind not in TAKEN])
def through(
    request: pytest.FixtureRequest, module_servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Site:
    return start(module_servers, request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=["gthread", "sync", "werkzeug"])
def taken(
    request: pytest.FixtureRequest, module_servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Server:
    return start(module_servers, request.param, tmp_path_factory).server


@pytest.fixture(scope="module")
def several(module_servers: Servers) -> Server:
    return module_servers.gunicorn("tests.servers.live_app:app", workers=3, threads=2)


def websocket(server: Server, path: str, position: str = "", **more: Any) -> connect:
    offered = ["afterload.v1"] + ([f"afterload.position.{position}"] if position else [])
    url = f"ws://127.0.0.1:{server.port}{path}"
    return connect(url, subprotocols=offered, open_timeout=10, close_timeout=2, **more)  # type: ignore[arg-type]


def events(line: ClientConnection, until: str) -> list[Event]:
    """What comes, up to the first event of a type."""
    decoder, found = Decoder(), []
    while not any(event.event == until for event in found):
        found += decoder.feed(str(line.recv(timeout=10)).encode())
    return found


def poll(server: Server, path: str, position: str, wait: float | None = None, **more: str) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=40)) as line:
        headers = {"Accept": JSON, "Last-Event-ID": position, **more}
        line.request("GET", path, headers=headers | ({} if wait is None else {"Al-Wait": str(wait)}))
        answer = line.getresponse()
        said = answer.read()
        assert answer.status == 204 or answer.getheader("Content-Type") == JSON
        return answer.status, json.loads(said) if said else None


def publish(server: Server, channel: str, word: str) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as line:
        line.request("POST", f"/publish/{channel}/{word}")
        assert line.getresponse().status == 200


def stats(server: Server, *of: str) -> dict[str, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as line:
        line.request("GET", "/stats?" + "&".join(f"of={name}" for name in of))
        found: dict[str, Any] = json.loads(line.getresponse().read())
        return found


# The WebSocket


def test_a_websocket_has_the_apps_headers_and_what_is_published(taken: Server) -> None:
    with websocket(taken, "/named/ws") as line:
        assert line.subprotocol == "afterload.v1"
        assert line.response is not None
        headers = line.response.headers
        assert headers["Set-Cookie"] == "seen=ws; Path=/"
        assert headers["X-After"] == "1"
        assert "Content-Type" not in headers
        assert events(line, "hello")[0].event == "hello"
        publish(taken, "ws-a", "one")
        [patch] = events(line, "patch")
        assert json.loads(patch.data)[2] == [["text", "#data", "one"], ["append_text", "#log", "one<br>"]]
        line.ping().wait(20)
        assert stats(taken, "ws-a")["following"] == {"ws-a": 1}
    wait_until(lambda: stats(taken, "ws-a")["following"] == {"ws-a": 0}, 20, "the viewer to be forgotten")


def test_a_websocket_holds_no_thread(taken: Server) -> None:
    before = stats(taken)["threads"]
    with ExitStack() as lines:
        for _ in range(20):
            events(lines.enter_context(websocket(taken, "/named/many")), "hello")
        # as many as the server has for requests
        wait_until(lambda: stats(taken)["threads"] <= before + 4, 20, "the threads of the requests to end")


def test_a_websocket_resumes_by_the_position_it_offers(taken: Server) -> None:
    with websocket(taken, "/named/again") as line:
        events(line, "hello")
        publish(taken, "again-a", "first")
        position = events(line, "patch")[-1].id
    publish(taken, "again-a", "second")
    with websocket(taken, "/named/again", position) as line:
        hello, patch = events(line, "patch")
        assert json.loads(hello.data)["resumed"]
        assert json.loads(patch.data)[2][0] == ["text", "#data", "second"]


def test_a_loop_of_its_own_is_followed_to_its_end(taken: Server) -> None:
    with websocket(taken, "/private") as line:
        got = events(line, "end")
        assert [event.data for event in got if event.event == "message"] == [f"step {i}" for i in range(1, 6)]
        with pytest.raises(ConnectionClosed) as closed:
            line.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000


def test_without_a_subprotocol_it_is_none_too(taken: Server) -> None:
    with connect(f"ws://127.0.0.1:{taken.port}/named/plain") as line:
        assert line.subprotocol is None
        assert events(line, "hello")


@pytest.mark.parametrize(
    ("path", "status"), [("/forbidden", 403), ("/plain", 200), ("/broken", 500), ("/nowhere", 404)]
)
def test_what_the_view_says_is_the_answer(taken: Server, path: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused, websocket(taken, path):
        pass
    assert refused.value.response.status_code == status


@pytest.mark.parametrize(
    ("origin", "site", "status"),
    [
        ("http://127.0.0.1:{port}", None, 101),
        ("http://127.0.0.1:1", None, 403),
        ("http://evil.example", None, 403),
        ("null", None, 403),
        ("https://shop.example", "same-origin", 101),  # a proxy in front has another name
        ("http://127.0.0.1:{port}", "cross-site", 403),
        ("http://sub.127.0.0.1:{port}", "same-site", 403),
        (None, None, 101),  # no browser
    ],
)
def test_only_pages_of_its_own_origin_may_open_it(
    taken: Server, origin: str | None, site: str | None, status: int
) -> None:
    more: dict[str, Any] = {"additional_headers": {"Sec-Fetch-Site": site} if site else {}}
    if origin:
        more["origin"] = origin.format(port=taken.port)
    try:
        with websocket(taken, "/named/origin", **more):
            got = 101
    except InvalidStatus as refused:
        got = refused.response.status_code
    assert got == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-WebSocket-Version": "8"}, 400),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Protocol": "afterload.v1\x0b"}, 400),
        ({"Sec-WebSocket-Protocol": "afterload.v1, \xe9"}, 400),
        ({"Upgrade": ""}, 426),  # a proxy has taken it out
        ({"Connection": "close"}, 426),
    ],
)
def test_a_handshake_that_is_none_is_refused(taken: Server, headers: dict[str, str], status: int) -> None:
    asked = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": "afterload.v1",
    } | headers
    with closing(http.client.HTTPConnection("127.0.0.1", taken.port, timeout=10)) as line:
        line.request("GET", "/named/none", headers={k: v for k, v in asked.items() if v})
        assert line.getresponse().status == status
    assert stats(taken, "none-a")["following"] == {"none-a": 0}


def test_where_the_connection_cannot_be_taken_it_is_refused_and_nothing_is_started(through: Site) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    with Raw(through.server, tls=through.tls).ask("/private", headers=headers) as raw:
        assert b" 501 " in raw.until(b"\r\n\r\n").split(b"\r\n")[0]
    assert through.stats()["loops"] == 0


# The poll


def test_a_poll_is_answered_as_soon_as_there_is_news(taken: Server) -> None:
    status, [hello, ping] = poll(taken, "/named/poll", "0")
    assert (status, hello[0], ping[0]) == (200, "hello", "ping")
    later = threading.Timer(0.3, publish, (taken, "poll-a", "one"))
    later.start()
    status, [hello, patch] = poll(taken, "/named/poll", ping[1], 20)
    later.join()
    assert (status, hello[1], patch[0]) == (200, ping[1], "patch")
    assert patch[2][2][0] == ["text", "#data", "one"]
    publish(taken, "poll-b", "two")
    status, [_, patch] = poll(taken, "/named/poll", patch[1], 0)
    assert patch[2][0] == "poll-b"


def test_a_poll_goes_through_a_server_that_keeps_its_connections(through: Site) -> None:
    raw = through.get("/named/through", Accept=JSON, Last_Event_ID="0")
    [hello, ping] = json.loads(payload(raw))
    assert (hello[0], ping[0]) == ("hello", "ping")
    for wait in ("0", "0.2"):
        raw = through.get("/named/through", Accept=JSON, Last_Event_ID=ping[1], Al_Wait=wait)
        assert [block[0] for block in json.loads(payload(raw))] == ["hello"]  # it has said 200 before
    through.post("/publish/through-a/one")
    raw = through.get("/named/through", Accept=JSON, Last_Event_ID=ping[1])
    assert [block[0] for block in json.loads(payload(raw))] == ["hello", "patch"]


def test_a_poll_without_news_is_a_204_after_its_wait(taken: Server) -> None:
    _, [_, ping] = poll(taken, "/named/quiet", "0")
    for wait in (0, 0.2):
        assert poll(taken, "/named/quiet", ping[1], wait) == (204, None)


def test_polls_that_wait_hold_no_thread_of_the_server(taken: Server) -> None:
    _, [_, ping] = poll(taken, "/named/crowd", "0")
    got: list[tuple[int, Any]] = []
    threads = [
        threading.Thread(target=lambda: got.append(poll(taken, "/named/crowd", ping[1], 20)))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: stats(taken, "crowd-a")["following"] == {"crowd-a": 20}, 10, "all to wait")
    publish(taken, "crowd-a", "all")
    for thread in threads:
        thread.join(10)
    assert [status for status, _ in got] == [200] * 20
    assert {json.dumps(blocks[1]) for _, blocks in got} == {json.dumps(got[0][1][1])}


def test_a_loop_of_its_own_is_polled_to_its_end(taken: Server) -> None:
    position, got = "0", []
    while not got or got[-1][0] != "end":
        status, blocks = poll(taken, "/private", position, 5)
        if status == 200:
            got += blocks
            position = [block[1] for block in blocks if block[1]][-1]
    assert [block[2] for block in got if block[0] == "message"] == [f"step {i}" for i in range(1, 6)]
    status, blocks = poll(taken, "/private", position, 5)
    assert (status, blocks[-1][0], blocks[-1][2]["status"]) == (200, "end", "done"), (
        "asked again, it is told again"
    )


def test_json_without_a_position_is_the_apps_own(taken: Server) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", taken.port, timeout=10)) as line:
        line.request("GET", "/named/own", headers={"Accept": JSON})
        answer = line.getresponse()
        assert answer.getheader("Content-Type", "").startswith("text/html")
        assert answer.getheader("Vary") == "Accept"


# Several workers


def test_every_wire_is_served_by_the_hub_of_several_workers(several: Server) -> None:
    with websocket(several, "/named/all") as line:
        events(line, "hello")
        _, [_, ping] = poll(several, "/named/all", "0")
        later = threading.Timer(0.3, publish, (several, "all-a", "one"))
        later.start()
        _, [_, patch] = poll(several, "/named/all", ping[1], 20)
        later.join()
        assert json.loads(events(line, "patch")[0].data) == patch[2]


def test_a_loop_of_ones_own_is_found_from_another_worker_on_every_wire(several: Server) -> None:
    position, got, workers = "0", [], set()
    while not got or got[-1][0] != "end":
        status, blocks = poll(several, "/private", position, 5)
        workers.add(stats(several)["pid"])
        if status == 200:
            got += blocks
            position = [block[1] for block in blocks if block[1]][-1]
    assert [block[2] for block in got if block[0] == "message"] == [f"step {i}" for i in range(1, 6)]


# Rights that have changed


@pytest.mark.parametrize("kind", ["shared", "private"])
def test_who_was_turned_away_is_sent_away_on_every_wire_and_nobody_else(
    several: Server, tmp_path: Path, kind: str
) -> None:
    path, mark = f"/owned/{kind}", tmp_path / "turned away"
    ann = {"X-User": "ann", "X-Turned-Away": str(mark)}
    bob = {"X-User": "bob", "X-Turned-Away": str(tmp_path / "never")}
    with ExitStack() as lines:
        of_ann = lines.enter_context(websocket(several, path, additional_headers=ann))
        of_bob = lines.enter_context(websocket(several, path, additional_headers=bob))
        stream = lines.enter_context(Raw(several))
        stream.ask(path, headers={"Accept": "text/event-stream", **ann}).until(b"event: hello")
        for line in (of_ann, of_bob):
            events(line, "hello")
        mark.touch()
        with closing(http.client.HTTPConnection("127.0.0.1", several.port, timeout=10)) as line:
            line.request("POST", "/revoke/ann")
            assert line.getresponse().status == 200
        assert events(of_ann, "bye")[-1].event == "bye"
        assert b"event: bye" in stream.rest()
        with pytest.raises(InvalidStatus) as refused, websocket(several, path, additional_headers=ann):
            pass
        assert refused.value.response.status_code == 403
        of_bob.ping().wait(20)
        if kind == "private":
            events(of_bob, "message")


@pytest.mark.parametrize("kind", ["shared", "private"])
def test_who_was_turned_away_while_the_view_let_them_in_is_sent_away(
    several: Server, tmp_path: Path, kind: str
) -> None:
    mark, slow = tmp_path / "turned away", tmp_path / "slow"
    ann = {"X-User": "ann", "X-Turned-Away": str(mark), "X-Slow": str(slow)}
    with Raw(several) as stream:
        stream.ask(f"/owned/{kind}", headers={"Accept": "text/event-stream", **ann})
        wait_until(slow.exists, 10, "the view to have let them in")
        mark.touch()
        with closing(http.client.HTTPConnection("127.0.0.1", several.port, timeout=10)) as line:
            line.request("POST", "/revoke/ann")
            assert line.getresponse().status == 200
        slow.unlink()
        assert b"event: bye" in stream.rest()
