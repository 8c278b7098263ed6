"""Jobs: how they start, are followed, end and are remembered, in one process; with real threads."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, current_app, g, has_request_context
from jinja2 import DictLoader
from werkzeug.exceptions import NotFound

from afterload import JobError, LoopError, PatchError, append, attr, jobs, text, value
from afterload.flask import Live
from afterload.hub.held import Held
from afterload.hub.leases import GONE, STOPPED
from afterload.jobs import Job
from afterload.live import Live as Core
from afterload.runs import FAILED, Stopped
from afterload.testing import Block, follow

PATIENCE = 20.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


@pytest.fixture
def make() -> Iterator[Callable[..., Core]]:
    made: list[Core] = []

    def build(**settings: Any) -> Core:
        made.append(Core(Core().settings.updated(settings)))
        return made[-1]

    yield build
    for live in made:
        live.close()


@pytest.fixture
def live(make: Callable[..., Core]) -> Core:
    return make()


@pytest.fixture
def site() -> Iterator[SimpleNamespace]:
    """A Flask app with a page of each job, and of a job and a channel."""
    app = Flask(__name__)
    app.testing = True
    app.jinja_loader = DictLoader({"job.html": "<p id=n></p>{{ live_client() }}"})  # type: ignore[assignment]
    live = Live(app, short_retry=500)

    @app.get("/jobs/<id>")
    def page(id: str) -> Any:
        return live.page("job.html", live.job(id))

    @app.get("/both/<id>")
    def both(id: str) -> Any:
        return live.page("job.html", live.job(id), "news")

    @app.get("/two/<one>/<other>")
    def two(one: str, other: str) -> Any:
        return live.page("job.html", live.job(one), live.job(other))

    @app.get("/document/<id>")
    def document(id: str) -> Any:
        app.jinja_env.globals["updates"] = live.updates
        return live.document(app.jinja_env.from_string("<p id=n></p>{{ updates() }}"), live.job(id))

    @app.get("/status/<id>")
    def status(id: str) -> str:
        return live.job(id).status

    yield SimpleNamespace(app=app, live=live, client=app.test_client())
    live.close()


def state(live: Core, job: Job) -> list[Any]:
    """What a page that opens now is brought to."""
    with live.hub._lock:
        return live.hub.log.channels[job.channel].state.whole()


def yielding(things: Any) -> Iterator[Any]:
    yield from things


async def yielding_async(things: Any) -> AsyncIterator[Any]:
    for thing in things:
        yield thing


# What is a job


def publishing(live: Core) -> dict[str, Callable[..., Any]]:
    def publish(n: int) -> None:
        live.job().publish({"#n": n})

    async def publish_async(n: int) -> None:
        await asyncio.sleep(0)
        live.job().publish({"#n": n})

    def generate(n: int) -> Iterator[Any]:
        yield {"#n": n}

    async def generate_async(n: int) -> AsyncIterator[Any]:
        yield {"#n": n}

    class Called:
        def __call__(self, n: int) -> None:
            publish(n)

    return {
        "function": publish,
        "coroutine": publish_async,
        "generator": generate,
        "async generator": generate_async,
        "partial": functools.partial(generate, n=7),
        "lambda": lambda n: generate(n),
        "object": Called(),
        "shared loop": live.loop(named_loop),
    }


def named_loop() -> Iterator[Any]:
    yield {"#n": 7}


@pytest.mark.parametrize(
    "kind",
    ["function", "coroutine", "generator", "async generator", "partial", "lambda", "object", "shared loop"],
)
def test_anything_that_can_be_called_is_run_to_its_end_without_a_viewer(make, kind):
    live = make(linger=0)
    args = () if kind in ("partial", "shared loop") else (7,)
    job = live.start(publishing(live)[kind], *args)
    assert job.wait(PATIENCE) == "done"
    assert (job.status, job.message) == ("done", "")
    assert state(live, job) == [text("#n", "7")]
    until(lambda: live.loops.running == 0)


def test_keyword_arguments_are_the_functions_whatever_they_are_called(live):
    def of(function, name, *, id):
        live.job().publish({"#n": f"{function} {name} {id}"})

    job = live.start(of, "a", name="b", id="c")
    assert job.wait(PATIENCE) == "done"
    assert state(live, job) == [text("#n", "a b c")]


async def a_coroutine() -> None:
    """Does nothing."""


@pytest.mark.parametrize(
    ("function", "args", "said"),
    [
        (yielding([1]), (), r"live\.start\(f, x\), and not <generator"),
        (None, (), "takes a function and its arguments"),
        ("orders", (), "and not 'orders'"),
        (yielding, (), r"yielding cannot be started so: missing a required argument: 'things'"),
        (yielding, (1, 2), r"yielding cannot be started so: too many positional arguments"),
        (a_coroutine, (1,), "a_coroutine cannot be started so"),
    ],
)
def test_what_cannot_be_started_is_an_error_that_says_why(live, function, args, said):
    with pytest.raises(LoopError, match=said):
        live.start(function, *args)
    assert live.loops.running == 0


def test_a_coroutine_that_was_called_is_refused_and_closed(live):
    with pytest.raises(LoopError, match="a function and its arguments"):
        live.start(a_coroutine())  # pytest makes an error of one that is never awaited


def test_a_function_that_returns_something_async_fails_and_says_what_to_start(live, caplog):
    assert live.start(lambda: a_coroutine()).wait(PATIENCE) == "failed"
    assert live.start(lambda: yielding_async([])).wait(PATIENCE) == "failed"
    for kind in ("coroutine", "async_generator"):
        until(
            lambda kind=kind: re.search(
                rf"returns <{kind} object .*: start the async function itself", caplog.text
            )
        )


def test_its_id_is_new_each_time_and_fits_in_a_url(live):
    found = {live.start(yielding, []).id for _ in range(50)}
    assert len(found) == 50
    assert all(re.fullmatch("[A-Za-z0-9_-]{22}", each) for each in found)


def test_at_most_max_loops_run_and_then_it_is_refused_until_there_is_room(make):
    live = make(max_loops=2)
    go = threading.Event()
    started = [live.start(go.wait, PATIENCE) for _ in range(2)]
    with pytest.raises(LoopError, match="2 loops are running, and max_loops is no more"):
        live.start(yielding, [])
    go.set()
    for job in started:
        assert job.wait(PATIENCE) == "done"
    until(lambda: live.loops.running == 0)
    assert live.start(yielding, []).wait(PATIENCE) == "done"


def test_where_the_system_gives_no_thread_it_is_refused_and_nothing_is_left(live, monkeypatch):
    live.hub.poller.call(lambda: None)  # whose thread is there then
    until(lambda: live._thread._thread is not None)

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(LoopError, match="no thread for a loop"):
            live.start(yielding, [])
    assert live.loops.running == 0
    assert live.start(yielding, []).wait(PATIENCE) == "done"


# How it ends


def test_one_that_raises_has_failed_and_everybody_is_told(live, caplog):
    told = []
    live.on_error(lambda name, error: told.append((name, repr(error))))

    def broken():
        yield {"#n": 1}
        raise OSError("secret")

    job = live.start(broken)
    assert job.wait(PATIENCE) == "failed"
    assert job.message == FAILED
    name = f"{test_one_that_raises_has_failed_and_everybody_is_told.__name__}.<locals>.broken"
    assert told == [(name, "OSError('secret')")]
    assert f"the loop {name!r} failed" in caplog.text
    assert state(live, job) == [text("#n", "1")]


@pytest.mark.parametrize("kind", ["generator", "coroutine"])
def test_who_waits_for_one_that_fails_waits_for_the_handlers_too(live, kind):
    may_go_on = threading.Event()
    told = []

    @live.on_error
    def slow(name, error):
        may_go_on.wait(PATIENCE)
        told.append(name)

    def broken():
        yield {"#n": 1}
        raise OSError("secret")

    async def broken_async():
        raise OSError("secret")

    job = live.start(broken if kind == "generator" else broken_async)
    until(lambda: job.status == "failed")  # its pages do not wait
    assert job.wait(0.05) == "failed"
    assert told == []
    may_go_on.set()
    assert job.wait(PATIENCE) == "failed"
    assert len(told) == 1


def test_a_handler_that_takes_its_time_holds_up_no_async_loop(live):
    may_go_on, begun, ran = threading.Event(), threading.Event(), []

    @live.on_error
    def slow(name, error):
        begun.set()
        ran.append(may_go_on.wait(PATIENCE))
        live.sleep(0.01)

    async def broken():
        raise OSError("secret")

    async def other():
        yield {"#n": 1}

    job = live.start(broken)
    assert begun.wait(PATIENCE)
    assert live.start(other).wait(PATIENCE) == "done"
    assert ran == []
    may_go_on.set()
    assert job.wait(PATIENCE) == "failed"
    assert ran == [True]


def test_where_there_is_no_thread_for_the_handlers_they_are_told_all_the_same(live, monkeypatch):
    told, begun = [], threading.Event()
    live.on_error(lambda name, error: told.append(str(error)))

    async def broken():
        while not begun.is_set():
            await asyncio.sleep(0.001)
        raise OSError("secret")

    start = threading.Thread.start

    def refuse(self):
        if self.name.startswith("afterload-loop"):
            raise RuntimeError("can't start new thread")
        start(self)

    job = live.start(broken)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        begun.set()
        assert job.wait(PATIENCE) == "failed"
    assert told == ["secret"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("what", ["the log", "the end"])
def test_whatever_fails_at_the_end_of_one_that_fails_the_rest_is_told(live, monkeypatch, what):
    told = []
    live.on_error(lambda name, error: told.append(str(error)))

    def fail(*args, **more):
        raise ArithmeticError("of a filter's")

    if what == "the log":
        monkeypatch.setattr(logging.getLogger("afterload.loops"), "error", fail)
    else:
        monkeypatch.setattr(Held, "_finish", fail)

    def broken():
        raise OSError("secret")

    job = live.start(broken)
    until(lambda: live.loops.running == 0)
    assert told == ["secret"]
    if what == "the log":
        assert job.wait(PATIENCE) == "failed"


def test_a_time_that_is_no_number_is_not_waited_for(live):
    job = live.start(yielding, [])
    with pytest.raises(LoopError, match="a number of seconds, and not nan"):
        job.wait(float("nan"))


def test_a_handler_may_sleep_and_what_it_does_to_a_job_that_has_ended_is_its_own_error(live, caplog):
    other = live.start(lambda: live.sleep(PATIENCE * 10))
    other.cancel()
    assert other.wait(PATIENCE) == "cancelled"
    jobs, told = [], []
    on_error = live.on_error
    on_error(lambda name, error: live.sleep(0.01) or told.append("slept"))
    on_error(lambda name, error: jobs[0].publish({"#n": 2}))
    on_error(lambda name, error: stopped())
    on_error(lambda name, error: jobs[0].wait())
    on_error(lambda name, error: told.append("last"))

    def stopped():
        raise Stopped

    def broken():
        until(lambda: jobs)
        raise OSError("secret")

    jobs.append(live.start(broken))
    assert jobs[0].wait(PATIENCE) == "failed"
    assert told == ["slept", "last"]
    assert "has ended: failed" in caplog.text
    assert "cannot wait for its own end" in caplog.text
    until(lambda: live.loops.running == 0)


def in_a_generator(live: Core, log: list[str]) -> Any:
    def loop() -> Iterator[Any]:
        try:
            for n in itertools.count():
                yield {"#n": n}
        except GeneratorExit:
            log.append("told")
            raise

    return loop


def in_a_sleep(live: Core, log: list[str]) -> Any:
    def loop() -> None:
        live.job().publish({"#n": 0})
        try:
            live.sleep(PATIENCE * 10)
        except Exception:
            log.append("an Exception")
        finally:
            log.append("told")

    return loop


def in_a_publish(live: Core, log: list[str]) -> Any:
    def loop() -> None:
        try:
            for n in itertools.count():
                live.job().publish({"#n": n})
        except Stopped:
            log.append("told")
            raise

    return loop


def in_a_track(live: Core, log: list[str]) -> Any:
    def loop() -> None:
        try:
            for _ in live.job().track(itertools.count(), "#bar"):
                time.sleep(0.001)
        finally:
            log.append("told")

    return loop


def in_a_coroutine(live: Core, log: list[str]) -> Any:
    async def loop() -> None:
        live.job().publish({"#n": 0})
        try:
            await asyncio.sleep(PATIENCE * 10)
        finally:
            log.append("told")

    return loop


def in_an_async_generator(live: Core, log: list[str]) -> Any:
    async def loop() -> AsyncIterator[Any]:
        try:
            for n in itertools.count():
                yield {"#n": n}
                await asyncio.sleep(0)
        finally:
            log.append("told")

    return loop


def in_an_async_track(live: Core, log: list[str]) -> Any:
    async def items() -> AsyncIterator[int]:
        for n in itertools.count():
            await asyncio.sleep(0)
            yield n

    async def loop() -> None:
        try:
            async for _ in live.job().track(items(), "#bar"):
                pass
        finally:
            log.append("told")

    return loop


def in_a_computation(live: Core, log: list[str]) -> Any:
    def loop() -> None:
        job = live.job()
        job.publish({"#n": 0})
        while not job.cancelled:
            sum(range(1000))
        log.append("told")

    return loop


@pytest.mark.parametrize(
    "make_loop",
    [
        in_a_generator,
        in_a_sleep,
        in_a_publish,
        in_a_track,
        in_a_coroutine,
        in_an_async_generator,
        in_an_async_track,
        in_a_computation,
    ],
)
def test_one_that_is_cancelled_ends_where_it_is_cleans_up_and_says_so(live, make_loop):
    log: list[str] = []
    job = live.start(make_loop(live, log))
    until(lambda: state(live, job))
    assert (job.status, job.cancelled) == ("open", False)
    assert live.job(job.id).cancel() is True
    assert job.wait(PATIENCE) == "cancelled"
    assert (job.message, job.cancelled) == ("", True)
    until(lambda: live.loops.running == 0)
    assert log == ["told"]
    assert job.cancel() is False


def test_it_is_open_until_it_has_ended_and_shows_nothing_any_more(live):
    go, told = threading.Event(), threading.Event()

    def slow():
        yield {"#n": "before"}
        told.set()
        go.wait(PATIENCE)  # neither yields nor waits by live.sleep
        yield {"#n": "after"}

    job = live.start(slow)
    assert told.wait(PATIENCE)
    job.cancel()
    assert job.status == "open"
    go.set()
    assert job.wait(PATIENCE) == "cancelled"
    assert state(live, job) == [text("#n", "before")]


def test_one_whose_clean_up_raises_has_failed(live, caplog):
    begun = threading.Event()

    def loop():
        try:
            begun.set()
            live.sleep(PATIENCE * 10)
        finally:
            raise OSError("no undo")

    job = live.start(loop)
    assert begun.wait(PATIENCE)
    job.cancel()
    assert job.wait(PATIENCE) == "failed"
    until(lambda: "no undo" in caplog.text)


def test_it_is_forgotten_after_loop_retention(make):
    live = make(loop_retention=0.05)
    job = live.start(yielding, [{"#n": 1}])
    job.wait(PATIENCE)

    until(lambda: job.channel not in live.hub.log.channels and live.loops.find_job(job.channel) is None)
    with pytest.raises(JobError) as caught:
        live.job(job.id)
    assert (
        str(caught.value) == f"there is no job '{job.id}', or it is not remembered any more (loop_retention)"
    )
    assert job.status == "done"  # who has it knows


def test_one_that_runs_is_not_forgotten_among_many_channels(make):
    live = make(max_channels=3)
    job = live.start(live.sleep, PATIENCE * 10)
    for n in range(20):
        live.publish(f"news-{n}", {"#n": n})
    assert job.channel in live.hub.log.channels
    assert live.job(job.id).status == "open"


def test_at_the_end_of_the_process_it_is_lost_and_told_to_end(site):
    ended = threading.Event()

    def loop():
        try:
            yield {"#n": 1}
            site.live.sleep(PATIENCE * 10)
        finally:
            ended.set()

    job = site.live.start(loop)
    blocks: list[list[Block]] = []
    page = threading.Thread(target=lambda: blocks.append(follow(site.client, f"/jobs/{job.id}")))
    page.start()
    until(lambda: site.live.viewers(job.channel) == 1)
    site.live.close()
    page.join(PATIENCE)
    assert blocks[0][-1] == Block(
        "end", channel=job.channel, status="lost", message=STOPPED, id=blocks[0][-1].id
    )
    assert (job.status, job.message) == ("lost", STOPPED)
    assert ended.wait(PATIENCE)


def test_a_process_that_ends_starts_none(live):
    live.loops.lose_jobs()
    with pytest.raises(LoopError, match="this process is about to end, and its jobs would be lost"):
        live.start(yielding, [])


# In its function


def test_inside_it_is_the_job_and_elsewhere_that_is_an_error(live):
    seen: list[Any] = []

    def in_another():
        with pytest.raises(LoopError):
            live.job()
        seen.append("an error")

    def loop():
        seen.append(live.job())
        thread = threading.Thread(target=in_another)
        thread.start()
        thread.join()
        yield None

    job = live.start(loop)
    job.wait(PATIENCE)
    assert seen[0].id == job.id
    assert seen[1:] == ["an error"]
    assert repr(seen[0]) == f"<job {job.id!r}>"
    with pytest.raises(LoopError, match=r"live\.job\(\) without an id is for the function of a job"):
        live.job()


def test_a_loop_that_is_no_job_has_none(site):
    def loop():
        with pytest.raises(LoopError, match="for the function of a job"):
            site.live.job()
        yield {"#n": "none"}

    @site.app.get("/private")
    def private():
        return site.live.page("job.html", loop())

    assert follow(site.client, "/private")[-1].status == "done"


def test_each_step_has_an_app_context_of_its_own_and_no_request(site):
    seen: list[Any] = []

    def loop():
        for n in range(2):
            seen.append((current_app.name, has_request_context(), g.get("n")))
            g.n = n
            yield {"#n": n}

    with site.app.test_request_context("/"):
        job = site.live.start(loop)
    assert job.wait(PATIENCE) == "done"
    assert seen == [(site.app.name, False, None)] * 2


def test_other_threads_of_its_process_may_publish_until_it_has_ended(live):
    def loop():
        job = live.job()
        thread = threading.Thread(target=lambda: job.publish({"#n": "other"}))
        thread.start()
        thread.join()

    job = live.start(loop)
    assert job.wait(PATIENCE) == "done"
    assert state(live, job) == [text("#n", "other")]
    until(lambda: live.loops.running == 0)
    with pytest.raises(LoopError, match="has ended: done"):
        job.publish({"#n": "late"})
    with pytest.raises(LoopError, match="runs in another process, or no more"):
        Job(job.id, live).publish({"#n": "elsewhere"})


def test_what_cannot_be_published_is_an_error_in_its_line(live):
    def loop():
        with pytest.raises(PatchError, match="there is nothing to publish to <job"):
            live.job().publish()
        with pytest.raises(PatchError, match="'#n'"):
            live.job().publish({"#n": [1]})

    assert live.start(loop).wait(PATIENCE) == "done"


def test_only_it_publishes_to_its_channel(live):
    job = live.start(yielding, [{"#n": 1}])
    job.wait(PATIENCE)
    with pytest.raises(
        PatchError, match=f"'{job.channel}' is the channel of a job, which alone publishes to it"
    ):
        live.publish(job.channel, {"#n": 2})
    assert state(live, job) == [text("#n", "1")]
    assert live.job(job.id).status == live.hub.log.channels[job.channel].status == "done"


def test_waiting_for_one_ends_when_the_time_is_up(live):
    job = live.start(live.sleep, PATIENCE * 10)
    assert job.wait(0.01) == "open"
    assert Job(job.id, live).wait(0.01) == "open"  # as in another process
    job.cancel()
    assert Job(job.id, live).wait(PATIENCE) == "cancelled"
    assert Job(job.id, live).cancelled


# Its pages


def test_a_page_follows_it_and_a_late_one_has_its_last_state_and_its_end(site):
    go = threading.Event()

    def loop():
        yield [{"#n": 1}, append("#log", "a")]
        go.wait(PATIENCE)
        yield [{"#n": 2}, append("#log", "b")]

    job = site.live.start(loop)
    assert follow(site.client, f"/jobs/{job.id}", limit=1)[0].patches == [
        text("#n", "1"),
        append("#log", "a"),
    ]
    go.set()
    job.wait(PATIENCE)
    assert site.client.get(f"/status/{job.id}").text == "done"
    for _ in range(2):
        snapshot, end = follow(site.client, f"/jobs/{job.id}")
        assert snapshot.event == "snapshot"
        assert snapshot.patches == [append("#log", "a"), text("#n", "2"), append("#log", "b")]
        assert (end.channel, end.status, end.message) == (job.channel, "done", "")
    assert follow(site.client, f"/jobs/{job.id}", headers={"Last-Event-ID": end.id}) == []


def test_a_page_may_follow_a_job_and_channels(site):
    job = site.live.start(yielding, [{"#n": 1}])
    job.wait(PATIENCE)
    site.live.publish("news", {"#news": "new"})
    snapshot, end = follow(site.client, f"/both/{job.id}", limit=2)
    assert (end.channel, end.status) == (job.channel, "done")
    assert snapshot.patches == [text("#n", "1"), text("#news", "new")]


def test_its_pages_are_counted_and_its_state_is_shown_by_the_job_itself(site):
    def loop():
        yield {"#n": "<7>"}
        site.live.sleep(PATIENCE * 10)

    job = site.live.start(loop)
    until(lambda: site.live.state(job).get("#n", "") == "<7>")
    ends: list[str] = []
    page = threading.Thread(
        target=lambda: ends.extend(block.event for block in follow(site.client, f"/jobs/{job.id}"))
    )
    page.start()
    until(lambda: site.live.viewers(job) == 1)
    site.live.revoke(job)
    page.join(PATIENCE)
    assert ends == ["snapshot", "bye"]
    assert site.live.viewers(job) == 0
    with pytest.raises(LoopError, match="a page follows a generator"):
        site.live.viewers(7)


def test_a_document_follows_one_to_its_end(site):
    job = site.live.start(yielding, [{"#n": "<all>"}])
    html = site.client.get(f"/document/{job.id}").text
    end = f'["end",{{"channel":"{job.channel}","status":"done","message":""}}]'
    assert [part in html for part in (r'["text","#n","\u003call\u003e"]', end, '["complete",{}]')] == [
        True
    ] * 3
    assert "http-equiv" not in html  # what has no end asks for itself again, where no script runs


@pytest.mark.parametrize("path", ["/jobs/none", "/status/none", "/both/none", "/document/none"])
def test_a_view_of_one_that_there_is_not_is_404(site, path):
    assert site.client.get(path).status_code == 404
    # a stream that has had nothing is another page's, or somebody's who tries
    assert site.client.get(path, headers={"Accept": "text/event-stream"}).status_code == 404


def test_the_error_may_be_caught_in_a_view_as_elsewhere(site):
    with site.app.test_request_context("/"), pytest.raises(JobError) as caught:
        site.live.job("none\n")
    assert isinstance(caught.value, NotFound)
    assert isinstance(caught.value, LookupError)
    assert caught.value.id == "none\n"
    assert str(caught.value).startswith(r"there is no job 'none\n', or")
    with pytest.raises(JobError, match=r"'xxx.{57}'\.\.\., or") as long:
        site.live.job("x" * 1000)
    assert not isinstance(long.value, NotFound)


@pytest.mark.parametrize("path", ["/jobs/none", "/both/none"])
@pytest.mark.parametrize("position", ["gone.7", "nonsense", "gone.7~"])
def test_a_page_that_is_open_and_whose_job_is_gone_is_told_that_it_is_lost_and_asks_no_more(
    site, path, position
):
    (end,) = follow(site.client, path, headers={"Last-Event-ID": position})
    assert (end.event, end.channel, end.status, end.message) == ("end", "job-none", "lost", GONE)
    assert follow(site.client, path, headers={"Last-Event-ID": end.id}) == []


def test_it_cannot_wait_for_itself(live):
    caught = []

    def wait():
        with pytest.raises(LoopError, match="cannot wait for its own end") as error:
            live.job().wait(PATIENCE)
        caught.append(error.value)

    assert live.start(wait).wait(PATIENCE) == "done"
    assert len(caught) == 1


def test_of_several_jobs_it_is_the_lost_one_that_is_said_to_be(site):
    job = site.live.start(site.live.sleep, PATIENCE * 10)
    (end,) = follow(site.client, f"/two/{job.id}/none", headers={"Last-Event-ID": "gone.7"})
    assert (end.channel, end.status) == ("job-none", "lost")
    job.cancel()


def test_a_page_that_is_open_is_told_to_come_again_where_its_job_may_yet_come(site, monkeypatch):
    monkeypatch.setattr(type(site.live.hub), "is_young", property(lambda hub: True))
    (bye,) = follow(site.client, "/jobs/none", headers={"Last-Event-ID": "gone.7"})
    assert (bye.event, bye.id) == ("bye", "gone.7")
    monkeypatch.undo()
    (end,) = follow(site.client, "/jobs/none", headers={"Last-Event-ID": "gone.7"})
    assert end.status == "lost"


def test_a_page_that_polls_is_told_so_too(site):
    headers = {"Accept": "application/json", "Last-Event-ID": "gone.7", "Al-Wait": "0"}
    hello, end = site.client.get("/jobs/none", headers=headers).json
    assert (hello[0], hello[2]["channels"]) == ("hello", ["job-none"])
    assert end[2] == {"channel": "job-none", "status": "lost", "message": GONE}


def test_a_request_for_its_page_waits_where_its_job_may_yet_come(site, monkeypatch):
    looks: list[int] = []
    monkeypatch.setattr(
        type(site.live.hub), "is_young", property(lambda hub: looks.append(1) or len(looks) < 3)
    )
    assert site.client.get("/jobs/none").status_code == 404
    assert len(looks) == 3


def test_another_apps_loops_and_channels_are_none(site):
    site.live.loop(named_loop)
    site.live.publish("job-mine", {"#n": 1})
    for name in ("named_loop", "mine", "", "../x", "é", "\ud800"):
        with pytest.raises(JobError):
            site.live.job(name)


# How far it is


class Time:
    """A clock of which each look takes as long as the test says."""

    def __init__(self, each: float) -> None:
        self.now = 1000.0
        self.each = each

    def monotonic(self) -> float:
        self.now += self.each
        return self.now


@pytest.fixture
def tracked(live: Core, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Runs a job of one function, and gives back all that it has published."""

    def run(function: Callable[..., Any], each: float = 0.001, status: str = "done") -> list[Any]:
        monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=Time(each).monotonic, sleep=time.sleep))
        published: list[Any] = []
        real = jobs.Job.publish
        monkeypatch.setattr(
            jobs.Job, "publish", lambda job, *things: (published.append(things), real(job, *things))[1]
        )
        job = live.start(function)
        assert job.wait(PATIENCE) == status
        return [list(things[0]) for things in published]

    return run


def bar(done: int, total: int, words: str, target: str = "#bar") -> list[Any]:
    return [attr(target, "max", total), value(target, done), text(f"{target}-text", words)]


def test_a_bar_and_words_follow_what_is_done_and_the_last_is_always_told(live, tracked):
    seen = []

    def loop():
        for item in live.job().track("abc", "#bar"):
            seen.append(item)
            yield {"#item": item}

    told = tracked(loop, each=1.0)
    assert seen == ["a", "b", "c"]
    assert told[0] == bar(0, 3, "0 of 3")
    assert [patches[1].content for patches in told] == ["0", "1", "2", "3", "3"]
    assert told[-1][2].content.startswith("3 of 3 · ")


def test_it_is_told_at_most_ten_times_a_second(live, tracked):
    def loop():
        for _ in live.job().track(range(1000), "#bar"):
            pass

    told = tracked(loop, each=0.001)  # one look for each: a second in all
    assert 8 <= len(told) <= 13
    assert told[-1][:2] == bar(1000, 1000, "")[:2]


def test_of_what_is_endless_the_count_is_told_and_a_total_may_be_given(live, tracked):
    def loop():
        for _ in live.job().track((n for n in range(3)), "#bar"):
            pass
        for _ in live.job().track((n for n in range(3)), "#next", total=3):
            pass

    told = tracked(loop, each=1.0)
    assert told[0] == [attr("#bar", "max", 1), attr("#bar", "value", None), text("#bar-text", "0")]
    assert told[4][:2] == [attr("#bar", "max", 1), value("#bar", 1)]
    assert told[5] == bar(0, 3, "0 of 3", "#next")
    assert told[-1][:2] == bar(3, 3, "", "#next")[:2]


def test_nothing_to_do_is_all_done(live, tracked):
    def loop():
        for _ in live.job().track([], "#bar"):
            raise AssertionError

    assert [patches[:2] for patches in tracked(loop)] == [bar(1, 1, "")[:2]] * 2


def test_one_within_another_and_words_of_ones_own(live, tracked):
    def loop():
        job = live.job()
        for _ in job.track(range(2), "#files", words=""):
            for _ in job.track(range(2), "#rows", words="#said", say=lambda p: f"{p.done} Zeilen"):
                pass

    told = tracked(loop, each=1.0)
    assert told[0] == [attr("#files", "max", 2), value("#files", 0)]
    assert told[1] == [attr("#rows", "max", 2), value("#rows", 0), text("#said", "0 Zeilen")]
    assert {patches[0].target for patches in told} == {"#files", "#rows"}
    assert told[-1] == [attr("#files", "max", 2), value("#files", 2)]


def test_one_that_is_left_shows_how_far_it_got(live, tracked):
    def loop():
        for n in live.job().track(range(100), "#bar"):
            if n == 3:
                break

    assert tracked(loop)[-1][1] == value("#bar", 3)


def test_one_whose_job_fails_raises_nothing_else(live, tracked, caplog):
    def loop():
        for n in live.job().track(range(100), "#bar"):
            yield {"#n": n}
            raise OSError("broken")

    tracked(loop, status="failed")
    until(lambda: "broken" in caplog.text)


def test_an_async_iterable_is_tracked_by_async_for_and_only_so(live, tracked):
    async def loop():
        job = live.job()
        async for _ in job.track(yielding_async("abc"), "#bar", total=3):
            pass
        for _ in job.track(range(2), "#next"):
            pass
        with pytest.raises(LoopError, match="by `async for` only"):
            for _ in job.track(yielding_async("abc"), "#bar"):
                pass
        with pytest.raises(LoopError, match="cannot be iterated by `async for`"):
            async for _ in job.track("abc", "#bar"):
                pass

    told = tracked(loop, each=1.0)
    assert [patches[1].content for patches in told][:10] == [
        "0",
        "1",
        "2",
        "3",
        "3",
        "0",
        "1",
        "2",
        "2",
        None,
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"target": "bar"}, PatchError, "a target is '#' and an element's id"),
        ({"target": "#bar", "total": -1}, LoopError, "total is a whole number from 0"),
        ({"target": "#bar", "words": "text"}, PatchError, "a target is '#' and an element's id"),
        ({"target": "#bar", "say": lambda progress: [1]}, PatchError, "'#bar-text'"),
    ],
)
def test_what_cannot_be_tracked_is_an_error_at_once(live, arguments, error, said):
    def loop():
        with pytest.raises(error, match=said):
            live.job().track(range(3), **arguments)

    assert live.start(loop).wait(PATIENCE) == "done"


def test_only_the_job_itself_tracks(live):
    job = live.start(yielding, [])
    job.wait(PATIENCE)
    until(lambda: live.loops.running == 0)
    with pytest.raises(LoopError, match="has ended"):
        job.track(range(3), "#bar")


def test_a_job_that_fails_is_logged_once(live, caplog):
    caplog.set_level(logging.INFO)

    def broken():
        raise OSError("once")

    live.start(broken).wait(PATIENCE)
    until(lambda: live.loops.running == 0)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
