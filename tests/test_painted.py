"""First paint: pages whose HTML shows the state of what they follow, in apps; and what their streams bring then."""

from __future__ import annotations

import html as markup
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, render_template, request
from flask.testing import FlaskClient
from jinja2 import DictLoader
from markupsafe import Markup
from werkzeug.test import TestResponse

from afterload import LoopError, append, attr, class_, html, remove, text, title, value
from afterload.flask import Live
from afterload.position import Position
from afterload.testing import Block, follow
from tests.test_live import Stream

TEMPLATES = {
    "orders.html": (
        '<p id=count>{{ live.state("orders").get("#count", 0) }}</p>'
        '<ul id=rows>{{ live_state("orders")["#rows"] }}</ul>{{ live_client() }}'
    ),
    "early.html": '{{ live_client(nonce="n") }}<p id=count>{{ live.state("orders")["#count"] }}</p>',
    "work.html": (
        '<ul id=log>{{ live.state("work")["#log"] }}</ul><p id=more></p>{% if part %}<p id=part></p>{% endif %}'
        "{{ live_client() }}"
    ),
    "cells.html": (
        '{% set s = live.state("orders") %}<title>{{ s.title("Shop") }}</title>'
        '<progress id=bar value="{{ s.value("#bar", 0) }}" class="{{ "hot" if s.has_class("#bar", "hot") }}">'
        '</progress><a id=next href="{{ s.attr("#next", "href", "/1") }}"></a>{{ live_client() }}'
    ),
    "other.html": '{{ live.state("other")["#count"] }}{{ live_client() }}',
    "plain.html": '<p>{{ live.state("other")["#count"] }}</p>',
    "given.html": "<ul id=rows>{{ rows }}</ul>{{ live_client() }}",
    "twice.html": '{{ live_client() }}{{ live.state("orders")["#count"] }}{{ live_client() }}',
    "changed.html": '{{ live.state("orders")["#count"] }}{{ live_client()|upper }}',
    "document.html": '<ul id=log>{{ live.state("work")["#log"] }}</ul>{% if part %}<p id=part></p>{% endif %}'
    "{{ live_updates() }}",
}
SCRIPT = re.compile(r'data-position="([^"]*)"(?: data-painted="([^"]*)")?')


def row(n: int) -> Markup:
    return Markup("<li>{}</li>").format(n)


class Work:
    """A shared loop that yields what it is told to, until that is "over"."""

    def __init__(self, live: Live) -> None:
        self.steps: list[Any] = []

        @live.loop
        def work() -> Iterator[Any]:
            while True:
                while self.steps:
                    if (step := self.steps.pop(0)) == "over":
                        return
                    yield step
                live.sleep(0.005)

        self.loop = work


@pytest.fixture
def app() -> Flask:
    app = Flask("shop")
    app.testing = True
    app.jinja_loader = DictLoader(TEMPLATES)  # type: ignore[assignment]
    return app


@pytest.fixture
def live(app: Flask) -> Iterator[Live]:
    live = Live(app, linger=3600.0)
    yield live
    live.close()


@pytest.fixture
def work(app: Flask, live: Live) -> Work:
    work = Work(live)
    app.add_url_rule(
        "/work", "work", lambda: live.page("work.html", work.loop, part=request.args.get("part"))
    )
    return work


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def page(
    app: Flask, live: Live, template: str, *sources: Any, meanwhile: Callable[[], Any] | None = None
) -> None:
    """A page at ``/``; `meanwhile` is called in its view, before it is made and not for its stream."""

    def view() -> Any:
        if meanwhile is not None and "Last-Event-ID" not in request.headers:
            meanwhile()
        return live.page(template, *sources)

    app.add_url_rule("/", "view", view)


def said(found: TestResponse) -> tuple[str, list[str] | None]:
    """What a page's script says: its position, and the channels that it was painted with."""
    position, painted = SCRIPT.findall(found.text)[0]
    return position, json.loads(markup.unescape(painted)) if painted else None


def opened(client: FlaskClient, url: str, limit: int, position: str) -> list[Block]:
    return follow(client, url, limit=limit, headers={"Last-Event-ID": position})


def running(client: FlaskClient, work: Work, *steps: Any) -> Stream:
    """Has the loop run, and waits until it has yielded that."""
    work.steps += steps
    stream = Stream(client, "/work", Last_Event_ID=said(client.get("/work"))[0])
    work.steps.append("yielded")
    while (event := stream.next()) is not None and event.data != "yielded":
        pass
    return stream


# Published channels


def test_a_page_that_is_opened_late_is_right_in_its_html(app: Flask, live: Live, client: FlaskClient) -> None:
    page(app, live, "orders.html", "orders")
    assert "<p id=count>0</p><ul id=rows></ul>" in client.get("/").text
    for n in (1, 2):
        live.publish("orders", append("#rows", row(n)), {"#count": f"<{n}"})
    found = client.get("/")
    assert "<p id=count>&lt;2</p><ul id=rows><li>1</li><li>2</li></ul>" in found.text
    position, painted = said(found)
    assert painted == ["orders"]
    assert Position.parse(position).painted_of(("orders",)) == {"orders"}


def test_and_is_sent_nothing_that_it_shows_twice(app: Flask, live: Live, client: FlaskClient) -> None:
    page(app, live, "orders.html", "orders")
    live.publish("orders", append("#rows", row(1)), {"#count": 1})
    position, _ = said(client.get("/"))
    live.publish("orders", append("#rows", row(2)))
    [block] = opened(client, "/", 1, position)
    assert (block.event, block.patches) == ("patch", [text("#count", 1), append("#rows", row(2))])


def test_what_comes_while_the_page_is_made_is_shown_once(app: Flask, live: Live, client: FlaskClient) -> None:
    """Its position was taken before its view ran: the row comes by the stream, and the count may be there early."""
    page(
        app, live, "orders.html", "orders",
        meanwhile=lambda: live.publish("orders", append("#rows", row(2)), {"#count": 2}),
    )  # fmt: skip
    live.publish("orders", append("#rows", row(1)), {"#count": 1})
    found = client.get("/")
    assert "<p id=count>2</p><ul id=rows><li>1</li></ul>" in found.text
    [block] = opened(client, "/", 1, said(found)[0])
    assert block.patches == [append("#rows", row(2)), text("#count", 2)]


def test_the_script_says_so_wherever_it_stands(app: Flask, live: Live, client: FlaskClient) -> None:
    page(app, live, "early.html", "orders", "a\"b'<&é")
    live.publish("orders", {"#count": 1})
    found = client.get("/")
    assert said(found)[1] == ["orders"]
    assert 'data-painted="[&#34;orders&#34;]" async nonce="n"></script><p id=count>1' in found.text


def test_a_page_that_shows_no_state_says_nothing_of_it(app: Flask, live: Live, client: FlaskClient) -> None:
    page(app, live, "orders.html", "orders")
    position, painted = said(client.get("/"))
    assert (painted, position[-1]) == (None, "~")


def test_values_attributes_classes_and_the_title(app: Flask, live: Live, client: FlaskClient) -> None:
    page(app, live, "cells.html", "orders")
    before = client.get("/").text
    assert '<title>Shop</title><progress id=bar value="0" class=""></progress><a id=next href="/1">' in before
    live.publish(
        "orders", value("#bar", '"7'), class_("#bar", "hot"), attr("#next", "href", "/2"), title("Tom & Ann")
    )
    after = client.get("/").text
    assert "<title>Tom &amp; Ann</title>" in after
    assert '<progress id=bar value="&#34;7" class="hot"></progress><a id=next href="/2">' in after


def test_a_view_may_ask_for_it_as_well_as_a_template(app: Flask, live: Live, client: FlaskClient) -> None:
    def view() -> Any:
        live.publish("orders", append("#rows", row(2)))
        return live.page("given.html", "orders", rows=live.state("orders")["#rows"])

    app.add_url_rule("/", "view", view)
    live.publish("orders", append("#rows", row(1)))
    found = client.get("/")
    assert "<ul id=rows><li>1</li></ul>" in found.text
    assert said(found)[1] == ["orders"]
    [block] = opened(client, "/", 1, said(found)[0])
    assert block.patches[0] == append("#rows", row(2))


def test_outside_of_a_page_it_is_what_there_is_now(app: Flask, live: Live, client: FlaskClient) -> None:
    live.publish("other", {"#count": 7})
    assert live.state("other")["#count"] == "7"
    app.add_url_rule("/", "view", lambda: render_template("plain.html"))
    app.add_url_rule("/streamed", "streamed", lambda: live.stream_template("plain.html"))
    assert client.get("/").text == "<p>7</p>"
    assert client.get("/streamed").text == "<p>7</p>"


@pytest.mark.parametrize("sources", [("orders",), (iter([{}]),)], ids=["channels", "own"])
def test_a_page_shows_the_state_of_what_it_follows(
    app: Flask, live: Live, client: FlaskClient, sources: tuple[Any, ...]
) -> None:
    own = not isinstance(sources[0], str)
    app.add_url_rule("/", "view", lambda: live.page("other.html", *((x for x in [{}]),) if own else sources))
    follows = "a loop of its own" if own else "'orders'"
    with pytest.raises(
        LoopError, match=f"the page follows {follows}, and would show the state of 'other' for ever"
    ):
        client.get("/")


def test_what_selectors_have_done_is_known_to_pages_only(app: Flask, live: Live, client: FlaskClient) -> None:
    page(app, live, "orders.html", "orders")
    live.publish("orders", text(".price", 1, select="all"))
    with pytest.raises(LoopError, match="'orders' was patched with select="):
        client.get("/")
    with pytest.raises(LoopError, match="'orders' was patched with select="):
        live.state("orders")


@pytest.mark.parametrize("what", ["", "~", 7, None, "x" * 201])
def test_there_is_a_state_of_channels_only(live: Live, what: Any) -> None:
    with pytest.raises(LoopError):
        live.state(what)


def test_a_script_that_stands_there_twice_says_so_twice(app: Flask, live: Live, client: FlaskClient) -> None:
    page(app, live, "twice.html", "orders")
    live.publish("orders", {"#count": 1})
    assert [json.loads(markup.unescape(names)) for _, names in SCRIPT.findall(client.get("/").text)] == [
        ["orders"]
    ] * 2


def test_a_script_that_a_template_has_changed_cannot_say_so(
    app: Flask, live: Live, client: FlaskClient
) -> None:
    page(app, live, "changed.html", "orders")
    live.publish("orders", {"#count": 1})
    with pytest.raises(LoopError, match=r"'changed.html' shows a state, .* not in the page as it was"):
        client.get("/")


# With a snapshot source


def test_where_the_hub_does_not_know_the_state_the_app_is_asked(
    app: Flask, live: Live, client: FlaskClient
) -> None:
    """A server that was started anew paints what there was before, and its pages go on from there."""
    asked: list[int] = []

    @live.snapshot("orders")
    def present() -> Any:
        asked.append(1)
        live.publish("orders", append("#rows", row(3)))
        return html("#rows", row(1) + row(2)), {"#count": 2}

    page(app, live, "orders.html", "orders")
    live.publish("elsewhere", {"#x": 1})
    found = client.get("/")
    # what has come since the request did is not in it
    assert "<p id=count>2</p><ul id=rows><li>1</li><li>2</li></ul>" in found.text
    [block] = opened(client, "/", 1, said(found)[0])
    assert block.event == "patch"
    assert block.patches[-1] == append("#rows", row(3))
    assert "<li>3</li>" in client.get("/").text
    assert len(asked) == 1


def test_its_error_is_the_views(app: Flask, live: Live, client: FlaskClient) -> None:
    @live.snapshot("orders")
    def present() -> Any:
        raise ConnectionError("no database")

    page(app, live, "orders.html", "orders")
    with pytest.raises(ConnectionError):
        client.get("/")
    with pytest.raises(ConnectionError):
        live.state("orders")


# Loops


def test_a_page_of_a_loop_goes_on_from_what_it_shows(app: Flask, client: FlaskClient, work: Work) -> None:
    with running(client, work, append("#log", row(1)), append("#log", row(2))):
        found = client.get("/work")
        assert "<ul id=log><li>1</li><li>2</li></ul>" in found.text
        position, painted = said(found)
        assert painted == ["work"]
        work.steps.append(append("#log", row(3)))
        block = opened(client, "/work", 2, position)[-1]
        assert block.patches == [append("#log", row(3))]


def test_a_loop_that_nobody_has_run_yet_has_nothing_to_show(client: FlaskClient, work: Work) -> None:
    position, painted = said(client.get("/work"))
    assert (painted, position[-1]) == (None, "~")


def test_what_a_loop_has_brought_that_is_over_is_not_shown_as_its_next_run_is_another(
    app: Flask, live: Live, client: FlaskClient, work: Work
) -> None:
    with running(client, work, append("#log", row(1))):
        assert "<li>1</li>" in client.get("/work").text
    live.loops.stop_all(live.hub.leases)
    live.hub.leases.withdraw(live.loops)
    live.loops.define(live._definitions["work"])
    found = client.get("/work")
    assert "<ul id=log></ul>" in found.text
    assert said(found)[1] is None


@pytest.mark.parametrize(
    ("url", "step", "missing"),
    [
        ("/work?part=1", append("#part", "x"), "#part"),
        ("/work", remove("#more"), "#more"),
        ("/work", text("#log", "x", select="all"), "#log"),
    ],
)
def test_a_page_that_shows_some_of_a_loops_state_is_brought_to_the_rest(
    client: FlaskClient, work: Work, caplog: pytest.LogCaptureFixture, url: str, step: Any, missing: str
) -> None:
    """It is sent all of it, so its client has it fetch itself; and then it shows nothing before it is sent all."""
    with running(client, work, append("#log", row(1)), step):
        found = client.get(url)
        assert "<li>1</li>" in found.text
        position, painted = said(found)
        assert (painted, position[-1]) == (["work"], "~")
        snap = opened(client, "/work", 1, position)[0]
        assert snap.event == "snapshot"
        healed = client.get(url, headers={"Last-Event-ID": position})
        assert "<ul id=log></ul>" in healed.text
        position, painted = said(healed)
        assert painted is None
        snap = opened(client, "/work", 1, position)[0]
        assert (snap.event, snap.patches[0]) == ("snapshot", append("#log", row(1)))
        client.get(url)
        [record] = [r.getMessage() for r in caplog.records if "shows some of what the loop" in r.getMessage()]
        assert f"'work' has brought, but not {missing};" in record


def test_what_a_loop_has_brought_to_elements_that_the_page_has_not_got_is_no_matter(
    client: FlaskClient, work: Work
) -> None:
    with running(client, work, append("#log", row(1)), append("#part", "x"), remove("#banner")):
        position, painted = said(client.get("/work"))
        assert painted == ["work"]
        assert Position.parse(position).painted_of(("work",)) == {"work"}


def test_a_page_that_was_painted_with_an_earlier_run_fetches_itself(
    live: Live, client: FlaskClient, work: Work
) -> None:
    with running(client, work, append("#log", row(1))):
        position, _ = said(client.get("/work"))
        work.loop.restart()
        [block, *_] = opened(client, "/work", 1, position)
        assert block.event == "refresh"


# Documents


def test_a_document_goes_on_from_what_it_shows(
    app: Flask, live: Live, client: FlaskClient, work: Work
) -> None:
    def view() -> Any:
        work.steps += [append("#log", row(2)), "over"]
        return live.document("document.html", work.loop)

    app.add_url_rule("/document", "document", view)
    with running(client, work, append("#log", row(1))):
        found = client.get("/document").text
        assert "<li>1</li></ul>" in re.sub("<[?][^>]*>", "", found)
        assert '["snapshot"' not in found
        assert found.count("u003cli\\u003e2") == 1
        assert "u003cli\\u003e1" not in found


def test_a_document_that_shows_some_of_it_is_refused(
    app: Flask, live: Live, client: FlaskClient, work: Work
) -> None:
    app.add_url_rule("/document", "document", lambda: live.document("document.html", work.loop, part=1))
    with (
        running(client, work, append("#log", row(1)), append("#part", "x")),
        pytest.raises(LoopError, match=r"'document.html' shows some .* but not #part, and a document cannot"),
    ):
        client.get("/document")
