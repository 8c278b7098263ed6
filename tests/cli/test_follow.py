"""``afterload follow``: what comes is shown once and in order, whatever happens between, and how it ends is said."""

from __future__ import annotations

import base64
import json
import os
import pty
import random
import re
import select
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from afterload.cli import follow, main
from afterload.cli.wires import Address
from tests.cli.hubs import afterload, environment
from tests.cli.site import Answer, Site, answer, block, end, held, hello, json_answer, patch, stream
from tests.handover.certificate import make_certificate
from tests.handover.raw import get
from tests.servers.process import Server, Servers, free_port, wait_until

pytestmark = pytest.mark.server

APP = "tests.servers.live_app:app"
WIRES = ["stream", "websocket", "poll"]
ONE = ["text", "#a", "1"]
TWO = ["text", "#a", "2"]
NO_PAGE = "this is no live page, or one that wants a login: the answer is 200 OK, "


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for: a random part of a time is none of it."""
    monkeypatch.setattr(random, "random", lambda: 0.0)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, list[str]]:
    """Follows in this process: the status, what was printed, and what was said."""
    status = main(["follow", *arguments])
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert all(line.startswith("afterload follow: ") for line in lines)
    return status, out, [line.removeprefix("afterload follow: ") for line in lines]


# How it ends


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["done"], 0), (["failed"], 3), (["cancelled"], 4), (["lost"], 5),
        (["done", "done"], 0), (["cancelled", "done"], 4), (["cancelled", "lost"], 5), (["lost", "failed"], 3),
    ],
)  # fmt: skip
def test_the_status_says_how_it_has_ended(
    statuses: list[str], expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"c{number}" for number in range(len(statuses))]
    ends = [end(status, "so it is", channel=name) for name, status in zip(names, statuses, strict=True)]
    with Site(held(stream(hello(*names), *ends))) as site:
        status, out, said = run(capsys, site.url)
    assert (status, out) == (expected, "")
    assert said == [
        f"follows {', '.join(names)} by event stream",
        *[f"{name} has ended: {status} (so it is)" for name, status in zip(names, statuses, strict=True)],
    ]


def test_a_204_is_the_end_of_what_was_cut_before(at_once: None, capsys: pytest.CaptureFixture[str]) -> None:
    with Site(stream(hello("a", "b"), end("failed", channel="a")), answer("204 No Content")) as site:
        assert run(capsys, "-q", site.url) == (3, "", [])
    assert site.asked[1]["last-event-id"] == "e.9"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (answer("403 Forbidden"), "the answer is 403 Forbidden"),
        (answer("404 Not Found", "<p>none", Content_Type="text/html"), "the answer is 404 Not Found"),
        (answer("401 Unauthorized"), "the answer is 401 Unauthorized"),
        (
            answer(body="<p>log in", Content_Type="text/html; charset=utf-8"),
            NO_PAGE + "text/html",
        ),
        (answer("403 \x1b[31m"), "the answer is 403 \\x1b[31m"),
    ],
)
def test_who_may_not_follow_is_told_so(given: bytes, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Site(given) as site:
        assert run(capsys, "-q", site.url) == (follow.DENIED, "", [f"denied: {why}"])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (answer("403 Forbidden"), "the answer is 403 Forbidden"),
        (answer("302 Found", Location="/login\x1b"), "it redirects to /login\\x1b"),
        (answer(body="{}", Content_Type="application/json"), NO_PAGE + "application/json"),
    ],
)
def test_a_login_that_has_expired_is_no_reason_to_ask_again(
    given: bytes, why: str, at_once: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with Site(stream(hello(), patch(ONE)), given) as site:
        assert run(capsys, "-q", site.url) == (follow.DENIED, "#a: 1\n", [f"denied: {why}"])


def test_it_gives_up_after_so_many_tries_without_an_answer(
    at_once: None, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = answer("502 Bad Gateway")
    with Site(bad, stream(hello(), patch(ONE, id="e.1")), bad, bad) as site:
        status, out, said = run(capsys, "--retries", "2", site.url)
    assert (status, out) == (follow.GAVE_UP, "#a: 1\n")
    assert said == [
        "the answer is 502 Bad Gateway; again in 0.0 s",
        "follows a by event stream",
        "the connection was cut; again in 0.0 s",
        "the answer is 502 Bad Gateway; again in 0.0 s",
        "gave up: the answer is 502 Bad Gateway",
    ]
    assert [asked.get("last-event-id") for asked in site.asked] == [None, None, "e.1", "e.1"]


def test_a_server_that_is_not_there_is_waited_for_unless_it_is_not_to_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, said = run(capsys, "--retries", "0", f"http://127.0.0.1:{free_port()}/")
    assert (status, out, said) == (follow.GAVE_UP, "", ["gave up: Connection refused"])


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_an_answer_that_says_nothing_of_the_page_is_no_end(
    status: int, at_once: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with Site(answer(f"{status} Not now"), held(stream(hello(), end()))) as site:
        assert run(capsys, "-q", site.url) == (0, "", [])


def test_of_another_version_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Site(held(stream(block("hello", {"v": 2})))) as site:
        said = "the server speaks version 2 of the wire, and this is of version 1"
        assert run(capsys, site.url) == (1, "", [said])


def test_so_many_lines_are_enough(capsys: pytest.CaptureFixture[str]) -> None:
    with Site(held(stream(hello(), patch(ONE, TWO, ["text", "#a", "3"])))) as site:
        assert run(capsys, "-q", "--count", "2", site.url) == (0, "#a: 1\n#a: 2\n", [])


# What happens in between


@pytest.mark.parametrize("chunked", [False, True])
def test_a_block_that_was_cut_is_shown_once(
    chunked: bool, at_once: None, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = hello() + patch(ONE) + patch(TWO, seq=2, id="e.2")
    cut = stream(whole[:-1])
    if chunked:
        body = f"{len(whole):x}\r\n{whole[:-1]}"
        cut = answer(body=body, Content_Type="text/event-stream", Transfer_Encoding="chunked")
    with Site(cut, held(stream(hello(), patch(TWO, seq=2, id="e.2"), end()))) as site:
        status, out, said = run(capsys, site.url)
    assert (status, out) == (0, "#a: 1\n#a: 2\n")
    assert said[1] == "the connection was cut; again in 0.0 s"
    assert site.asked[1]["last-event-id"] == "e.1"


def test_a_gap_is_not_shown_but_asked_for(at_once: None, capsys: pytest.CaptureFixture[str]) -> None:
    late = patch(["text", "#a", "3"], seq=3, id="e.3")
    missed = patch(["text", "#a", "3"], seq=3, id="e.3", since=1)
    with Site(held(stream(hello(), patch(ONE), late)), held(stream(hello(), missed, end()))) as site:
        status, out, said = run(capsys, site.url)
    assert (status, out) == (0, "#a: 1\n#a: 3\n")
    assert "something between is missing; again in 0.0 s" in said
    assert site.asked[1]["last-event-id"] == "e.1"


@pytest.mark.parametrize(
    "mangled",
    [
        "event: patch\ndata: {\n\n", block("patch", ["a"]), block("patch", ["a", "x", [ONE]]), block("patch", 7),
        block("patch", ["a", 2, [["text"]]]), block("reset", []), block("end", {}), block("bye", {"retry": "x"}),
        block("hello", []),
    ],
)  # fmt: skip
def test_a_block_that_cannot_be_read_is_asked_for_again(
    mangled: str, at_once: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with Site(held(stream(hello(), patch(ONE), mangled)), held(stream(hello(), end()))) as site:
        status, out, said = run(capsys, site.url)
    assert (status, out) == (0, "#a: 1\n")
    assert "a block that cannot be read; again in 0.0 s" in said
    assert site.asked[1]["last-event-id"] == "e.1"


def test_a_server_that_says_nothing_any_more_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    silent = held(stream(hello(heartbeat=0.04), patch(ONE)))
    began = time.monotonic()
    with Site(silent, held(stream(hello(), end()))) as site:
        status, out, said = run(capsys, site.url)
    assert (status, out) == (0, "#a: 1\n")
    assert said[1] == "silent for 0.1 s; again in 0.0 s"
    assert time.monotonic() - began >= 0.1
    assert site.asked[1]["last-event-id"] == "e.1"


def test_heartbeats_move_the_position(at_once: None, capsys: pytest.CaptureFixture[str]) -> None:
    beats = [block("ping", {}, id=f"e.{number}") for number in (2, 3)]
    with Site(stream(hello(), patch(ONE), *beats), held(stream(hello(), end()))) as site:
        assert run(capsys, "-q", site.url) == (0, "#a: 1\n", [])
    assert site.asked[1]["last-event-id"] == "e.3"


def test_a_server_that_goes_away_says_when_to_come(capsys: pytest.CaptureFixture[str]) -> None:
    bye = block("bye", {"retry": 200}, retry=200)
    began = time.monotonic()
    with Site(held(stream(hello(), patch(ONE), bye)), held(stream(hello(), end()))) as site:
        status, out, said = run(capsys, site.url)
    assert (status, out) == (0, "#a: 1\n")
    found = re.fullmatch(r"the server sends away; again in (\d\.\d) s", said[1])
    assert found is not None
    assert 0.2 <= float(found[1]) <= 0.4
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("reset", [False, True])
def test_the_state_of_what_has_ended_may_come_behind_its_end(
    reset: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    states = block("snapshot", ["a", 4, [ONE]], ["b", 7, [TWO]], id="e.8")
    resets = block("reset", {"channel": "a"}) if reset else ""
    with Site(held(stream(hello("a", "b"), end("failed", id=""), resets, states, end(channel="b")))) as site:
        assert run(capsys, "-q", site.url) == (3, "#a: 1\n#a: 2\n", [])


def test_a_reset_and_a_snapshot_are_told(at_once: None, capsys: pytest.CaptureFixture[str]) -> None:
    reset = block("reset", {"channel": "a"})
    snapshot = block("snapshot", ["a", 7, [TWO]], id="f.7")
    again = [hello(), reset, snapshot, patch(["text", "#a", "3"], seq=1, since=0), end()]
    with Site(stream(hello(), patch(ONE, seq=40)), held(stream(*again))) as site:
        status, out, said = run(capsys, site.url)
    assert (status, out) == (0, "#a: 1\n#a: 2\n#a: 3\n")
    assert said[3] == "reset: a begins anew"


def test_after_a_refresh_the_state_comes_anew(at_once: None, capsys: pytest.CaptureFixture[str]) -> None:
    state = block("snapshot", ["a", 7, [TWO]], id="f.7")
    answers = [stream(hello(), patch(ONE, seq=9), block("refresh", {})), stream(hello(), state, end())]
    with Site(*map(held, answers)) as site:
        status, out, said = run(capsys, "--position", "e.0", site.url)
    assert (status, out) == (0, "#a: 1\n#a: 2\n")
    assert said[1] == "refresh: what was missed is not known any more, the state comes anew; again in 0.0 s"
    assert [asked.get("last-event-id") for asked in site.asked] == ["e.0", None]


# What is printed


def test_text_that_goes_on_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    more = [["append_text", "#a", piece] for piece in ("Tom ", "and ", "Ann")]
    blocks = [hello(), patch(more[0]), patch(*more[1:], seq=2), block("", "next", id="e.3"), end()]
    with Site(held(stream(*blocks))) as site:
        assert run(capsys, "-q", "--text", site.url) == (0, "Tom and Ann\nnext\n", [])
    with Site(held(stream(*blocks[:3], end()))) as site:
        assert run(capsys, "-q", "--text", site.url) == (0, "Tom and Ann\n", [])


def test_json_has_all_that_a_program_needs_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with Site(held(stream(hello(), patch(ONE, TWO), end()))) as site:
        status, out, _ = run(capsys, "--json", "--position", "e.0", site.url)
    found = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [(record["event"], record.get("id")) for record in found] == [
        ("patch", None), ("patch", "e.1"), ("end", "e.9"),
    ]  # fmt: skip
    assert site.asked[0]["last-event-id"] == "e.0"


def test_a_terminal_is_safe_from_what_comes() -> None:
    blocks = [
        hello("\x1b[31mred"),
        block("", "a\x1b[2Jb\nc"),
        patch(["text", "#a", "\x1b]0;owned\x07"]),
        end("done", "\x1b[m", channel="\x1b[31mred"),
    ]
    with Site(held(stream(*blocks))) as site, terminal("follow", site.url) as (process, shown):
        # It cannot end before what it has written is read.
        wait_until(lambda: shown() and process.poll() is not None, 20, "its end")
        assert process.returncode == 0
        seen = shown()
    assert "\x1b" not in seen
    assert "\x07" not in seen
    assert "a\\x1b[2Jb\r\nc\r\n#a: \\x1b]0;owned\\x07\r\n" in seen


@contextmanager
def terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Any]]:
    """A command in a terminal: the process, and a function for what that shows."""
    ours, theirs = pty.openpty()
    found: list[bytes] = []

    def shown() -> str:
        while select.select([ours], [], [], 0)[0]:
            try:
                found.append(os.read(ours, 65_536))
            except OSError:  # nobody has it open any more
                break
        return b"".join(found).decode()

    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "afterload.cli", *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment(),
    )  # fmt: skip
    os.close(theirs)
    try:
        yield process, shown
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_reader_that_has_enough_ends_it() -> None:
    with Site(held(stream(hello(), *[block("", "line")] * 50_000))) as site:
        command = [sys.executable, "-P", "-m", "afterload.cli", "follow", "-q", site.url]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"line\n"
            process.stdout.close()
            assert process.stderr is not None
            assert process.stderr.read() == b""
            assert process.wait(20) == 128 + signal.SIGPIPE


def test_ctrl_c_ends_it_without_a_word_more() -> None:
    with Site(held(stream(hello(), patch(["append_text", "#a", "so far"])))) as site:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "afterload.cli", "follow", "--text", "-q", site.url],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # else as we have it, ignored behind `&`
        )  # fmt: skip
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b"so far"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == (b"\n", b"")
    assert process.returncode == 128 + signal.SIGINT


# Where to, and with what


def test_headers_go_along_with_every_request(at_once: None, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["-H", "Cookie: a=1", "-H", "X-Name: Zoë", "--header", "cookie: b=2"]
    refresh = held(stream(hello(), block("refresh", {})))
    with Site(refresh, answer("503 Busy"), held(stream(hello(), end()))) as site:
        assert run(capsys, "-q", *given, site.url)[0] == 0
    assert {(asked["cookie"], asked["x-name"]) for asked in site.asked} == {("a=1; b=2", "Zoë")}


def test_a_login_may_stand_in_the_url(capsys: pytest.CaptureFixture[str]) -> None:
    with Site(held(stream(hello(), end()))) as site:
        assert run(capsys, "-q", site.url.replace("//", "//tom:p%40ss@"))[0] == 0
    assert base64.b64decode(site.asked[0]["authorization"].removeprefix("Basic ")) == b"tom:p@ss"


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
)
def test_a_redirect_at_the_start_is_followed(status: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Site(answer(status, Location="/other?x=1#there"), held(stream(hello(), end()))) as site:
        result, _, said = run(capsys, "-H", "Cookie: a=1", "--position", "e.1", site.url)
    assert result == 0
    assert said[0] == f"redirected to {site.url.replace('/page', '/other?x=1')}"
    assert site.asked[1][""] == "GET /other?x=1 HTTP/1.1"
    assert (site.asked[1]["cookie"], site.asked[1]["last-event-id"]) == ("a=1", "e.1")


def test_somebody_else_is_given_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        Site(held(stream(hello(), end()))) as other,
        Site(answer("302 Found", Location=other.url)) as site,
    ):
        result, _, said = run(capsys, "-H", "Cookie: a=1", "--position", "e.1", site.url)
    assert result == 0
    assert said[0] == f"redirected to {other.url}, without the headers and the position given"
    assert not {"cookie", "last-event-id"} & set(other.asked[0])


def test_a_circle_of_redirects_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    with Site(*[answer("302 Found", Location="/page")] * 11) as site:
        assert run(capsys, "-q", site.url) == (1, "", ["more than 10 redirects, the last to /page"])


@pytest.mark.parametrize("to", ["ftp://x/", "http://[/"])
def test_a_redirect_to_nowhere_is_said(to: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Site(answer("302 Found", Location=to)) as site:
        status, _, said = run(capsys, "-q", site.url)
    assert status == 1
    assert said[0].startswith(f"it redirects to {to!r}, which is no URL of a page: ")


def test_by_ipv6(capsys: pytest.CaptureFixture[str]) -> None:
    with Site(held(stream(hello(), end())), host="::1") as site:
        assert run(capsys, "-q", site.url)[0] == 0
    assert site.asked[0]["host"] == f"[::1]:{site.port}"


@pytest.mark.parametrize("wire", WIRES)
def test_by_tls_only_from_who_is_trusted(wire: str, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with Site(one_of(wire, hello(), patch(ONE), end()), tls=context) as site:
        url = site.url.replace("127.0.0.1", "localhost")
        done = afterload("follow", "--wire", wire, url, SSL_CERT_FILE=cert)
    assert (done.returncode, done.stdout) == (0, "#a: 1\n")
    site = Site(held(b""), tls=context)
    with pytest.raises(ssl.SSLError, match=r"unknown ca|certificate"), site:
        done = afterload("follow", "--wire", wire, site.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("afterload follow: 127.0.0.1: self-signed certificate")


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("localhost", "http://localhost/"),
        ("localhost:5000/a", "http://localhost:5000/a"),
        ("http://HOST:80/a?b=c&d=%20#e", "http://host/a?b=c&d=%20"),
        ("https://host:443", "https://host/"),
        ("http://[::1]:5000/a b/é", "http://[::1]:5000/a%20b/%C3%A9"),
        ("https://bücher.example/?q=ü", "https://xn--bcher-kva.example/?q=%C3%BC"),
    ],
)
def test_urls_are_understood(url: str, written: str) -> None:
    assert Address.of(url, {}).url == written


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: URL"),
        (
            ["ftp://host/"],
            "'ftp://host/' is no URL of a page: a URL begins with http:// or https://, not ftp://",
        ),
        (["http:///x"], "'http:///x' is no URL of a page: it has no host"),
        (["http://host:x/"], "'http://host:x/' is no URL of a page: "),
        (["http://[::1/"], "'http://[::1/' is no URL of a page: "),
        (["-H", "Cookie", "x"], "a header is 'Name: value', not 'Cookie'"),
        (["-H", "A: b\r\nC: d", "x"], "a header is 'Name: value', not 'A: b\\r\\nC: d'"),
        (["-H", "Last-Event-ID: e.1", "x"], "Last-Event-ID is what the command sends itself"),
        (["-H", "Sec-WebSocket-Key: x", "x"], "Sec-WebSocket-Key is what the command sends itself"),
        (["--position", "e 1", "x"], "a position is 1 to 128 of A-Z a-z 0-9 . _ ~ -, not 'e 1'"),
        (["--position", "", "x"], "a position is 1 to 128 of"),
        (["--count", "0", "x"], "it is a number from 1, not '0'"),
        (["--retries", "-1", "x"], "argument --retries: "),
        (["--retries", "²", "x"], "it is a number from 0, not '²'"),
        (["--timeout", "0", "x"], "seconds are a number from 0.1 to 3600, not '0'"),
        (["--timeout", "nan", "x"], "seconds are a number from 0.1 to 3600, not 'nan'"),
        (["--wire", "pigeon", "x"], "argument --wire: invalid choice: 'pigeon'"),
        (["--json", "--text", "x"], "argument --text: not allowed with argument --json"),
    ],
)
def test_a_mistake_is_explained(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["follow", *arguments])
    except SystemExit as ended:
        status = int(ended.code or 0)
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert said in err


# Wires


def one_of(wire: str, *blocks: str) -> Answer | bytes:
    """These blocks, by this wire."""
    if wire == "stream":
        return held(stream(*blocks))
    if wire == "websocket":
        return websocket(*blocks)
    found = []
    for one in blocks:
        fields = [line.split(": ", 1) for line in one.splitlines() if line]
        data = [value for name, value in fields if name == "data"]
        said = dict(fields)
        event = said.get("event", "message")
        found.append([event, said.get("id"), *(data if event == "message" else map(json.loads, data))])
    return json_answer(*found)


def upgraded(asked: dict[str, str]) -> bytes:
    """The answer that accepts a WebSocket."""
    from websockets.utils import accept_key

    return answer(
        "101 Switching Protocols", Upgrade="websocket", Connection="Upgrade",
        Sec_WebSocket_Accept=accept_key(asked["sec-websocket-key"]), Sec_WebSocket_Protocol="afterload.v1",
    )  # fmt: skip


def websocket(*blocks: str, extra: bytes = b"") -> Answer:
    """Accepts a WebSocket, and sends each block as a message, the last one in fragments."""
    from websockets.frames import Frame, Opcode

    def send(connection: Any, asked: dict[str, str]) -> None:
        frames = [Frame(Opcode.TEXT, one.encode()) for one in blocks[:-1]]
        last = blocks[-1].encode()
        frames += [Frame(Opcode.TEXT, last[:5], fin=False), Frame(Opcode.CONT, last[5:])]
        data = b"".join(frame.serialize(mask=False) for frame in frames)
        held(upgraded(asked) + data + extra)(connection, asked)

    return send


@pytest.mark.parametrize("wire", WIRES)
def test_all_kinds_of_blocks_come_by_every_wire(wire: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = block("", "\U0001f36d €", id="e.2")
    snapshot = block("snapshot", ["a", 3, [ONE]], id="e.3")
    with Site(
        one_of(wire, hello(), patch(ONE), message, snapshot, block("ping", {}, id="e.4"), end())
    ) as site:
        status, out, said = run(capsys, "--wire", wire, "--position", "e.0", site.url)
    assert (status, out) == (0, "#a: 1\n\U0001f36d €\n#a: 1\n")
    assert re.fullmatch("follows a by (event stream|WebSocket|polls)", said[0])
    if wire == "websocket":
        assert site.asked[0]["sec-websocket-protocol"] == "afterload.v1, afterload.position.e.0"
        assert "last-event-id" not in site.asked[0]
    else:
        assert site.asked[0]["last-event-id"] == "e.0"


@pytest.mark.parametrize("wire", WIRES)
def test_every_wire_goes_on_behind_what_it_had(
    wire: str, at_once: None, capsys: pytest.CaptureFixture[str]
) -> None:
    bye = block("bye", {"retry": 0})
    first = one_of(wire, hello(), patch(ONE), bye)
    with Site(first, answer("502 Bad Gateway"), one_of(wire, hello(), patch(TWO, seq=2), end())) as site:
        assert run(capsys, "-q", "--wire", wire, site.url) == (0, "#a: 1\n#a: 2\n", [])
    sent = site.asked[2].get("sec-websocket-protocol", site.asked[2].get("last-event-id", ""))
    assert sent.removeprefix("afterload.v1, afterload.position.") == "e.1"


@pytest.mark.parametrize("wire", WIRES)
def test_every_wire_is_denied(wire: str, capsys: pytest.CaptureFixture[str]) -> None:
    for given in (answer("403 Forbidden"), answer("410 Gone")):
        with Site(given) as site:
            assert run(capsys, "-q", "--wire", wire, site.url)[0] == follow.DENIED
    with Site(answer("302 Found", Location="/other"), one_of(wire, hello(), end())) as site:
        assert run(capsys, "-q", "--wire", wire, site.url)[0] == 0


@pytest.mark.parametrize("wire", WIRES)
def test_silence_is_noticed_by_every_wire(
    wire: str, at_once: None, capsys: pytest.CaptureFixture[str]
) -> None:
    again = one_of(wire, hello(), end())
    silent = [one_of(wire, hello(heartbeat=0.04), patch(ONE)), *([held(b"")] if wire == "poll" else [])]
    with Site(*silent, again) as site:
        status, out, said = run(capsys, "--wire", wire, site.url)
    assert (status, out, said[1]) == (0, "#a: 1\n", "silent for 0.1 s; again in 0.0 s")


def test_polls_wait_for_news_as_long_as_a_heartbeat(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = answer("204 No Content")
    first, news = ["hello", "0", hello_data(3)], ["patch", "e.2", ["a", 2, [TWO]]]
    over = ["end", "e.3", {"channel": "a", "status": "done", "message": ""}]
    began = time.monotonic()
    with Site(
        nothing, json_answer(first), nothing, json_answer(first, news), json_answer(first, over)
    ) as site:
        assert run(capsys, "--wire", "poll", site.url) == (
            0, "#a: 2\n", ["follows by polls", "a has ended: done"],
        )  # fmt: skip
    assert [asked["al-wait"] for asked in site.asked] == ["0", "20", "3", "3", "3"]
    assert [asked["last-event-id"] for asked in site.asked] == ["0", "0", "0", "0", "e.2"]
    assert time.monotonic() - began >= 4 * 0.25  # not more than four a second


def hello_data(heartbeat: float) -> dict[str, Any]:
    return {"v": 1, "resumed": True, "heartbeat": heartbeat, "channels": ["a"], "retry": 500}


@pytest.mark.parametrize(
    "body", ["[]", "{}", "7", '{"orders": []}', "[1, 2]", '[["patch", null, 1]]', "[[]]"]
)
def test_an_apps_own_json_is_no_poll(body: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Site(answer(body=body, Content_Type="application/json")) as site:
        status, _, said = run(capsys, "--wire", "poll", site.url)
    assert (status, said) == (follow.DENIED, ["denied: the answer is JSON of the app's own"])


def test_a_poll_that_was_cut_is_asked_again(at_once: None, capsys: pytest.CaptureFixture[str]) -> None:
    whole = one_of("poll", hello(), patch(ONE), end())
    assert isinstance(whole, bytes)
    for cut in (whole[:-1], whole[:-1].replace(b"\r\n\r\n", b"\r\nContent-Length: 9999\r\n\r\n")):
        with Site(cut, whole) as site:
            assert run(capsys, "-q", "--wire", "poll", site.url) == (0, "#a: 1\n", [])


def test_pings_of_a_websocket_are_answered(capsys: pytest.CaptureFixture[str]) -> None:
    from websockets.frames import Frame, Opcode
    from websockets.protocol import OPEN
    from websockets.server import ServerProtocol

    def ask(connection: Any, asked: dict[str, str]) -> None:
        connection.sendall(upgraded(asked) + Frame(Opcode.TEXT, hello().encode()).serialize(mask=False))
        connection.sendall(Frame(Opcode.PING, b"there?").serialize(mask=False))
        server = ServerProtocol(state=OPEN)
        while not (said := server.events_received()):
            server.receive_data(connection.recv(100))
        assert [(frame.opcode, bytes(frame.data)) for frame in said] == [(Opcode.PONG, b"there?")]
        connection.sendall(Frame(Opcode.TEXT, end().encode()).serialize(mask=False))

    with Site(ask) as site:
        assert run(capsys, "-q", "--wire", "websocket", site.url) == (0, "", [])


@pytest.mark.parametrize("status", ["400 Bad Request", "426 Upgrade Required", "501 Not Implemented"])
def test_where_there_is_no_websocket_it_is_said(status: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Site(answer(status)) as site:
        result, _, said = run(capsys, "--wire", "websocket", site.url)
    assert (result, said) == (1, [f"there is no WebSocket here: the answer is {status}"])


def test_what_is_no_websocket_is_not_taken_for_one(at_once: None, capsys: pytest.CaptureFixture[str]) -> None:
    with Site(answer("101 Switching Protocols", Upgrade="websocket", Connection="Upgrade")) as site:
        result, _, said = run(capsys, "--wire", "websocket", site.url)
    assert result == 1
    assert said == ["there is no WebSocket here: missing Sec-WebSocket-Accept header"]
    garbage = websocket(hello(), patch(ONE), extra=b"\xff\xff\xff")
    with Site(garbage, websocket(hello(), end())) as site:
        result, out, said = run(capsys, "--wire", "websocket", site.url)
    assert (result, out) == (0, "#a: 1\n")
    assert said[1].startswith("what came was no WebSocket: ")


def test_without_the_package_a_websocket_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "websockets.client", None)
    status, _, said = run(capsys, "--wire", "websocket", "http://127.0.0.1:1/")
    assert (status, said) == (
        1,
        ["a WebSocket needs the package websockets: pip install 'afterload[websocket]'"],
    )


def test_where_nothing_comes_by_one_wire_the_next_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    # What holds an answer back until its end, and knows no WebSocket.
    with Site(held(b""), answer("400 Bad Request"), one_of("poll", hello(), patch(ONE), end())) as site:
        status, out, said = run(capsys, "--timeout", "4", site.url)
    assert (status, out) == (0, "#a: 1\n")
    assert said == [
        "no answer within 4 s; now by WebSocket",
        "there is no WebSocket here: the answer is 400 Bad Request; now by polls",
        "follows a by polls",
        "a has ended: done",
    ]


# A real server


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Following:
    """The command, as a process that goes on."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._out, self._err = directory / "out", directory / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            command = [sys.executable, "-P", "-m", "afterload.cli", "follow", *arguments]
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environment())

    def out(self) -> str:
        return self._out.read_text()

    def err(self) -> str:
        return self._err.read_text()

    def wait(self, printed: str) -> None:
        wait_until(lambda: printed in self.out() or self.process.poll() is not None, 30, f"{printed!r}")
        assert printed in self.out(), self.err()

    def hear(self, said: str, count: int = 1) -> None:
        wait_until(
            lambda: self.err().count(said) >= count or self.process.poll() is not None, 30, f"{said!r}"
        )
        assert self.err().count(said) >= count, self.err()


@pytest.fixture
def following(tmp_path: Path) -> Iterator[Any]:
    begun: list[Following] = []

    def begin(*arguments: str) -> Following:
        begun.append(Following(tmp_path, *arguments))
        return begun[-1]

    yield begin
    for one in begun:
        one.process.kill()
        one.process.wait()


def publish(server: Server, channel: str, word: str) -> None:
    assert get(server, f"/publish/{channel}/{word}", method="POST").head.startswith(b"HTTP/1.1 200")


def test_a_published_channel_is_followed_over_a_server_that_is_killed(
    wire: str, servers: Servers, following: Any
) -> None:
    server = servers.gunicorn(APP)
    page = following("--wire", wire, f"{server.url}/named/n")
    page.hear("follows")
    publish(server, "n-a", "one")
    page.wait("#data: one\n#log: one<br>\n")
    server.kill()
    page.hear("again in")
    server.start()
    page.hear("follows", 2)
    page.hear("refresh: what was missed is not known any more")
    publish(server, "n-b", "two")
    page.wait("#data: two\n#log: two<br>\n")
    assert page.out() == "#data: one\n#log: one<br>\n#data: two\n#log: two<br>\n"
    assert page.process.poll() is None


def test_what_comes_while_the_server_restarts_is_shown_once_and_in_order(
    wire: str, servers: Servers, following: Any
) -> None:
    # Two workers have a hub of their own, which stays and remembers.
    server = servers.gunicorn(APP, workers=2)
    page = following("--wire", wire, f"{server.url}/named/n")
    page.hear("follows")
    for number in range(9):
        publish(server, "n-a", f"w{number}")
        if number % 3 == 1:
            server.restart(kill=True)
    page.wait("w8<br>")
    assert re.findall(r"w(\d)<br>", page.out()) == [*"012345678"]
    assert "refresh" not in page.err()


def test_a_loop_of_the_pages_own_is_followed_to_its_end(wire: str, servers: Servers) -> None:
    server = servers.gunicorn(APP)
    done = afterload("follow", "--wire", wire, f"{server.url}/private")
    assert (done.returncode, done.stdout) == (0, "".join(f"step {number}\n" for number in range(1, 6)))
    assert done.stderr.endswith("afterload follow: the page's own loop has ended: done\n")


def test_a_loop_that_fails_is_told_and_a_page_that_is_not_for_us(servers: Servers) -> None:
    failing = servers.gunicorn("examples.failing:app")
    done = afterload("follow", failing.url)
    assert done.returncode == 3
    assert "afterload follow: dice has ended: failed (" in done.stderr
    server = servers.gunicorn(APP)
    for path in ("/forbidden", "/nowhere", "/plain"):
        assert afterload("follow", server.url + path).returncode == follow.DENIED


def test_it_needs_no_framework() -> None:
    code = (
        "import sys; sys.modules['flask'] = None; from afterload.cli import main; "
        "status = main(['follow', '-q', '--retries', '0', 'http://127.0.0.1:1/']); "
        "print(status, *{'jinja2', 'werkzeug', 'websockets'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout == f"{follow.GAVE_UP}\n"
