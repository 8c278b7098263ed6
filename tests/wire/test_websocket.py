"""The handshake of a WebSocket; what is sent and heard on one is tested with the hub (tests/hub/test_wires.py)."""

from __future__ import annotations

import logging
import sys

import pytest
from flask import Flask
from jinja2 import DictLoader

from afterload.flask import Live
from afterload.wire import websocket

ASKED = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def test_the_answer_is_that_of_the_standard() -> None:
    # https://www.rfc-editor.org/rfc/rfc6455#section-1.3
    answer = dict(websocket.handshake("/", ASKED.items()))
    assert answer["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert (answer["Upgrade"], answer["Connection"]) == ("websocket", "Upgrade")
    assert "Sec-WebSocket-Protocol" not in answer


@pytest.mark.parametrize(
    ("offered", "picked"),
    [
        ("afterload.v1", "afterload.v1"),
        ("afterload.v1, afterload.position.e.7", "afterload.v1"),
        ("chat, afterload.v1", "afterload.v1"),
        ("chat", None),
        ("afterload.v2", None),
    ],
)
def test_of_what_is_offered_it_picks_what_it_speaks(offered: str, picked: str | None) -> None:
    answer = dict(websocket.handshake("/", {**ASKED, "Sec-WebSocket-Protocol": offered}.items()))
    assert answer.get("Sec-WebSocket-Protocol") == picked


@pytest.mark.parametrize(
    ("other", "status"),
    [
        ({"Sec-WebSocket-Key": ""}, "400 "),
        ({"Sec-WebSocket-Version": "7"}, "400 "),
        ({"Upgrade": "h2c"}, "426 "),
    ],
)
def test_what_is_no_handshake_is_refused_with_a_status(other: dict[str, str], status: str) -> None:
    with pytest.raises(websocket.Refused) as refused:
        websocket.handshake("/", {**ASKED, **other}.items())
    assert refused.value.status.startswith(status)
    assert refused.value.why
    assert not refused.value.is_missing


def test_without_the_package_it_is_refused_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "websockets.server", None)
    app = Flask("without")
    app.jinja_loader = DictLoader({"page.html": "{{ live_client() }}"})  # type: ignore[assignment]
    live = Live(app)
    app.add_url_rule("/", "index", lambda: live.page("page.html", "a"))
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        answer = app.test_client().get("/", headers=ASKED)
        assert answer.status_code == 501
        assert answer.data == b"There is no WebSocket here.\n"
    assert [record.message for record in caplog.records if "websockets" in record.message] == [
        "afterload: over HTTP/1.1 pages try a WebSocket first, and the package websockets is not installed: they "
        "follow by event streams, six tabs at most (pip install websockets)"
    ]
    assert app.test_client().get("/", headers={"Accept": "text/html"}).status_code == 200
    live.close()
