"""Documents that answer a form: the connection is the hub's, whatever the view has read of what was sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.handover.certificate import make_certificate
from tests.handover.posted import ROWS
from tests.handover.raw import Raw, dechunked, get, get_json
from tests.servers.process import Server, Servers

pytestmark = pytest.mark.server

APP = "tests.handover.posted"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SMALL = b"name=ada&city=" + b"x" * 100
MIDDLE = b"name=ada&city=" + b"x" * 100_000
LARGE = b"name=ada&city=" + b"x" * 300_000  # more than is read for a view that does not


def start(servers: Servers, kind: str, env: dict[str, str] | None = None) -> Server:
    if kind in ("sync", "gthread", "gevent"):
        threads = 1 if kind == "sync" else 4  # more would make it gthread
        server = servers.gunicorn(f"{APP}:app", worker_class=kind, threads=threads, env=env)
    else:
        server = servers.module(APP, "{port}", kind, ready="Running on", env=env)
    server.kind = kind  # type: ignore[attr-defined]
    return server


@pytest.fixture(scope="module", params=["sync", "gthread", "threaded", "debug"])
def site(request: pytest.FixtureRequest, module_servers: Servers) -> Server:
    return start(module_servers, request.param)


@pytest.fixture(autouse=True)
def nobody_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "site" in request.fixturenames:
        say_go(request.getfixturevalue("site"))


def stats(site: Server) -> dict[str, Any]:
    found: dict[str, Any] = get_json(site, "/stats")
    return found


def how(site: Server, before: dict[str, Any]) -> tuple[int, int]:
    """How many were taken since, and how many hold a thread of the server."""
    after = stats(site)
    return after["handovers"] - before["handovers"], after["fallbacks"] - before["fallbacks"]


def say_go(site: Server, *, tls: bool = False) -> None:
    get(site, "/go", method="POST", headers={"Content-Length": "0"}, tls=tls)


def sized(body: bytes) -> dict[str, str]:
    return {**FORM, "Content-Length": str(len(body))}


def post(site: Server, path: str, body: bytes, *, tls: bool = False) -> Raw:
    return Raw(site, tls=tls).ask(
        path, method="POST", headers={**sized(body), "Connection": "close"}, behind=body
    )


def goes_on_without_a_thread(site: Server, raw: Raw, got: str) -> None:
    """That this is a document of the hub's, which arrives whole and ends with a FIN."""
    raw.until(b'"begun"')
    assert f"<p>{got}</p>".encode() in raw.data
    say_go(site)  # under a worker with one thread: somebody else's request is answered
    raw.rest()
    assert raw.data.count(b"HTTP/1.") == 1
    assert b'"done"' in raw.data
    assert raw.data.endswith(b"</body>")


# What is taken.


@pytest.mark.parametrize("body", [SMALL, MIDDLE], ids=["small", "middle"])
@pytest.mark.parametrize("what", ["form", "all", "stream", "some", "nothing"])
def test_a_document_that_answers_a_form_is_taken_however_much_the_view_has_read(site, what, body):
    got = {
        "form": f"name=3,city={len(body) - 14}",
        "all": str(len(body)),
        "stream": str(len(body)),
        "some": "10",
        "nothing": "nothing",
    }
    before = stats(site)
    with post(site, f"/report?read={what}", body) as raw:
        goes_on_without_a_thread(site, raw, got[what])
    assert how(site, before) == (1, 0)


@pytest.mark.parametrize("what", ["form", "nothing"])
def test_every_byte_of_a_large_answer_arrives_and_the_connection_ends_in_order(site, what):
    """No reset: what the client has sent is read, so none of what it has yet to read is lost."""
    before = stats(site)
    with post(site, f"/rows?read={what}", MIDDLE) as raw:
        raw.rest()
    got = "name=3,city=100000" if what == "form" else "nothing"
    assert raw.body.decode() == "<ul>" + "".join(f"<li>{row}" for row in [got, *range(ROWS)]) + "</ul>"
    assert how(site, before) == (1, 0)


def test_a_body_larger_than_is_read_for_a_view_is_no_matter_if_the_view_reads_it(site):
    before = stats(site)
    with post(site, "/report?read=form", LARGE) as raw:
        goes_on_without_a_thread(site, raw, "name=3,city=300000")
    assert how(site, before) == (1, 0)


def test_a_template_may_read_what_was_sent_while_it_is_rendered(site):
    """The connection is the hub's by then; what the view has not read is kept."""
    lines = [f"line {number}" for number in range(8_000)]
    before = stats(site)
    with post(site, "/echo", "\n".join(lines).encode()) as raw:
        raw.rest()
    assert raw.body.decode() == "<ul>" + "".join(f"<li>{line}" for line in lines) + "</ul>"
    assert how(site, before) == (1, 0)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_other_methods_and_requests_without_a_body_are_taken_too(site, method):
    for body in (SMALL, b""):
        before = stats(site)
        with Raw(site).ask("/report", method=method, headers=sized(body), behind=body) as raw:
            goes_on_without_a_thread(site, raw, "nothing")
        assert how(site, before) == (1, 0)


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


@pytest.mark.parametrize("what", ["form", "some", "line", "nothing"])
def test_a_body_in_chunks_is_read_to_its_last(site, what):
    body = b"name=ada\n" + b"x" * 50_000
    got = {"form": "name=50004", "some": "10", "line": "name=ada", "nothing": "nothing"}
    before = stats(site)
    with Raw(site).ask(
        f"/report?read={what}",
        method="POST",
        headers={**FORM, "Transfer-Encoding": "chunked"},
        behind=chunked(body, 7_000),
    ) as raw:
        goes_on_without_a_thread(site, raw, got[what])
    assert how(site, before) == (1, 0)


@pytest.mark.parametrize("what", ["form", "nothing"])
def test_a_client_that_asks_whether_it_may_send_is_told_to(site, what):
    before = stats(site)
    headers = {**sized(MIDDLE), "Expect": "100-continue"}
    with Raw(site).ask(f"/report?read={what}", method="POST", headers=headers) as raw:
        assert raw.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        raw.sock.sendall(MIDDLE)
        raw.until(b" 200 OK\r\n")
        raw.data = raw.data[raw.data.rindex(b"HTTP/1.") :]  # Werkzeug says it twice
        goes_on_without_a_thread(site, raw, "name=3,city=100000" if what == "form" else "nothing")
    assert how(site, before) == (1, 0)


@pytest.mark.parametrize("encoding", ["length", "chunked"])
def test_a_body_that_comes_in_pieces_is_waited_for(site, encoding):
    before = stats(site)
    headers = sized(SMALL) if encoding == "length" else {**FORM, "Transfer-Encoding": "chunked"}
    sent = SMALL if encoding == "length" else chunked(SMALL, 5)
    with Raw(site).ask("/report", method="POST", headers=headers) as raw:
        for at in range(0, len(sent), 4):
            raw.sock.sendall(sent[at : at + 4])
        goes_on_without_a_thread(site, raw, "nothing")
    assert how(site, before) == (1, 0)


def test_a_form_on_a_kept_connection_is_taken(servers):
    site = start(servers, "gthread")
    with Raw(site).ask("/stats") as raw:
        raw.until(b'"viewers":0')
        for body in (SMALL, MIDDLE):  # the first is answered and leaves the connection as it was
            raw.data = b""
            path = "/go" if body is SMALL else "/report"
            raw.ask(path, method="POST", headers=sized(body), behind=body)
            if path == "/go":
                raw.until(b"gone")
        goes_on_without_a_thread(site, raw, "nothing")


def test_what_comes_behind_once_the_connection_is_taken_is_discarded(site):
    """A client that pipelines: it is told that the connection ends with this answer, and asks again."""
    before = stats(site)
    with post(site, "/report", SMALL) as raw:
        raw.until(b'"begun"')
        assert b"\r\nConnection: close\r\n" in raw.data
        raw.ask("/stats").ask("/stats")
        goes_on_without_a_thread(site, raw, "nothing")
    assert how(site, before) == (1, 0)


# What is not, and gets what it got before: a thread, or where there is none to spare, a 503.


def holds_a_thread(site: Server, raw: Raw, before: dict[str, Any]) -> None:
    spare = site.kind != "sync"  # type: ignore[attr-defined]
    if spare:
        raw.until(b'"begun"')
        say_go(site)
        raw.until(b"</body>")
    else:
        raw.until(b"\r\n\r\n")
        assert b" 503 Service Unavailable\r\n" in raw.data
    raw.close()  # gunicorn waits for that, and its worker is not free
    assert how(site, before) == (0, spare)


def test_a_large_body_that_the_view_does_not_read_is_not_taken(site):
    before = stats(site)
    with post(site, "/report", LARGE) as raw:
        holds_a_thread(site, raw, before)


def test_a_large_body_in_chunks_that_the_view_does_not_read_is_not_taken(site):
    before = stats(site)
    headers = {**FORM, "Transfer-Encoding": "chunked", "Connection": "close"}
    with Raw(site).ask("/report", method="POST", headers=headers, behind=chunked(LARGE, 9_000)) as raw:
        holds_a_thread(site, raw, before)


def test_a_request_that_came_with_the_form_is_not_thrown_away(site):
    before = stats(site)
    behind = SMALL + b"GET /stats HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    with Raw(site).ask("/report?read=form", method="POST", headers=sized(SMALL), behind=behind) as raw:
        holds_a_thread(site, raw, before)


def test_a_client_that_falls_silent_in_the_middle_is_not_waited_for_long(servers):
    site = start(servers, "gthread")
    before = stats(site)
    with Raw(site).ask("/report", method="POST", headers=sized(SMALL), behind=SMALL[:-1]) as raw:
        holds_a_thread(site, raw, before)


def test_chunks_that_are_none_are_no_reason_to_fail(site):
    """Nobody asked for what was sent."""
    before = stats(site)
    headers = {**FORM, "Transfer-Encoding": "chunked", "Connection": "close"}
    with Raw(site).ask("/report", method="POST", headers=headers, behind=b"4\r\nname\r\nnonsense\r\n") as raw:
        holds_a_thread(site, raw, before)


def test_a_server_whose_connections_are_not_taken_answers_as_ever(servers):
    site = start(servers, "gevent")
    before = stats(site)
    with post(site, "/report?read=form", MIDDLE) as raw:
        holds_a_thread(site, raw, before)
        assert b"<p>name=3,city=100000</p>" in raw.data
    with post(start(servers, "wsgiref"), "/report?read=form", SMALL) as raw:  # it has one thread
        assert b" 503 Service Unavailable\r\n" in raw.rest()


def test_under_tls_a_form_is_answered_by_a_thread(servers, tmp_path):
    cert, key = make_certificate(tmp_path)
    for site in (
        start(servers, "tls", {"LAB_CERT": cert, "LAB_KEY": key}),
        servers.gunicorn(f"{APP}:app", "--certfile", cert, "--keyfile", key),
    ):
        with post(site, "/report?read=form", MIDDLE, tls=True) as raw:
            raw.until(b'"begun"')
            say_go(site, tls=True)
            raw.rest()
        assert b"<p>name=3,city=100000</p>" in dechunked(raw.body)
        assert dechunked(raw.body).endswith(b"</body>")
