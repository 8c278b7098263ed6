"""The channel of a job: in its hub, kept in its process as well, and brought to the next hub; waiting for none."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from afterload import JobError, append, append_text, text
from afterload.errors import HubError, PatchError
from afterload.hub.calls import Gone, Refusal
from afterload.hub.held import Held
from afterload.hub.leases import GONE, STOPPED
from afterload.jobs import Job
from afterload.live import Live
from afterload.patch import Patch, message
from afterload.settings import Settings
from tests.hub.door import Owner
from tests.servers.process import wait_until

PATIENCE = 20.0


class Outlet:
    """A hub that notes what it is told, or fails as a test says."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.knows = True
        self.numbers = itertools.count(1)

    def hold(self, runner: object, name: str, patches: tuple[Patch, ...], whole: bool) -> int:
        self._note("hold", patches, whole)
        return next(self.numbers)

    def publish_run(self, name: str, number: int, count: int, patches: tuple[Patch, ...]) -> int | None:
        self._note("publish", number, count, patches)
        return count if self.knows else None

    def finish(self, name: str, number: int, status: str, message: str) -> None:
        self._note("finish", number, status, message)

    def _note(self, *what: Any) -> None:
        if self.error is not None:
            raise self.error
        self.told.append(what)

    def forget(self) -> list[tuple[Any, ...]]:
        told, self.told = self.told, []
        return told


class World:
    def __init__(self, **settings: Any) -> None:
        self.drifted = 0
        self.held = Held("id", "import", Settings(**settings), self._drift)
        self.first, self.second = Outlet(), Outlet()
        self.held.hold(self, self.first)

    def _drift(self) -> None:
        self.drifted += 1


@pytest.fixture
def world() -> World:
    return World()


A, B, C = text("#a", "1"), append_text("#log", "b"), append_text("#log", "c")
GONE_NOW = Gone("it has ended")


def test_what_it_publishes_is_numbered_for_its_hub(world):
    world.held.publish((A,))
    world.held.publish((B, C))
    world.held.finish("done", "")
    assert world.first.told == [
        ("hold", (), True),
        ("publish", 1, 1, (A,)),
        ("publish", 1, 2, (B, C)),
        ("finish", 1, "done", ""),
    ]
    world.held.publish((A,))  # it is over
    world.held.finish("failed", "")
    assert len(world.first.told) == 4
    assert (world.held.status, world.drifted) == ("done", 0)


def test_without_a_hub_it_goes_on_and_the_next_one_is_brought_to_its_state(world, caplog):
    world.held.publish((A, B))
    world.first.error = GONE_NOW
    world.held.publish((C,))
    world.held.publish((message("said"),))
    assert world.drifted == 1
    assert "the job 'import' goes on without its hub" in caplog.text
    world.held.hold(world, world.second)
    world.held.publish((A,))
    merged = append_text("#log", "bc")
    assert world.second.told == [
        ("hold", (A, merged, message("said")), True),
        ("publish", 1, 4, (A,)),
    ]


@pytest.mark.parametrize("error", [HubError("it does not answer"), GONE_NOW])
def test_a_hub_that_was_silent_is_told_everything_anew(world, error):
    world.held.publish((A,))
    world.first.error = error
    world.held.publish((B,))
    assert not world.held.is_with(world.first)
    world.first.error = None
    world.first.forget()
    world.held.hold(world, world.first)
    assert world.held.is_with(world.first)
    world.held.publish((C,))
    assert world.first.told == [("hold", (A, B), True), ("publish", 2, 3, (C,))]


def test_a_hub_that_knows_nothing_of_its_lease_is_told_everything_anew(world):
    world.first.knows = False
    world.held.publish((A,))
    assert world.drifted == 1
    world.first.knows = True
    world.first.forget()
    world.held.hold(world, world.first)
    assert world.first.told == [("hold", (A,), True)]


class Slow(Outlet):
    """A hub that is silent when it is to hold something, until a test lets it answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answers = threading.Event(), threading.Event()

    def hold(self, runner: object, name: str, patches: tuple[Patch, ...], whole: bool) -> int:
        self.asked.set()
        assert self.answers.wait(PATIENCE)
        return super().hold(runner, name, patches, whole)


@pytest.mark.parametrize(
    ("meanwhile", "told"),
    [
        ([], []),
        ([(B,), (C,)], [("publish", 1, 3, (append_text("#log", "bc"),))]),
        ([(A, message("said"))], [("publish", 1, 2, (A, message("said")))]),
        ([(text("#a", "x" * 200),)], [("hold", (), False)]),
    ],
)
def test_it_does_not_wait_for_a_hub_that_is_silent_when_it_is_to_hold_it(meanwhile, told):
    world, slow = World(state_bytes=200), Slow()
    world.held.publish((A,))
    holding = threading.Thread(target=world.held.hold, args=(world, slow))
    holding.start()
    assert slow.asked.wait(PATIENCE)
    for entry in meanwhile:
        world.held.publish(entry)
    slow.answers.set()
    holding.join(PATIENCE)
    world.held.publish((text("#b", "2"),))
    assert slow.told == [
        ("hold", (A,), True),
        *told,
        ("publish", len([t for t in told if t[0] == "hold"]) + 1, len(meanwhile) + 2, (text("#b", "2"),)),
    ]


def test_a_hub_that_refuses_to_hold_it_is_not_asked_for_ever(world):
    world.held.publish((A,))
    world.second.error = PatchError("no such name")
    with pytest.raises(PatchError, match="no such name"):
        world.held.hold(world, world.second)


def test_one_that_ends_just_then_is_over_when_the_hub_was_told(world):
    slow = Slow()
    world.held.publish((A,))
    threads = [threading.Thread(target=world.held.hold, args=(world, slow))]
    threads.append(threading.Thread(target=world.held.finish, args=("done", "")))
    threads[0].start()
    assert slow.asked.wait(PATIENCE)
    threads[1].start()
    assert not world.held.over.is_set()
    slow.answers.set()
    assert world.held.over.wait(PATIENCE)
    assert slow.told == [("hold", (A,), True), ("finish", 1, "done", "")]


def test_where_it_is_held_already_it_is_not_held_again(world):
    world.held.hold(world, world.first)
    assert world.first.told == [("hold", (), True)]


def test_what_has_ended_without_a_hub_ends_in_the_next(world):
    world.held.publish((A,))
    world.first.error = GONE_NOW
    world.held.finish("failed", "Sorry.")
    assert world.held.over.is_set()
    assert world.drifted == 1
    world.held.hold(world, world.second)
    assert world.second.told == [("hold", (A,), True), ("finish", 1, "failed", "Sorry.")]


def test_who_waits_for_its_end_is_told_when_the_hub_was(world):
    """A script that waits for its job, and then ends, would have it lost."""
    seen = []
    world.first.finish = lambda *said: seen.append(world.held.over.is_set())
    world.held.finish("done", "")
    assert (seen, world.held.over.is_set()) == ([False], True)


def test_a_hub_that_fails_while_it_is_told_is_told_by_who_has_it_told(world):
    world.second.error = GONE_NOW
    with pytest.raises(Gone):
        world.held.hold(world, world.second)
    assert not world.held.is_with(
        world.first
    )  # whose word does not count any more: there was a reason to leave it
    world.held.publish((A,))
    world.held.hold(world, world.first)
    assert world.first.told[-1] == ("hold", (A,), True)


def test_what_the_hub_refuses_is_an_error_of_the_jobs_and_no_part_of_its_state(world):
    for error in (Refusal("no"), PatchError("too much")):
        world.first.error = error
        with pytest.raises(type(error)):
            world.held.publish((A,))
    assert world.drifted == 0
    world.held.hold(world, world.second)
    assert world.second.told == [("hold", (), True)]


def test_past_a_bound_its_state_begins_anew_and_the_next_hub_knows():
    world = World(state_cells=3)
    for n in range(5):
        world.held.publish((append("#log", f"{n}"),))
    world.held.hold(world, world.second)
    assert world.second.told == [("hold", (append("#log", "4"),), False)]


def test_a_state_that_no_message_can_have_is_left_out(world):
    class Small(Outlet):
        def hold(self, runner: object, name: str, patches: tuple[Patch, ...], whole: bool) -> int:
            if patches:
                raise PatchError("too much")
            return super().hold(runner, name, patches, whole)

    world.held.publish((A,))
    small = Small()
    world.held.hold(world, small)
    assert small.told == [("hold", (), False)]


def test_where_the_process_ends_it_is_lost_without_a_word_and_stays_so(world):
    world.held.lose()
    world.held.publish((A,))
    world.held.finish("done", "")
    assert (world.held.status, world.held.message) == ("lost", STOPPED)
    assert world.first.told == [("hold", (), True)]


# By the door of a hub


class Asked(Owner):
    def cancel(self, name: str, number: int) -> None:
        self.told.append(("cancel", name, number))


def test_a_process_holds_a_job_is_told_to_end_it_and_ends_it(door):
    owner = Asked()
    mine, other = door.client("mine", owner), door.client("other")
    number = mine.hold(None, "job-1", (A,), True)
    assert other.standing("job-1") == ("open", "")
    assert mine.publish_run("job-1", number, 1, (B,)) is not None
    assert other.cancel("job-1") is True
    wait_until(lambda: owner.told, PATIENCE, "it to be told")
    assert owner.told == [("cancel", "job-1", number)]
    assert other.standing("job-1") == ("open", "")  # until it has ended
    mine.finish("job-1", number, "cancelled", "")
    assert other.standing("job-1") == ("cancelled", "")
    assert other.cancel("job-1") is False
    assert door.hub.log.channels["job-1"].state.whole() == [A, B]


def test_a_job_is_lost_with_its_process_and_another_one_cannot_have_it(door):
    mine, other = door.client("mine"), door.client("other")
    number = mine.hold(None, "job-1", (), True)
    mine.close()
    wait_until(lambda: other.standing("job-1") == ("lost", GONE), PATIENCE, "it to be lost")
    assert other.publish_run("job-1", number, 1, (A,)) is None
    assert door.hub.log.channels["job-1"].state.whole() == []


def test_a_process_that_gives_back_its_leases_has_its_jobs_lost_with_another_word(door):
    mine, other = door.client("mine"), door.client("other")
    mine.hold(None, "job-1", (), True)
    mine.withdraw()
    wait_until(lambda: other.standing("job-1") == ("lost", STOPPED), PATIENCE, "it to be lost")


def test_a_process_that_the_hub_does_not_know_holds_nothing(door):
    mine = door.client("mine")
    mine.member = "somebody"
    with pytest.raises(Gone, match="it knows nothing of this process"):
        mine.hold(None, "job-1", (), True)
    assert "job-1" not in door.hub.log.channels


@pytest.mark.parametrize(
    "said",
    [
        {"name": "", "member": "m", "entry": [], "whole": True},
        {"name": "job-1", "member": "m", "entry": [["run", "#a", "1"]], "whole": True},
        {"name": "job-1", "member": "m", "entry": 7, "whole": True},
        {"name": "job-1", "member": "m", "entry": [], "whole": True, "until": 0},
        {"name": "job-1"},
    ],
)
def test_what_is_said_wrong_holds_nothing_and_disturbs_nobody(door, said):
    door.client("m")
    plain = door.plain("calls")
    plain.say({"call": "hold", **said})
    assert "error" in plain.hear()
    assert door.well_behaved.standing("job-1") == ("", "")  # as the hub is young
    assert door.hub.log.channels == {}


def test_a_hub_is_young_for_a_moment(door, monkeypatch):
    client = door.client()
    assert client.standing("job-none") == ("", "")
    monkeypatch.setattr("afterload.hub.control._YOUNG", 0.0)
    assert client.standing("job-none") is None
    assert client.cancel("job-none") is False


# Between processes: several in this one are as good as several processes


def serve(live: Live) -> Live:
    live.serve(False)
    wait_until(lambda: live.meeting.is_serving, PATIENCE, "it to find its hub")
    return live


def counting(live: Live, stop: threading.Event) -> Iterator[Any]:
    for n in itertools.count(1):
        if stop.is_set():
            return
        yield {"#n": n}
        live.sleep(0.005)


def counted(live: Live, job: Job) -> int:
    """What its channel shows there."""
    try:
        with live.hub._lock:
            channel = live.hub.log.channels.get(job.channel)
            return int(channel.state.whole()[-1].content) if channel is not None and len(channel.state) else 0
    except (IndexError, TypeError):
        return 0


def test_one_process_starts_it_another_has_it_and_a_third_ends_it(process):
    host, mine, other = (serve(process()) for _ in range(3))
    job = mine.start(counting, mine, threading.Event())
    wait_until(lambda: counted(host, job) > 3, PATIENCE, "it to count")
    found = other.job(job.id)
    assert (found.status, found.cancelled, found.id) == ("open", False, job.id)
    assert host.stats()["loops_run"][job.channel]
    assert found.cancel() is True
    assert found.wait(PATIENCE) == "cancelled"
    assert job.wait(PATIENCE) == "cancelled"
    assert found.cancelled
    assert found.cancel() is False


def test_one_that_there_is_not_is_unknown_in_all_processes(process, monkeypatch):
    monkeypatch.setattr("afterload.hub.control._YOUNG", 0.0)
    for live in (serve(process()), serve(process())):
        with pytest.raises(JobError, match="there is no job 'none'"):
            live.job("none")


@pytest.mark.parametrize("how", ["a word", "none"])
def test_a_job_goes_on_when_its_host_ends_and_the_next_is_brought_to_its_state(process, how):
    """However the host ends: it says so, as at a deploy, or is gone."""
    host, mine, third = (serve(process()) for _ in range(3))
    stop = threading.Event()
    job = mine.start(counting, mine, stop)
    done = mine.start(lambda: mine.job().publish({"#n": "result"}))
    assert done.wait(PATIENCE) == "done"
    wait_until(lambda: counted(host, job) > 3, PATIENCE, "it to count")
    before = counted(host, job)
    if how == "a word":
        host.close()
    else:
        host.hub.poller.call(host.meeting._host.close)
        host.meeting.release()
    wait_until(
        lambda: any(counted(live, job) > before for live in (mine, third)), PATIENCE, "it to go on elsewhere"
    )
    assert job.status == "open"
    for live in (mine, third):
        assert live.job(job.id).status == "open"
        assert live.job(done.id).status == "done"
    stop.set()
    assert third.job(job.id).wait(PATIENCE) == "done"


def test_a_hub_that_hangs_does_not_hold_up_a_job_and_is_brought_up_to_date(process, caplog):
    host, mine = serve(process()), serve(process())
    stop = threading.Event()
    job = mine.start(counting, mine, stop)
    wait_until(lambda: counted(host, job) > 3, PATIENCE, "it to count")
    mine.meeting.shared._calls._timeout = 0.1
    begun, go = threading.Event(), threading.Event()
    host.hub.poller.call(lambda: (begun.set(), go.wait(PATIENCE))[0])
    assert begun.wait(PATIENCE)
    run = mine.loops.find_job(job.channel)

    def here() -> int:
        return int(run.held._state.whole()[-1].content)

    at = here()
    wait_until(lambda: here() > at + 20, PATIENCE, "it to go on")
    assert "goes on without its hub" in caplog.text
    before = counted(host, job)
    go.set()
    wait_until(lambda: counted(host, job) > before + 20, PATIENCE, "its hub to have what it has missed")
    stop.set()
    assert host.job(job.id).wait(PATIENCE) == "done"
    caplog.clear()


def test_a_job_of_a_script_reaches_the_app_that_is_started_after_it(process, no_test):
    script, stop = process(), threading.Event()
    job = script.start(counting, script, stop)
    wait_until(lambda: counted(script, job) > 3, PATIENCE, "it to count")
    app = serve(process())
    wait_until(lambda: counted(app, job) > 3, PATIENCE, "the app to have it")
    assert app.job(job.id).status == "open"
    app.close()
    again = serve(process())
    wait_until(lambda: counted(again, job) > 3, PATIENCE, "the next to have it")
    stop.set()
    assert again.job(job.id).wait(PATIENCE) == "done"
    assert job.wait(PATIENCE) == "done"


def test_a_script_whose_job_ends_while_the_hub_is_away_brings_its_end_to_the_next(process, no_test):
    host, script, stop = serve(process()), process(), threading.Event()
    job = script.start(counting, script, stop)
    wait_until(lambda: counted(host, job) > 3, PATIENCE, "it to count")
    host.hub.poller.call(host.meeting._host.close)
    host.meeting.release()
    host.close()
    stop.set()
    wait_until(lambda: job.status == "done", PATIENCE, "it to end")
    after = threading.Timer(0.5, lambda: serve(process()))
    after.start()
    assert job.wait(PATIENCE) == "done"
    script.close()
    after.join()
    assert process().job(job.id).status == "done"


def test_under_a_test_a_job_is_seen_by_nobody(process):
    app, script = serve(process()), process()
    job = script.start(counting, script, threading.Event())
    wait_until(lambda: counted(script, job) > 3, PATIENCE, "it to count")
    assert app.hub.log.channels == {}
    wait_until(lambda: not script.loops._is_looking, PATIENCE, "it to look for nobody")
    job.cancel()
    assert job.wait(PATIENCE) == "cancelled"


def test_where_there_is_no_hub_nothing_is_started(process):
    host, mine = serve(process()), serve(process(publish_timeout=0.2))
    serve(mine)
    ran = []
    begun, go = threading.Event(), threading.Event()
    host.hub.poller.call(lambda: (begun.set(), go.wait(PATIENCE))[0])
    assert begun.wait(PATIENCE)
    with pytest.raises(HubError, match="does not answer"):
        mine.start(ran.append, 1)
    assert mine.loops.running == 0
    calls = mine.meeting.shared._calls
    calls._timeout, calls._is_silent = PATIENCE, False
    go.set()
    assert mine.start(ran.append, 2).wait(PATIENCE) == "done"
    assert ran == [2]


def test_a_process_that_is_told_to_end_has_its_jobs_lost_at_once(process):
    host, mine = serve(process()), serve(process())
    job = mine.start(counting, mine, threading.Event())
    wait_until(lambda: counted(host, job) > 3, PATIENCE, "it to count")
    mine.meeting.leave()
    wait_until(lambda: host.job(job.id).status == "lost", PATIENCE, "it to be lost")
    assert host.job(job.id).message == STOPPED
    assert (job.status, job.message) == ("lost", STOPPED)
    wait_until(lambda: mine.loops.running == 0, PATIENCE, "it to have ended")
