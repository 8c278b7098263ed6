"""Each example does what it says, asked as an app's own tests would ask."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from flask.testing import FlaskClient
from markupsafe import Markup

from afterload import Patch, append, append_text, attr, text, value
from afterload.testing import Block, follow
from tests.docs.markdown import ROOT
from tests.examples.mounted import MODULES, NAMES
from tests.servers.process import wait_until


@pytest.fixture
def client(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FlaskClient]:
    """A client of the example that the test is marked with."""
    module = MODULES[request.param]
    monkeypatch.setenv("ORDERS", str(tmp_path / "orders.sqlite"))
    monkeypatch.setenv("BOARD", str(tmp_path / "board.sqlite"))
    monkeypatch.setenv("STOCK", str(tmp_path / "stock.sqlite"))
    over = threading.Event()
    before = threading.enumerate()
    if request.param == "anywhere":
        # Its thread would go on for the rest of this process, and throw dice under the property tests.
        def sleep(seconds: float) -> None:
            if over.wait(seconds):
                raise InterruptedError

        def until_over(measure: Callable[[], None] = module.measure) -> None:
            with contextlib.suppress(InterruptedError):
                measure()

        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=sleep))
        monkeypatch.setattr(module, "measure", until_over)
        monkeypatch.setattr(module, "thread", threading.Lock())
    yield module.app.test_client()
    over.set()
    module.live.close()
    for thread in threading.enumerate():
        if thread not in before:
            thread.join(5)
            assert not thread.is_alive(), f"{thread} goes on"


def of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("client", [name], indirect=True)


def patches(blocks: list[Block]) -> list[Patch]:
    return [patch for block in blocks for patch in block.patches]


def until(client: FlaskClient, targets: set[str], path: str = "/") -> list[Patch]:
    """What a page is sent, until all of these places were written to."""
    for limit in (1, 3, 9, 27):
        seen = patches(follow(client, path, limit=limit))
        if targets <= {patch.target for patch in seen}:
            return seen
    raise AssertionError(f"{targets} were not all written to; what came: {seen}")


def log_in(module: ModuleType, user: str) -> FlaskClient:
    made: FlaskClient = module.app.test_client()
    assert made.post("/login", data={"user": user}).status_code == 302
    return made


@pytest.mark.parametrize(
    "client", [n for n in NAMES if n not in ("hello", "jobs", "login", "report", "template")], indirect=True
)
def test_the_page_is_whole_html_with_a_script_that_follows(client: FlaskClient) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.text.startswith("<!doctype html>")
    assert "data-position=" in response.text or "new EventSource(" in response.text


def test_importing_all_of_them_starts_nothing() -> None:
    code = "import threading, tests.examples.mounted; print(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@of("spinner")
def test_the_spinner_counts_from_0_on_each_page(client: FlaskClient) -> None:
    for _ in range(2):
        assert patches(follow(client, "/", limit=2)) == [text("#data", "\\ 0"), text("#data", "| 1")]


@of("spinner")
def test_the_spinner_goes_on_after_a_cut(client: FlaskClient) -> None:
    first = follow(client, "/", limit=2)
    [again] = follow(client, "/", limit=1, headers={"Last-Event-ID": first[-1].id})
    assert int(str(patches([again])[-1].content).split()[1]) >= 2


@of("spinner_async")
def test_the_async_spinner_counts_too(client: FlaskClient) -> None:
    assert patches(follow(client, "/", limit=2)) == [text("#data", "\\ 0"), text("#data", "| 1")]


@of("clock")
def test_the_clock_counts_its_viewers(client: FlaskClient) -> None:
    assert text("#viewers", 1) in patches(follow(client, "/", limit=2))


@of("progress")
def test_who_comes_after_the_end_of_the_work_is_shown_the_result(client: FlaskClient) -> None:
    seen = follow(client, "/")
    assert value("#bar", 50) in patches(seen)
    late = follow(client, "/")
    assert [block.event for block in late] == ["snapshot", "end"]
    assert late[-1].status == "done"
    assert patches(late) == [value("#bar", 50), text("#step", 50), patches(seen)[-1]]
    assert client.post("/again").status_code == 302
    [first, *_] = patches(follow(client, "/", limit=1))
    assert first.target == "#bar"
    assert int(first.content) < 50


@of("jobs")
def test_a_form_starts_work_that_says_how_far_it_is_and_what_came_of_it(client: FlaskClient) -> None:
    assert '<textarea name="lines"' in client.get("/").text
    started = client.post("/imports", data={"lines": "a@example.org\r\nb\r\n<c>\r\n"})
    assert started.status_code == 303
    page = started.headers["Location"]
    assert "data-position=" in client.get(page).text
    blocks = follow(client, page)
    assert blocks[-1].status == "done"
    shown = patches(blocks)
    assert shown[-1] == text("#result", "1 of 3 lines are addresses.")
    assert value("#bar", 3) in shown
    assert attr("#bar", "max", 3) in shown
    late = patches(follow(client, page))
    assert append("#wrong", "<c> is no address. ", keep=100) in late
    assert late[-1] == shown[-1]
    assert client.get("/imports/none").status_code == 404


@of("jobs")
def test_the_work_is_cancelled_by_a_button_and_its_page_shows_how_far_it_got(client: FlaskClient) -> None:
    page = client.post("/imports", data={"lines": "a@example.org\n" * 900}).headers["Location"]
    follow(client, page, limit=2)
    assert client.post(f"{page}/cancel").headers["Location"] == page
    blocks = follow(client, page)
    assert (blocks[-1].event, blocks[-1].status) == ("end", "cancelled")
    assert "#result" not in {patch.target for patch in patches(blocks)}


@of("jobs")
def test_where_there_is_no_room_the_form_says_so(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULES["jobs"].live.loops, "full", lambda: True)
    answer = client.post("/imports", data={"lines": "a"})
    assert (answer.status_code, answer.text[:8]) == (503, "Too much")


@of("log")
def test_the_log_escapes_what_it_shows_and_keeps_500_lines(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULES["log"].random, "choice", lambda users: users[-1])
    seen = patches(follow(client, "/", limit=5))
    assert len(seen) >= 5
    for patch in seen:
        assert (patch.action, patch.target, patch.options) == ("append", "#log", {"keep": 500})
        assert patch.content.startswith("<div>")
        assert " &lt;anonymous&gt; <b>#" in patch.content


@of("anywhere")
def test_what_a_request_a_thread_and_a_loop_publish_comes_over_one_connection(client: FlaskClient) -> None:
    client.get("/")
    assert client.post("/", data={"note": "<hello>"}).status_code == 302
    assert text("#note", "<hello>") in until(client, {"#time", "#degrees", "#note"})


@of("orders")
def test_an_order_is_in_the_page_and_in_the_stream(client: FlaskClient) -> None:
    assert client.post("/", data={"thing": "<tea>"}).status_code == 302
    row = Markup('<li id="order-1">&lt;tea&gt;</li>')
    page = client.get("/").text
    assert row in page
    assert '<b id="count">1</b>' in page
    assert patches(follow(client, "/", limit=1)) == [append("#orders", row), text("#count", 1)]


@of("orders")
def test_after_a_restart_a_page_with_orders_is_told_to_fetch_itself(client: FlaskClient) -> None:
    client.post("/", data={"thing": "tea"})
    [block] = follow(client, "/", limit=1)
    MODULES["orders"].live.close()  # memory is lost
    [told] = follow(client, "/", limit=1, headers={"Last-Event-ID": block.id})
    assert told.event == "refresh"
    assert '<li id="order-1">tea</li>' in client.get("/").text


@of("wall")
def test_the_wall_shows_what_was_written_before_a_page_was_opened(client: FlaskClient) -> None:
    assert '<b id="last">never</b>' in client.get("/").text
    assert client.post("/", data={"note": "<hello>"}).status_code == 302
    page = client.get("/").text
    assert '<ul id="notes"><li>&lt;hello&gt;</li></ul>' in page
    assert re.search(r'<b id="last">\d\d:\d\d:\d\d</b>', page)


@of("stock")
def test_a_page_with_the_stock_comes_back_in_place_after_a_restart(client: FlaskClient) -> None:
    page = client.get("/").text
    assert '<b id="count-tea">50</b> tea' in page
    assert client.post("/take/tea").status_code == 302
    assert client.post("/take/<gold>").status_code == 404
    [block] = follow(
        client, "/", limit=1, headers={"Last-Event-ID": page.split('data-position="')[1].split('"')[0]}
    )
    assert text("#count-tea", 49) in block.patches
    MODULES["stock"].live.close()  # memory is lost
    reset, snap = follow(client, "/", limit=2, headers={"Last-Event-ID": block.id})
    assert (reset.event, snap.event) == ("reset", "snapshot")
    assert '<b id="count-tea">49</b> tea' in snap.patches[0].content


@of("board")
def test_an_order_is_on_the_board_of_its_station_and_on_that_of_all(client: FlaskClient) -> None:
    answer = client.post("/", data={"station": "bar", "thing": "<tea>"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    row = Markup('<li id="order-1">&lt;tea&gt;</li>')
    assert [row in client.get(path).text for path in ("/", "/bar", "/kitchen")] == [True, True, False]
    for path in ("/", "/bar"):
        assert append("#bar", row, keep=50) in until(client, {"#bar"}, path)
    assert client.post("/", data={"station": "roof", "thing": "tea"}).status_code == 400
    assert client.get("/roof").status_code == 404


@of("board")
def test_the_board_shows_the_last_fifty_orders_and_what_was_published_is_not_missed(
    client: FlaskClient,
) -> None:
    positions = [
        client.post("/", data={"station": "kitchen", "thing": f"soup {n}"}).headers["Position"]
        for n in range(52)
    ]
    shown = re.findall(r"soup (\d+)", client.get("/kitchen").text)
    assert shown == [str(n) for n in range(2, 52)]
    [first, *_] = follow(client, "/kitchen", limit=1, headers={"Last-Event-ID": positions[-3]})
    assert re.findall(r"soup (\d+)", str(first.patches)) == ["50", "51"]


@of("tokens")
def test_tokens_are_added_one_after_the_other_as_text(client: FlaskClient) -> None:
    seen = patches(follow(client, "/?q=<why>"))
    assert {(patch.action, patch.target) for patch in seen} == {("append_text", "#answer")}
    answer = "".join(patch.content for patch in seen)
    assert answer == "You ask: <why> I have thought about it, and the answer is: <maybe>. "
    assert append_text("#answer", "You ") == seen[0]


@of("tokens")
def test_an_answer_that_was_lost_is_not_given_a_second_time(client: FlaskClient) -> None:
    first = follow(client, "/", limit=1)
    MODULES["tokens"].live.close()
    [end] = follow(client, "/", headers={"Last-Event-ID": first[-1].id})
    assert (end.event, end.status) == ("end", "lost")


@of("bare")
def test_plain_strings_come_as_messages_until_the_end(client: FlaskClient) -> None:
    assert [block.text for block in follow(client, "/", limit=2)] == ["\\ 0", "| 1"]
    blocks = follow(client, "/launch")
    assert [block.text for block in blocks if block.event == "message"] == ["3", "2", "1", "lift-off"]
    assert follow(client, "/launch", headers={"Last-Event-ID": blocks[-1].id}) == []


@of("status")
def test_the_counter_counts(client: FlaskClient) -> None:
    seen = [int(patch.content) for patch in patches(follow(client, "/", limit=2))]
    assert seen[0] < seen[1]


@of("failing")
def test_a_failure_is_told_to_the_page_without_its_cause_and_to_the_app_with_it(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolled = iter([2, 1, 0])
    monkeypatch.setattr(MODULES["failing"].random, "randint", lambda low, high: next(rolled))
    blocks = follow(client, "/")
    assert patches(blocks)[-1] == text("#share", "1/1 is 1.000")
    assert blocks[-1].status == "failed"
    assert blocks[-1].message
    assert "division" not in repr(blocks)
    assert "the loop 'dice' failed" in caplog.text
    told = "dice: ZeroDivisionError('division by zero')"
    wait_until(lambda: json.loads(client.get("/failures").data)[-1:] == [told], 5, "the app to be told")


@of("login")
def test_only_those_who_are_logged_in_may_follow(client: FlaskClient) -> None:
    assert client.get("/").headers["Location"] == "/login"
    with pytest.raises(AssertionError, match="302"):
        follow(client, "/", limit=1)


@of("login")
def test_a_message_reaches_whom_it_is_for_and_a_logout_ends_the_streams_of_the_user(
    client: FlaskClient,
) -> None:
    module = MODULES["login"]
    ann, bob = log_in(module, "ann"), log_in(module, "bob")
    ann.post("/say", data={"to": "bob", "text": "hello"})
    ann.post("/say", data={"to": "", "text": "all"})
    assert patches(follow(bob, "/", limit=1)) == [text("#to-all", "ann: all"), text("#to-you", "ann: hello")]
    [block] = follow(ann, "/", limit=1)
    assert patches([block]) == [text("#to-all", "ann: all")]
    same = module.app.test_client()
    same.post("/login", data={"user": "ann"})
    ends: list[str] = []
    watching = threading.Thread(
        target=lambda: ends.extend(b.event for b in follow(same, "/", headers={"Last-Event-ID": block.id}))
    )
    watching.start()
    wait_until(lambda: module.live.viewers("user ann"), 5, "the page to follow")
    ann.post("/logout")
    watching.join(5)
    assert ends == ["bye"]
    assert patches(follow(bob, "/", limit=1)) == [text("#to-all", "ann: all"), text("#to-you", "ann: hello")]
    assert client.post("/say", data={"to": "", "text": "x"}).headers["Location"] == "/login"


@of("csp")
def test_the_policy_names_the_nonce_of_the_script(client: FlaskClient) -> None:
    response = client.get("/")
    nonce = response.text.partition('nonce="')[2].partition('"')[0]
    assert len(nonce) > 20
    assert f"'nonce-{nonce}'" in response.headers["Content-Security-Policy"]


@of("hello")
def test_a_document_is_one_response_with_every_step_and_a_mark_at_its_end(client: FlaskClient) -> None:
    page = client.get("/").text
    assert re.findall(r'"#data","(.)"', page) == list("hello")
    assert page.index("live") < page.index("That was all.") < page.index('complete",{}')
    assert patches(follow(client, "/"))[-1] == text("#data", "o")  # and on the same URL the event stream


@of("report")
def test_a_form_is_answered_by_its_work(client: FlaskClient) -> None:
    assert "<form" in client.get("/").text
    page = client.post("/report", data={"most": "4"}).text
    assert re.findall(r'"#bar","(.)"', page) == list("1234")
    assert "The sum of the squares is 30." in page
    assert 'complete",{}' in page
    assert re.search(r'<noscript>.*::after{content:"1 squared is 1[^"]*4 squared is 16. "}', page)


@of("template")
def test_a_streamed_template_has_its_patches_where_they_stand(client: FlaskClient) -> None:
    page = client.get("/").text
    assert re.findall(r'"#data","(\d+) (.)"', page) == [(str(i), c) for i, c in enumerate("hello" * 10)]
    assert page.index("49 o") < page.index("That was all.") < page.index('complete",{}')


def test_every_example_has_a_test_of_its_own() -> None:
    marks: list[Any] = [
        mark
        for test in globals().values()
        for mark in getattr(test, "pytestmark", [])
        if mark.args[0] == "client"
    ]
    assert {name for mark in marks for name in mark.args[1] if len(mark.args[1]) == 1} == set(NAMES)
