"""The handover on real servers: a taken connection is the hub's alone, and the server is free again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from afterload.handover.request_body import MOST
from tests.handover.certificate import make_certificate
from tests.handover.lab import HEAD
from tests.handover.raw import Raw, dechunked, get, get_json
from tests.servers.process import Server, Servers, wait_until

pytestmark = pytest.mark.server

LAB = "tests.handover.lab"
NAMES = {
    "sync": r"gunicorn \S+ sync",
    "gthread": r"gunicorn \S+ gthread",
    "threaded": r"Werkzeug \S+ threaded",
    "single": r"Werkzeug \S+ single-threaded",
    "debug": r"Werkzeug \S+ threaded",
}


def start(servers: Servers, kind: str, env: dict[str, str] | None = None) -> Server:
    if kind in ("sync", "gthread", "gevent"):
        threads = 1 if kind == "sync" else 4  # more would make it gthread
        return servers.gunicorn(f"{LAB}:app", worker_class=kind, threads=threads, env=env)
    return servers.module(LAB, "{port}", kind, ready="Running on", env=env)


@pytest.fixture(scope="module", params=list(NAMES))
def lab(request: pytest.FixtureRequest, module_servers: Servers) -> Server:
    server = start(module_servers, request.param)
    server.kind = request.param  # type: ignore[attr-defined]
    # Whatever is made once and kept, such as the first threads, is there from now on.
    for _ in range(8):
        assert get(server, "/plain").body == b"plain"
    return server


@pytest.fixture(autouse=True)
def nobody_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "lab" in request.fixturenames:
        get(request.getfixturevalue("lab"), "/end")


def settled(server: Server) -> dict[str, int]:
    """The state of the server, when nothing seems to be on its way any more."""
    states: list[dict[str, int]] = []

    def rests() -> bool:
        states.append(get_json(server, "/state"))
        time.sleep(0.05)
        return len(states) >= 8 and all(state == states[-1] for state in states[-8:])

    wait_until(rests, 20, "the server to settle")
    return states[-1]


def becomes(server: Server, **wanted: int) -> None:
    """Waits for a state: a page has its first bytes before the server is through with its request."""
    wait_until(lambda: wanted.items() <= get_json(server, "/state").items(), 20, f"the state to be {wanted}")


def viewer(server: Server, path: str = "/stream") -> Raw:
    raw = Raw(server).ask(path)
    raw.until(b"\n\n")
    return raw


def test_the_taken_connection_delivers_what_the_hub_writes_and_nothing_else(lab):
    with viewer(lab) as raw:
        first = raw.data
        assert first.startswith(HEAD + b": ")
        get(lab, "/say?text=one.")
        assert raw.until(b"one.") == first + b"one."
        # By now a server of one thread is through with the request; the others are asked to say so.
        settled(lab)
        assert raw.silent()
        get(lab, "/say?text=two.")
        get(lab, "/end")
        assert raw.rest() == first + b"one.two."


def test_it_says_what_it_was_taken_from(lab):
    import re

    with viewer(lab) as raw:
        assert re.fullmatch(NAMES[lab.kind], raw.body.decode().strip(": \n"))


def test_more_viewers_than_threads_are_held_while_ordinary_requests_are_answered(lab):
    before = settled(lab)
    viewers = [viewer(lab) for _ in range(12)]
    for _ in range(8):
        assert get(lab, "/plain").body == b"plain"
    # One descriptor each, and no epoll of the server's has any of them.
    becomes(lab, held=12, fds=before["fds"] + 12, watched=before["watched"])
    get(lab, "/say?text=all.")
    for raw in viewers:
        raw.until(b"all.")
        raw.close()


def test_a_client_that_leaves_is_noticed_though_nobody_writes_to_it(lab):
    before = get_json(lab, "/state")["left"]
    viewer(lab).close()
    wait_until(lambda: get_json(lab, "/state")["left"] == [*before, "fin"], 10, "the client's FIN to be seen")


def test_taking_and_closing_leaks_no_descriptor(lab):
    viewer(lab).close()
    before = settled(lab)
    for _ in range(25):
        with viewer(lab) as raw:
            get(lab, "/end")
            raw.rest()
    for _ in range(25):
        viewer(lab).close()
    becomes(lab, fds=before["fds"])


@pytest.mark.parametrize("path", ["/boom", "/forgets", "/flood"])
def test_what_goes_wrong_after_the_take_does_not_reach_the_client(lab, path):
    """An error, a body never closed, or one of a middleware's own, which is more than a socket takes."""
    before = settled(lab)
    with viewer(lab, path) as raw:
        first = raw.data
        if path == "/boom":
            lab.wait_log("after the take")
        if path == "/flood":
            lab.wait_log("Resource temporarily unavailable")  # it must fail, and not wait for ever
        assert get(lab, "/plain").body == b"plain"
        becomes(lab, held=1)
        get(lab, "/say?text=still.")
        get(lab, "/end")
        assert raw.rest() == first + b"still."
    # Werkzeug's debugger keeps the frames of every error, and with them the far end of the dummy.
    kept = 1 if (lab.kind, path) == ("debug", "/boom") else 0
    becomes(lab, fds=before["fds"] + kept)


def test_a_second_request_on_a_kept_connection_can_be_taken(lab):
    if lab.kind != "gthread":
        with Raw(lab).ask("/plain") as raw:
            raw.rest()  # the others close after each answer, so there is no second one
            assert b"connection: close" in raw.head.lower()
        return
    before = settled(lab)
    with Raw(lab).ask("/plain") as raw:
        raw.until(b"plain", 2)  # the type's name, and the text
        wait_until(lambda: get_json(lab, "/state")["watched"] == before["watched"] + 1, 10, "it to be kept")
        raw.data = b""
        raw.ask("/stream").until(b"\n\n")
        assert raw.data.startswith(HEAD)
        becomes(lab, held=1, watched=before["watched"])
        get(lab, "/say?text=kept.")
        get(lab, "/end")
        assert raw.rest().endswith(b"kept.")
    becomes(lab, fds=before["fds"])


@pytest.mark.parametrize("length", [0, 4, 100_000])
def test_a_request_with_a_body_that_nobody_has_read_is_taken(lab, length):
    """More about them in test_posted.py."""
    headers = {"Content-Length": str(length)}
    with Raw(lab).ask("/stream", method="POST", headers=headers, behind=b"x" * length) as raw:
        assert raw.until(b"\n\n").startswith(HEAD)
        get(lab, "/say?text=one.")
        get(lab, "/end")
        assert raw.rest().endswith(b"\n\none.")


def test_http_1_0_is_taken_too(lab):
    with Raw(lab).ask("/stream", version="HTTP/1.0") as raw:
        assert raw.until(b"\n\n").startswith(HEAD)


# What is refused: the answer is an ordinary one, whole, and says why.


def refused(raw: Raw) -> str:
    head, body = raw.head.decode(), raw.body.decode()
    assert head.startswith(("HTTP/1.1 200 OK", "HTTP/1.0 200 OK"))
    reason = body.removeprefix("refused: ")
    assert f"\r\nX-Refused: {reason}" in head
    return reason


def test_head_is_refused(lab):
    raw = get(lab, "/stream", method="HEAD")
    assert b"\r\nX-Refused: the answer to 'HEAD' has no body" in raw.head
    assert raw.body == b""


def test_a_request_with_more_of_a_body_than_is_read_is_refused(lab):
    body = b"x" * (MOST + 1)
    headers = {"Content-Length": str(len(body)), "Connection": "close"}
    with Raw(lab).ask("/stream", method="POST", headers=headers, behind=body) as raw:
        raw.until(f"left unread, more than {MOST}".encode(), 2)  # in the head, and as the text
    assert refused(raw) == f"{len(body)} bytes of the request's body were left unread, more than {MOST}"


def test_bytes_behind_the_request_are_refused(lab):
    behind = b"GET /plain HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    with Raw(lab).ask("/stream", behind=behind) as raw:
        raw.rest()
    assert b"\r\nX-Refused: the client sent bytes behind the request" in raw.head
    assert b"200 OK" in raw.head
    assert b"refused: " in raw.body  # what becomes of the second request is the server's own affair


def test_a_request_older_than_http_1_is_refused_where_it_is_answered_at_all(lab):
    with Raw(lab) as raw:
        raw.sock.sendall(b"GET /stream\r\n\r\n")
        raw.rest()
    if lab.kind in ("sync", "gthread"):
        assert raw.data.startswith(b"HTTP/1.1 400 ")
    else:
        assert b"the request came by 'HTTP/0.9', not HTTP/1" in raw.data


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("gevent", "worker class 'gevent' cannot be taken: use gthread"),
        ("processes", "forking server ends the process after each request"),
    ],
)
def test_a_server_whose_connections_cannot_be_taken_is_refused(servers, kind, reason):
    server = start(servers, kind)
    assert reason in refused(get(server, "/stream"))
    assert get(server, "/plain").body == b"plain"


@pytest.mark.parametrize("kind", ["gthread", "threaded"])
def test_it_can_be_switched_off(servers, kind):
    server = start(servers, kind, {"AFTERLOAD_HANDOVER": "off"})
    assert refused(get(server, "/stream")) == "handover is switched off (AFTERLOAD_HANDOVER)"


def test_a_unix_socket_is_taken(servers, tmp_path):
    path = str(tmp_path / "lab.sock")
    servers.gunicorn(f"{LAB}:app", "--bind", f"unix:{path}")
    with Raw(path).ask("/stream") as raw:
        raw.until(b"\n\n")
        get(path, "/say?text=one.")
        get(path, "/end")
        assert raw.rest() == HEAD + raw.body
        assert raw.body.endswith(b"\n\none.")


def test_gunicorn_is_known_by_its_settings_even_through_a_middleware(servers):
    server = servers.gunicorn(f"{LAB}:app", "--max-requests", "1000", threads=3)
    assert b"after 1000 requests (max_requests)" in get(server, "/several").body
    assert get(server, "/spare").body == b"2"


# The fallback, through servers that do TLS themselves.


@pytest.fixture(scope="module", params=["gthread", "tls"])
def tls_lab(request: pytest.FixtureRequest, module_servers: Servers, tmp_path_factory) -> Server:
    cert, key = make_certificate(tmp_path_factory.mktemp("certificate"))
    if request.param == "tls":
        return start(module_servers, "tls", {"LAB_CERT": cert, "LAB_KEY": key})
    return module_servers.gunicorn(f"{LAB}:app", "--certfile", cert, "--keyfile", key)


def test_a_connection_under_tls_is_refused(tls_lab):
    assert "does TLS itself" in refused(get(tls_lab, "/stream", tls=True))


def test_the_fallback_streams_what_the_hub_writes_until_the_hub_ends(tls_lab):
    with Raw(tls_lab, tls=True).ask("/fallback", headers={"Connection": "close"}) as raw:
        raw.until(b": fallback\n\n")
        get(tls_lab, "/say?text=one.", tls=True)
        raw.until(b"one.")
        get(tls_lab, "/say?text=two.", tls=True)
        get(tls_lab, "/end", tls=True)
        raw.rest()
    assert dechunked(raw.body) == b": fallback\n\none.two."


def test_a_client_that_leaves_a_fallback_is_noticed_though_nobody_writes_to_it(tls_lab):
    before = get_json(tls_lab, "/state", tls=True)["left"]
    with Raw(tls_lab, tls=True).ask("/fallback") as raw:
        raw.until(b": fallback\n\n")
    wait_until(
        lambda: get_json(tls_lab, "/state", tls=True)["left"] == [*before, "fin"], 10, "its end to be seen"
    )


def test_a_client_that_does_not_read_stops_the_hub_and_nothing_is_lost(tls_lab):
    with Raw(tls_lab, tls=True).ask("/fallback", headers={"Connection": "close"}) as raw:
        raw.until(b": fallback\n\n")
        filled: list[int] = []

        def full() -> bool:
            filled.append(int(get(tls_lab, "/fill", tls=True).body))
            return filled[-1] == 0 and len(filled) > 1

        wait_until(full, 20, "the hub to be stopped by a client that does not read")
        count = sum(filled)

        pieces = [raw.data]
        while sum(map(len, pieces)) < count:
            pieces.append(raw.sock.recv(1 << 20))
        raw.data = b"".join(pieces)
        get(tls_lab, "/end", tls=True)
        raw.rest()
        assert dechunked(raw.body) == b": fallback\n\n" + b"#" * count


def test_a_fallback_does_not_hold_up_a_server_that_is_told_to_end(servers, tmp_path):
    """Otherwise gunicorn would wait for it as long as `graceful_timeout`, at every restart."""
    cert, key = make_certificate(tmp_path)
    server = servers.gunicorn(f"{LAB}:app", "--certfile", cert, "--keyfile", key, "--graceful-timeout", "60")
    with Raw(server, tls=True).ask("/fallback") as raw:
        raw.until(b": fallback\n\n")
        server.stop(timeout=30)
        raw.rest()
    assert dechunked(raw.body) == b": fallback\n\n"
