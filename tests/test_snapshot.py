"""Snapshot sources: where no hub knows what a channel shows, the app is asked, once for all of its pages."""

from __future__ import annotations

import doctest
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from flask import Flask, current_app, g, has_request_context
from flask.testing import FlaskClient
from jinja2 import DictLoader
from markupsafe import Markup

from afterload import LoopError, PatchError, append, dispatch, html, snapshot, text
from afterload import patch as p
from afterload.flask import Live
from afterload.hub.hub import Hub
from afterload.log import Log
from afterload.settings import Settings
from afterload.snapshot import SnapshotSource
from afterload.testing import Block, follow
from tests.hub.conftest import door
from tests.hub.door import Door

__all__ = ["door"]

FOREIGN = {"Last-Event-ID": "gone.7"}


class Shop:
    """Orders, an app whose pages show them, and how often it was asked for them."""

    def __init__(self, **options: Any) -> None:
        self.app = Flask("shop")
        self.app.testing = True
        self.app.jinja_loader = DictLoader({"orders.html": "<ul id=orders></ul>{{ live_client() }}"})  # type: ignore[assignment]
        self.live = Live(self.app, **options)
        self.orders: list[str] = ["tea"]
        self.asked = 0
        self.before: Callable[[], Any] = lambda: None

        @self.live.snapshot("orders")
        def present() -> Any:
            self.asked += 1
            self.before()
            return self.present()

        @self.app.get("/")
        def index() -> Any:
            return self.live.page("orders.html", "orders")

    def present(self) -> Any:
        rows = Markup("").join(map(self.row, self.orders))
        return html("#orders", rows), {"#count": len(self.orders)}

    @staticmethod
    def row(order: str) -> Markup:
        return Markup("<li id={0}>{0}</li>").format(order)

    def order(self, thing: str) -> None:
        self.orders.append(thing)
        self.live.publish("orders", append("#orders", self.row(thing)), {"#count": len(self.orders)})

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def comes_back(self, **headers: str) -> list[Block]:
        """What a page is sent first that was open before the server was started anew."""
        return follow(self.client, "/", limit=2, headers=headers or FOREIGN)


@pytest.fixture
def make() -> Iterator[Callable[..., Shop]]:
    shops: list[Shop] = []

    def make(**options: Any) -> Shop:
        shops.append(Shop(**options))
        return shops[-1]

    yield make
    for shop in shops:
        shop.live.close()


@pytest.fixture
def shop(make: Callable[..., Shop]) -> Shop:
    return make()


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(snapshot).failed == 0


# Pages that come back


def test_a_page_that_comes_back_to_a_server_without_memory_is_brought_to_the_present_in_place(
    shop: Shop,
) -> None:
    reset, snap = shop.comes_back()
    assert (reset.event, reset.channel) == ("reset", "orders")
    assert (snap.event, snap.patches) == ("snapshot", [*p.patches(*shop.present())])


def test_what_was_published_since_the_start_is_added_to_it(shop: Shop) -> None:
    shop.comes_back()
    shop.order("milk")
    _, snap = shop.comes_back()
    assert snap.patches[-2:] == [append("#orders", shop.row("milk")), text("#count", 2)]
    assert html("#orders", shop.row("tea")) in snap.patches


def test_it_is_asked_once_and_not_for_each_page(shop: Shop) -> None:
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: shop.comes_back()[-1].event, range(100)))
    assert found == ["snapshot"] * 100
    assert shop.asked == 1


def test_it_is_not_asked_for_pages_of_which_nothing_is_missing(shop: Shop) -> None:
    page = shop.client.get("/").text
    position = page.split('data-position="')[1].split('"')[0]
    shop.order("milk")
    [block] = follow(shop.client, "/", limit=1, headers={"Last-Event-ID": position})
    shop.order("bread")
    assert block.event == "patch"
    [block] = follow(shop.client, "/", limit=1, headers={"Last-Event-ID": block.id})
    assert block.patches[0] == append("#orders", shop.row("bread"))
    assert shop.asked == 0


def test_a_page_written_by_hand_that_has_no_position_is_given_all_there_is(shop: Shop) -> None:
    shop.order("milk")
    [snap] = follow(shop.client, "/", limit=1)
    assert (snap.event, snap.patches) == ("snapshot", [*p.patches(*shop.present())])


def test_a_page_that_was_away_for_longer_than_is_remembered_is_given_it_as_well(
    make: Callable[..., Shop],
) -> None:
    shop = make(history=2, state_cells=3)
    epoch = str(shop.live.publish("orders", {"#count": 1})).split(".")[0]
    for thing in ("milk", "bread", "salt", "jam"):
        shop.order(thing)  # rows are added for ever: more than a state may hold
    shop.before = lambda: shop.orders.__setitem__(slice(None), shop.orders[-1:])
    reset, snap = shop.comes_back(**{"Last-Event-ID": f"{epoch}.1"})
    assert (reset.event, snap.event, shop.asked) == ("reset", "snapshot", 1)


def test_who_is_there_goes_on_as_before(shop: Shop) -> None:
    epoch, at = str(shop.live.publish("orders", {"#count": 1})).split(".")
    shop.comes_back()
    shop.order("milk")
    [block] = follow(shop.client, "/", limit=1, headers={"Last-Event-ID": f"{epoch}.{at}"})
    assert (block.event, block.patches[0]) == ("patch", append("#orders", shop.row("milk")))


def test_where_one_of_several_channels_has_none_pages_fetch_themselves(shop: Shop) -> None:
    shop.app.add_url_rule(
        "/both", "both", lambda: shop.live.page("orders.html", "orders", "news"), methods=["GET"]
    )
    [block] = follow(shop.client, "/both", limit=1, headers=FOREIGN)
    assert block.event == "refresh"


# What is published while it is asked


def test_what_is_published_meanwhile_comes_behind_it(shop: Shop) -> None:
    shop.before = lambda: shop.live.publish("orders", append("#orders", shop.row("milk")))
    _, snap = shop.comes_back()
    assert [patch.action for patch in snap.patches] == ["html", "text", "append"]


def test_it_is_asked_again_where_more_is_published_meanwhile_than_is_remembered(
    make: Callable[..., Shop],
) -> None:
    shop = make(history=2)

    def busy() -> None:
        if shop.asked == 1:
            for _ in range(5):
                shop.order(f"thing-{len(shop.orders)}")

    shop.before = busy
    _, snap = shop.comes_back()
    assert (snap.event, shop.asked) == ("snapshot", 2)
    assert snap.patches == [*p.patches(*shop.present())]


def test_where_that_never_ends_pages_fetch_themselves(
    make: Callable[..., Shop], caplog: pytest.LogCaptureFixture
) -> None:
    shop = make(history=1)
    shop.before = lambda: [shop.live.publish("orders", {"#n": n}) for n in range(2)]
    [block] = follow(shop.client, "/", limit=1, headers=FOREIGN)
    assert block.event == "refresh"
    assert "takes so long that more is published meanwhile than is remembered" in caplog.text


def test_a_base_is_none_where_something_behind_it_is_forgotten() -> None:
    log = Log("e", history=1)
    for n in range(3):
        log.append("a", (text("#n", n),))
    assert not log.restore("a", 1, [text("#m", 1)])
    assert not log.restore("a", 4, [text("#m", 1)])  # nor is it one of the future
    assert not log.present("a").complete
    assert log.restore("a", 2, [text("#m", 1), text("#n", "old")])
    assert log.channels["a"].state.whole() == [text("#m", 1), text("#n", 2)]
    assert log.restore("a", 0, [text("#m", "later")])  # nothing: it is complete
    assert log.channels["a"].state.whole() == [text("#m", 1), text("#n", 2)]


# Where it runs


@pytest.mark.parametrize("asked_by", ["view", "page that comes back"])
def test_it_has_an_app_context_of_its_own_and_no_request(shop: Shop, asked_by: str) -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.append((current_app.name, has_request_context(), "mark" in g))
        g.mark = True

    shop.before = look
    ended: list[bool] = []
    shop.app.teardown_appcontext(lambda error: ended.append("mark" in g))
    if asked_by == "view":
        with shop.app.test_request_context(environ_base=shop.client.get("/").request.environ):
            shop.live.state("orders")
    else:
        shop.comes_back()
    assert seen == [("shop", False, False)]
    assert True in ended


def test_it_is_asked_by_one_at_a_time_and_who_waits_has_its_answer() -> None:
    hub = Hub(Settings())
    begun, go_on = threading.Event(), threading.Event()
    calls: list[str] = []

    def present() -> Any:
        calls.append("")
        begun.set()
        assert go_on.wait(20)
        return {"#a": 1}

    source = SnapshotSource("a", present)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(source.give, hub, nullcontext, None)
        assert begun.wait(20)
        second = pool.submit(source.give, hub, nullcontext, None)
        go_on.set()
        first.result()
        second.result()
    assert len(calls) == 1
    assert hub.log.present("a").complete
    hub.release()


def test_it_cannot_ask_for_what_it_is_to_say(shop: Shop) -> None:
    """Else it would wait for itself."""
    shop.before = lambda: shop.live.state("orders")
    with pytest.raises(LoopError, match="and so cannot ask for its state"):
        shop.live.state("orders")
    shop.before = lambda: shop.live.state("others")
    assert shop.live.state("orders")["#count"] == "1"


def test_a_hub_in_another_process_is_given_it_too(door: Door) -> None:
    client, other = door.client(), door.client()
    client.publish("a", (text("#n", 1),))
    assert client.lacks(["a", "b"], "gone.7", False) == ["a", "b"]
    assert client.lacks(["a"], f"{client.epoch}.0", False) == []
    assert not client.present("a").complete
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    SnapshotSource("a", lambda: [{"#m": "<"}, append("#l", "x", keep=3), "said"]).give(client, context, None)
    assert client.lacks(["a"], "gone.7", False) == []
    present = other.present("a")
    assert (present.run, present.complete) == (False, True)
    assert present.parts == door.hub.log.present("a").parts
    assert [patch.action for _, patch in present.parts] == ["text", "append", "message"]
    with pytest.raises(PatchError, match="the snapshot of 'b' is more than"):
        client.restore("b", 0, (text("#m", "x" * 300_000),))


# What is wrong


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (None, "has returned None"),
        ({"#count": [1]}, "#count"),
        (dispatch("ding"), "'dispatch' is an effect"),
        ({"#count": "x" * 300_000}, "the snapshot of 'orders' is more than 262144 bytes or 2000 patches"),
        (iter(()), "a patch, a dict of"),
    ],
)
def test_what_is_no_state_is_an_error_and_pages_fetch_themselves(
    shop: Shop, caplog: pytest.LogCaptureFixture, made: Any, why: str
) -> None:
    shop.present = lambda: made  # type: ignore[method-assign]
    told: list[tuple[str, BaseException]] = []
    shop.live.on_error(lambda name, error: told.append((name, error)))
    [block] = follow(shop.client, "/", limit=1, headers=FOREIGN)
    assert block.event == "refresh"
    [(name, error)] = told
    assert (name, type(error)) == ("orders", PatchError)
    assert why in str(error)
    [record] = [r for r in caplog.records if "the snapshot of 'orders' failed" in r.getMessage()]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


def test_a_crowd_does_not_wait_for_the_same_failure_one_by_one(
    shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(snapshot.time, "monotonic", lambda: now)
    shop.before = lambda: 1 / 0
    assert [follow(shop.client, "/", limit=1, headers=FOREIGN)[0].event for _ in range(5)] == ["refresh"] * 5
    assert shop.asked == 1
    now += snapshot._AGAIN
    shop.before = lambda: None
    assert shop.comes_back()[-1].event == "snapshot"
    assert len([r for r in caplog.records if "failed" in r.getMessage()]) == 1


def test_nor_does_who_has_come_while_it_was_asked() -> None:
    hub = Hub(Settings())
    begun, go_on = threading.Event(), threading.Event()
    calls: list[str] = []

    def present() -> Any:
        calls.append("")
        begun.set()
        assert go_on.wait(20)
        raise ZeroDivisionError

    class Lock:
        """Says that a second one is about to wait."""

        def __init__(self) -> None:
            self.real, self.comes = threading.Lock(), 0

        def __enter__(self) -> None:
            self.comes += 1
            if self.comes > 1:
                go_on.set()
            self.real.acquire()

        def __exit__(self, *error: object) -> None:
            self.real.release()

    source = SnapshotSource("a", present)
    source._lock = Lock()  # type: ignore[assignment]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(source.give, hub, nullcontext, None, anyway=False)
        assert begun.wait(20)
        pool.submit(source.give, hub, nullcontext, None, anyway=False).result()
        with pytest.raises(ZeroDivisionError):
            first.result()
    assert len(calls) == 1
    with pytest.raises(ZeroDivisionError):
        source.give(hub, nullcontext, None)  # a view is told
    hub.release()


def test_what_a_loop_writes_has_none() -> None:
    live = Live(Flask("shop"))

    @live.loop
    def clock() -> Iterator[Any]:
        yield {"#now": 1}

    with pytest.raises(LoopError, match="the loop 'clock' writes that channel"):
        live.snapshot("clock")

    @live.snapshot("orders")
    def present() -> Any:
        return {}

    with pytest.raises(LoopError, match=r"'orders' has a @live\.snapshot: .* name the loop otherwise"):
        live.loop(name="orders")(clock.function)
    with pytest.raises(LoopError, match=r"'orders' has a @live\.snapshot already"):
        live.snapshot("orders")
    assert present() == {}


def _generator() -> Iterator[Any]:
    yield {}


async def _coroutine() -> Any:
    return {}


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (_generator, "needs a function that returns patches"),
        (_coroutine, "needs a function that returns patches"),
        (lambda order: {}, "is asked for without arguments, and needs order"),
        ({"#a": 1}, "needs a function, not {'#a': 1}"),
        (dict, "needs a function, not <class 'dict'>"),
    ],
)
def test_what_is_no_source_is_refused_where_it_is_written(function: Any, why: str) -> None:
    with pytest.raises(LoopError) as caught:
        Live(Flask("shop")).snapshot("orders")(function)
    assert why in str(caught.value)


@pytest.mark.parametrize("name", ["", "~", "x" * 201, 7, None])
def test_a_channel_has_a_name(name: Any) -> None:
    with pytest.raises(LoopError, match="a channel's name is"):
        Live(Flask("shop")).snapshot(name)
