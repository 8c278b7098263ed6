"""`live.document` and `live.stream_template`, asked by a test client and on a real server in this process."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Blueprint, Flask, abort, flash, g, request, session
from jinja2 import DictLoader
from markupsafe import Markup

from afterload import append, text
from afterload.errors import LoopError
from afterload.flask import Live
from afterload.runs import FAILED
from afterload.testing import follow
from tests.handover.raw import Raw
from tests.test_wsgi import get, serve

TEMPLATES = {
    "document.html": '<!doctype html><title>{{ title }}</title><p id="n">-</p>{{ live_updates() }}<p>tail</p></body>',
    "nonce.html": '<p id="n">-</p>{{ live_updates("the nonce") }}',
    "nowhere.html": "<p>no updates</p>",
    "twice.html": "{{ live_updates() }}{{ live_updates() }}",
    "client.html": "{{ live_updates() }}{{ live_client() }}",
    "page.html": "{{ live_updates() }}",
    "patch.html": "{{ live_patch('#n', 1) }}",
    "rows.html": "<ul>{% for row in rows %}<li>{{ row }}</li>{% endfor %}</ul>",
    "steps.html": '<p id="n">-</p>{% for row in rows %}{{ live_patch("#n", row) }}{% endfor %}<p>tail</p>',
    "context.html": (
        "{{ request.path }} {{ session['user'] }} {{ g.db }} {{ url_for('about') }} {{ shown }} {{ name }}"
        "{% for row in rows %}{{ g.db }}{% endfor %}"
    ),
}


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    app.secret_key = "for tests"
    app.jinja_env.loader = DictLoader(TEMPLATES)
    return app


@pytest.fixture
def live(app: Flask) -> Iterator[Live]:
    live = Live(app, linger=0.2)
    yield live
    live.close()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("afterload")])


def wait_until(true: Callable[[], Any], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def blocks(page: str) -> list[Any]:
    return [json.loads(said) for said in re.findall("<af-p p='([^']*)'></af-p>", page)]


def events(page: str) -> list[str]:
    return [event for event, *_ in blocks(page)]


def count(most: int = 3) -> Iterator[Any]:
    for i in range(most):
        yield {"#n": i}


# Documents


def test_a_document_is_its_head_its_updates_and_its_tail(app: Flask, live: Live) -> None:
    app.add_url_rule("/", "index", lambda: live.document("document.html", count(), title="<T>"))
    response = app.test_client().get("/")
    page = response.text
    assert page.startswith(
        '<!doctype html><title>&lt;T&gt;</title><p id="n"><?start name="n">-<?end></p><svg '
    )
    assert re.search(
        r"""<p>tail</p>(<div hidden>(?!.*<div hidden>).*</div>)<af-p p='\["complete",{}\]'></af-p></body>\Z""",
        page,
    )
    hello, *patched, end, complete = blocks(page)
    assert hello[0] == "hello"
    assert hello[1]["channels"] == ["~"]
    # None is lost: what comes in one flush is merged to what it leaves behind.
    assert patched[-1][1][1:3] == [3, [["text", "#n", "2"]]]
    assert end == ["end", {"channel": "~", "status": "done", "message": ""}]
    assert complete == ["complete", {}]
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Vary"] == "Accept"
    assert response.headers["Cache-Control"] == "private, no-cache, no-transform"
    assert "Content-Length" not in response.headers


@pytest.mark.parametrize("wire", ["document", "page"])
def test_a_large_value_behind_a_small_one_is_shown(app: Flask, live: Live, wire: str) -> None:
    large = "x" * 1_000_000

    def say() -> Iterator[Any]:
        yield {"#n": "small"}
        yield {"#n": large}
        yield text("#m", "last")

    app.add_url_rule("/", "index", lambda: live.document("document.html", say()))
    if wire == "document":
        page = app.test_client().get("/").text
        assert f'["text","#n","{large}"]' in page
        assert events(page)[-2:] == ["end", "complete"]
    else:
        said = follow(app.test_client(), "/")
        assert [b.event for b in said][-1] == "end"
        assert text("#n", large) in [patch for block in said for patch in block.patches]


@pytest.mark.parametrize("status", [201, 404, 422, 500, 503])
def test_a_document_may_have_any_status_that_has_a_body(app: Flask, live: Live, status: int) -> None:
    app.add_url_rule("/", "index", lambda: (live.document("document.html", count()), status))
    response = app.test_client().get("/")
    assert response.status_code == status
    assert events(response.text)[-1] == "complete"


def test_the_same_url_gives_the_event_stream(app: Flask, live: Live) -> None:
    app.add_url_rule("/", "index", lambda: live.document("document.html", count()))
    assert [b.event for b in follow(app.test_client(), "/")][-1] == "end"


def test_head_starts_nothing(app: Flask, live: Live) -> None:
    app.add_url_rule("/", "index", lambda: live.document("document.html", count()))
    response = app.test_client().head("/")
    assert response.status_code == 200
    assert response.data == b""
    assert live.stats()["loops"] == 0


def test_a_loop_that_fails_ends_the_document_with_what_its_reader_may_know(
    app: Flask, live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Iterator[Any]:
        yield {"#n": 1}
        raise ValueError("a secret")

    app.add_url_rule("/", "index", lambda: live.document("document.html", fail()))
    page = app.test_client().get("/").text
    assert blocks(page)[-2:] == [
        ["end", {"channel": "~", "status": "failed", "message": FAILED}],
        ["complete", {}],
    ]
    assert "a secret" not in page
    wait_until(lambda: "a secret" in caplog.text)


def test_a_shared_loop_is_shown_from_its_state_on_and_its_bytes_are_shared(app: Flask, live: Live) -> None:
    go_on = threading.Event()

    @live.loop
    def work() -> Iterator[Any]:
        yield {"#n": "before"}
        go_on.wait(20)
        yield {"#n": "after"}

    app.add_url_rule("/", "index", lambda: live.document("document.html", work))
    with serve(app) as where, Raw(where).ask("/") as first, Raw(where).ask("/") as second:
        for raw in (first, second):
            raw.until(b'"before"')
        wait_until(lambda: live.viewers(work) == 2)
        before = live.stats()["sends"]
        go_on.set()
        pages = [raw.rest().decode() for raw in (first, second)]
    for page in pages:
        assert '"after"' in page
        assert events(page)[-2:] == ["end", "complete"]
        assert page.endswith("</body>")
    assert live.stats()["sends"] - before <= 6


def test_published_channels_are_shown_until_they_are_over(app: Flask, live: Live) -> None:
    app.add_url_rule("/", "index", lambda: live.document("document.html", "a", "b"))
    with serve(app) as where, Raw(where).ask("/") as raw:
        raw.until(b'"hello"')
        live.publish("a", {"#n": 1})
        live.publish("b", {"#n": 2})
        raw.until(b'["text","#n","2"]')
        live.hub.finish("a", "done")
        live.hub.finish("b", "done")
        rest = raw.rest()
    assert rest.endswith(b"</body>")


@pytest.mark.parametrize("name", ["nowhere.html", "twice.html"])
def test_a_template_that_says_nowhere_or_twice_where_it_goes_on_is_an_error(
    app: Flask, live: Live, name: str
) -> None:
    app.testing = True
    app.add_url_rule("/", "index", lambda: live.document(name, count()))
    with pytest.raises(LoopError, match=r"live_updates\(\)"):
        app.test_client().get("/")


@pytest.mark.parametrize(
    ("method", "name", "message"),
    [
        ("document", "client.html", "live_client"),
        ("page", "page.html", "live_updates"),
        ("document", "patch.html", "live_patch"),
    ],
)
def test_each_template_function_has_its_place(
    app: Flask, live: Live, method: str, name: str, message: str
) -> None:
    app.testing = True
    app.add_url_rule("/", "index", lambda: getattr(live, method)(name, count()))
    with pytest.raises(LoopError, match=message):
        app.test_client().get("/")


def test_the_script_has_the_nonce_and_no_update_needs_it(app: Flask, live: Live) -> None:
    app.add_url_rule("/", "index", lambda: live.document("nonce.html", count()))
    page = app.test_client().get("/").text
    assert page.count('nonce="the nonce"') == page.count("<script") + page.count("<style")
    assert page.count("<script") == 1


def test_a_private_loop_ends_with_its_viewer(app: Flask, live: Live) -> None:
    over = threading.Event()

    def forever() -> Iterator[Any]:
        try:
            while True:
                yield {"#n": 1}
                live.sleep(0.01)
        finally:
            over.set()

    app.add_url_rule("/", "index", lambda: live.document("document.html", forever()))
    with serve(app) as where:
        with Raw(where).ask("/") as raw:
            raw.until(b'"patch"')
        assert over.wait(20)
        wait_until(lambda: live.stats()["loops"] == 0)


def test_where_there_is_no_room_a_document_is_a_503_and_nothing_is_started(app: Flask) -> None:
    live = Live(app, max_viewers=0)
    begun = []

    def loop() -> Iterator[Any]:
        begun.append(1)
        yield {"#n": 1}

    app.add_url_rule("/", "index", lambda: live.document("document.html", loop()))
    app.add_url_rule("/t", "t", lambda: live.stream_template("rows.html", rows=loop()))
    for url in ("/", "/t"):
        response = app.test_client().get(url)
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) >= 5
    assert begun == []
    live.close()


def test_a_response_that_a_hook_puts_in_its_place_starts_nothing(app: Flask, live: Live) -> None:
    begun = []

    def loop() -> Iterator[Any]:
        begun.append(1)
        yield {"#n": 1}

    def view() -> Any:
        live.document("document.html", loop())
        live.stream_template("rows.html", rows=loop())
        abort(403)

    app.add_url_rule("/", "index", view)
    assert app.test_client().get("/").status_code == 403
    assert begun == []
    assert live.stats()["loops"] == 0


# Streamed templates


@pytest.fixture
def teardowns(app: Flask) -> list[str]:
    seen: list[str] = []
    app.before_request(lambda: setattr(g, "db", "open"))

    @app.teardown_request
    def of_request(error: BaseException | None) -> None:
        seen.append(f"request {request.path} {g.db} {type(error).__name__}")

    @app.teardown_appcontext
    def of_app(error: BaseException | None) -> None:
        if "db" in g:
            seen.append(f"app {g.pop('db')}")

    return seen


def test_all_of_the_request_is_there_and_teardown_runs_once_at_the_end(
    app: Flask, live: Live, teardowns: list[str]
) -> None:
    during: list[list[str]] = []

    def rows() -> Iterator[int]:
        for i in range(2):
            during.append(list(teardowns))
            yield i

    app.context_processor(lambda: {"shown": "processed"})
    app.add_url_rule("/about", "about", lambda: "")

    def view() -> Any:
        session["user"] = "<ann>"
        return live.stream_template("context.html", name=Markup("<b>"), rows=rows())

    app.add_url_rule("/streamed", "streamed", view)
    page = app.test_client().get("/streamed").text
    assert page == "/streamed &lt;ann&gt; open /about processed <b>openopen"
    wait_until(lambda: teardowns)
    assert during == [[], []]
    assert teardowns == ["request /streamed open NoneType", "app open"]


def test_teardown_of_other_requests_is_as_ever(app: Flask, live: Live, teardowns: list[str]) -> None:
    app.add_url_rule("/", "index", lambda: "plain")
    app.test_client().get("/")
    assert teardowns == ["request / open NoneType", "app open"]


@pytest.mark.parametrize("method", ["head", "get"])
def test_teardown_runs_where_the_template_does_not(
    app: Flask, live: Live, teardowns: list[str], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise LoopError("none left")

    monkeypatch.setattr(live.loops, "text", fail)
    app.add_url_rule("/", "index", lambda: live.stream_template("rows.html", rows=[]))
    getattr(app.test_client(), method)("/")
    assert teardowns == ["request / open NoneType", "app open"]


def test_teardown_runs_when_the_viewer_leaves(app: Flask, live: Live, teardowns: list[str]) -> None:
    def rows() -> Iterator[int]:
        while True:
            yield 1
            live.sleep(0.01)

    app.add_url_rule("/", "index", lambda: live.stream_template("rows.html", rows=rows()))
    with serve(app) as where, Raw(where).ask("/") as raw:
        raw.until(b"<li>1</li>")
        assert teardowns == []
        raw.close()
        wait_until(lambda: len(teardowns) == 2)
    assert [line.split()[0] for line in teardowns] == ["request", "app"]


def test_the_first_bytes_come_before_the_rest_is_known(app: Flask, live: Live) -> None:
    go_on = threading.Event()

    def rows() -> Iterator[str]:
        yield "first"
        go_on.wait(20)
        yield "second"

    app.add_url_rule("/", "index", lambda: live.stream_template("rows.html", rows=rows()))
    with serve(app) as where, Raw(where).ask("/") as raw:
        assert b"<ul><li>first</li>" in raw.until(b"</li>")
        go_on.set()
        assert raw.rest().endswith(b"<li>second</li></ul>")
    assert live.stats()["handovers"] == 1


def test_a_slow_reader_slows_the_template(app: Flask, live: Live) -> None:
    given = 0

    def rows() -> Iterator[str]:
        nonlocal given
        for _ in range(100_000):
            given += 1
            yield "x" * 1000

    app.add_url_rule("/", "index", lambda: live.stream_template("rows.html", rows=rows()))
    with serve(app) as where, Raw(where).ask("/") as raw:
        raw.until(b"<li>")
        last = -1
        while given != last:  # until the sockets are full
            last = given
            time.sleep(0.3)
        assert given < 50_000
        log = next(iter(live.loops._private.values())).log
        assert log.channels["~"].bytes < 300_000
    wait_until(lambda: live.stats()["loops"] == 0)


@pytest.mark.parametrize("buffering", [None, 2, 7, 5000])
def test_every_piece_arrives_in_order_however_it_is_buffered(
    app: Flask, live: Live, buffering: int | None
) -> None:
    rows = [f"<{i}>" for i in range(3000)]
    app.add_url_rule(
        "/", "i", lambda: live.stream_template("rows.html", rows=iter(rows), buffering=buffering)
    )
    page = app.test_client().get("/").text
    assert page == "<ul>" + "".join(f"<li>&lt;{i}&gt;</li>" for i in range(3000)) + "</ul>"


def test_a_piece_larger_than_any_bound_loses_nothing(app: Flask, live: Live) -> None:
    rows = ["a" * 60_000, "b" * 3_000_000, "c", "d" * 400_000, "e"]
    app.add_url_rule("/", "index", lambda: live.stream_template("rows.html", rows=rows))
    assert app.test_client().get("/").text == "<ul>" + "".join(f"<li>{row}</li>" for row in rows) + "</ul>"


@pytest.mark.parametrize("buffering", [1, 0, True, "5", 2.0])
def test_a_buffering_that_is_none_is_an_error(app: Flask, live: Live, buffering: Any) -> None:
    app.testing = True
    app.add_url_rule("/", "i", lambda: live.stream_template("rows.html", rows=[], buffering=buffering))
    with pytest.raises(LoopError, match="buffering"):
        app.test_client().get("/")


def test_a_template_that_is_not_there_is_an_error_in_the_view(app: Flask, live: Live) -> None:
    app.add_url_rule("/", "index", lambda: live.stream_template("missing.html"))
    assert app.test_client().get("/").status_code == 500


@pytest.mark.parametrize("is_async", [False, True])
def test_async_generators_are_looped_over(app: Flask, live: Live, is_async: bool) -> None:
    closed = []

    async def rows() -> Any:
        try:
            for i in range(3):
                yield f"{i} {request.path}"
        finally:
            closed.append(1)

    if is_async:
        app.jinja_options = {"enable_async": True}
        app.__dict__.pop("jinja_env", None)
        app.jinja_env.loader = DictLoader(TEMPLATES)
        app.jinja_env.globals["live_patch"] = live.patch
    app.add_url_rule("/", "index", lambda: live.stream_template("rows.html", rows=rows()))
    assert app.test_client().get("/").text == "<ul><li>0 /</li><li>1 /</li><li>2 /</li></ul>"
    assert closed == [1]


def test_a_blueprints_template_and_its_hooks(app: Flask, live: Live, tmp_path: Any) -> None:
    (tmp_path / "own.html").write_text(
        "{{ own }}{{ url_for('.other') }}{% for r in rows %}{{ own }}{% endfor %}"
    )
    app.jinja_env.loader = app.create_global_jinja_loader()
    blueprint = Blueprint("bp", __name__, template_folder=str(tmp_path), url_prefix="/bp")
    blueprint.context_processor(lambda: {"own": "of the blueprint "})
    torn = []
    blueprint.teardown_request(lambda error: torn.append(request.blueprint))
    blueprint.add_url_rule("/", "index", lambda: live.stream_template("own.html", rows=[1]))
    blueprint.add_url_rule("/other", "other", lambda: "")
    app.register_blueprint(blueprint)
    assert app.test_client().get("/bp/").text == "of the blueprint /bp/otherof the blueprint "
    wait_until(lambda: torn)
    assert torn == ["bp"]


def test_a_patch_in_a_template_is_escaped_and_brings_the_script_with_it(app: Flask, live: Live) -> None:
    value = "</script><img src=x onerror=alert(1)>'"
    rows = [value, Markup("<b>x</b>")]
    app.add_url_rule("/", "index", lambda: live.stream_template("steps.html", rows=rows))
    page = app.test_client().get("/").text
    assert page.count("<script") == 1
    assert "<img" not in page
    assert blocks(page)[1:] == [
        ["patch", ["~", 1, [["text", "#n", value]]]],
        ["patch", ["~", 2, [["html", "#n", "<b>x</b>"]]]],
        ["end", {"channel": "~", "status": "done", "message": ""}],
        ["complete", {}],
    ]


def test_other_patches_may_be_written_too(app: Flask, live: Live) -> None:
    app.jinja_env.loader = DictLoader(
        {"t.html": "{{ live_patch(append('#log', '<x>')) }}{{ live_patch({'#a': 1}) }}"}
    )
    app.add_url_rule("/", "index", lambda: live.stream_template("t.html", append=append))
    assert [lines[0][2] for event, *lines in blocks(app.test_client().get("/").text) if event == "patch"] == [
        [append("#log", "<x>").wire()],
        [text("#a", 1).wire()],
    ]


def test_a_template_without_patches_has_nothing_of_ours_in_it(app: Flask, live: Live) -> None:
    app.add_url_rule("/", "index", lambda: live.stream_template("rows.html", rows=["\ud800", "é"]))
    assert app.test_client().get("/").text == "<ul><li>?</li><li>é</li></ul>"


def test_an_error_in_the_middle_is_a_notice_for_the_reader_and_a_log_record(
    app: Flask, live: Live, caplog: pytest.LogCaptureFixture, teardowns: list[str]
) -> None:
    def rows() -> Iterator[int]:
        yield 1
        raise ValueError("a secret")

    told: list[tuple[str, str]] = []
    live.on_error(lambda name, error: told.append((name, str(error))))
    app.add_url_rule("/", "index", lambda: live.stream_template("steps.html", rows=rows()))
    page = app.test_client().get("/").text
    assert f'<p id="af-failed" role="alert">{FAILED}</p>' in page
    assert "<p>tail" not in page
    assert "a secret" not in page
    assert blocks(page)[-2:] == [
        ["end", {"channel": "~", "status": "failed", "message": FAILED}],
        ["complete", {}],
    ]
    wait_until(lambda: told)
    assert told == [("steps.html", "a secret")]
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "'steps.html'" in record.getMessage()
    wait_until(lambda: len(teardowns) == 2)
    assert teardowns[0] == "request / open ValueError"


def test_what_a_form_has_sent_can_be_read_while_the_template_is_rendered(app: Flask, live: Live) -> None:
    def view() -> Any:
        file = request.files["file"]
        return live.stream_template("rows.html", rows=(line.decode().strip() for line in file.stream))

    app.add_url_rule("/", "index", view, methods=["POST"])
    lines = b"".join(b"line %d\n" % i for i in range(30_000))
    from io import BytesIO

    page = app.test_client().post("/", data={"file": (BytesIO(lines), "a.csv")}).text
    assert page.count("<li>") == 30_000
    assert "<li>line 29999</li>" in page


def test_flashed_messages_are_shown(app: Flask, live: Live) -> None:
    app.jinja_env.loader = DictLoader({"t.html": "{{ get_flashed_messages()|join }}"})

    def view() -> Any:
        flash("saved")
        return live.stream_template("t.html")

    app.add_url_rule("/", "index", view)
    assert app.test_client().get("/").text == "saved"


def test_the_head_of_a_document_taken_from_the_server_is_that_of_the_app(app: Flask, live: Live) -> None:
    def view() -> Any:
        response = live.document("document.html", count())
        response.set_cookie("a", "1")
        return response

    app.add_url_rule("/", "index", view)
    with serve(app) as where:
        raw = get(where, "/")
    head = raw.data.partition(b"\r\n\r\n")[0].lower()
    assert b"set-cookie: a=1" in head
    assert b"connection: close" in head
    assert b"content-length" not in head
    assert live.stats()["handovers"] == 1
