"""Deploys, and worse, under thousands of viewers and orders from every worker; the figures stand at the end of the run.

The server is the machine's only purpose here, and the viewers are on it too: what is stated in seconds is stated for
two cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.process import Servers, wait_until
from tests.soak.cafe import TICK, Cafe, Figures, open_cafe, separate_hub

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

VIEWERS = 5000
WORKERS = 4
SECONDS = 60.0
TAKE_OVER = 2.0  # seconds until another process runs a shared loop


def unnoticed(found: Figures) -> None:
    """Nobody had to come back, and everybody has everything once."""
    assert (found.reconnects, found.lost, found.doubled, found.errors) == (0, 0, 0, 0)
    assert found.workers >= WORKERS


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_a_reload_every_five_seconds_is_not_noticed(
    servers: Servers, tmp_path: Path, table: list[Figures], worker_class: str
) -> None:
    with open_cafe(servers, tmp_path, viewers=VIEWERS, workers=WORKERS, worker_class=worker_class) as cafe:
        began = time.monotonic()
        reloads = 0
        while time.monotonic() < began + SECONDS:
            cafe.reload()
            reloads += 1
            wait_until(lambda at=began + 5 * reloads: time.monotonic() >= at, 10, "the next reload's time")  # type: ignore[misc]
        found = cafe.settle(f"kill -HUP, {worker_class}", reloads)
    table.append(found)
    unnoticed(found)
    assert found.runs > reloads / 2
    assert found.idle < TICK + TAKE_OVER


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_workers_that_end_after_fifty_requests_are_not_noticed(
    servers: Servers, tmp_path: Path, table: list[Figures], worker_class: str
) -> None:
    arguments = ("--max-requests", "50")
    with open_cafe(
        servers,
        tmp_path,
        *arguments,
        viewers=VIEWERS,
        workers=WORKERS,
        worker_class=worker_class,
        timeout=300,
    ) as cafe:
        before = cafe.recycled()
        wait_until(lambda: time.monotonic() > cafe.began + SECONDS, SECONDS + 10, "a minute")
        found = cafe.settle(f"--max-requests 50, {worker_class}", cafe.recycled() - before)
    table.append(found)
    unnoticed(found)
    assert found.swaps >= WORKERS
    assert found.idle < TICK + TAKE_OVER


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_a_full_stop_and_start_under_a_hub_of_its_own_is_not_noticed(
    servers: Servers, tmp_path: Path, table: list[Figures], worker_class: str
) -> None:
    with (
        separate_hub(tmp_path) as namespace,
        open_cafe(
            servers,
            tmp_path,
            viewers=VIEWERS,
            workers=WORKERS,
            worker_class=worker_class,
            namespace=namespace,
        ) as cafe,
    ):
        for _ in range(6):
            cafe.ordered(40)
            runs = len(cafe.runs())
            cafe.server.restart()
            # Nobody asks for a page, and still there is somebody to run the clock.
            wait_until(lambda at=runs: len(cafe.runs()) > at, 20, "the clock to run again")  # type: ignore[misc]
        cafe.ordered(40)
        found = cafe.settle(f"stop and start, {worker_class}", 6)
    table.append(found)
    unnoticed(found)
    assert found.idle < TICK + TAKE_OVER


def reload(cafe: Cafe) -> None:
    cafe.reload()


def kill(cafe: Cafe) -> None:
    cafe.kill_runner()


def recycle(cafe: Cafe) -> None:
    before = cafe.recycled()
    wait_until(lambda: cafe.recycled() >= before + WORKERS, 60, "as many workers to have ended as there are")


@pytest.mark.parametrize(
    ("what", "arguments"), [(kill, []), (reload, []), (recycle, ["--max-requests", "50"])]
)
def test_a_shared_loop_is_run_by_another_process_within_two_seconds(
    servers: Servers, tmp_path: Path, table: list[Figures], what: Callable[[Cafe], None], arguments: list[str]
) -> None:
    with open_cafe(servers, tmp_path, *arguments, viewers=60, workers=WORKERS, pause=0.1) as cafe:
        for _ in range(5):
            runs = len(cafe.runs())
            what(cafe)
            cafe.ordered(10)
            wait_until(lambda at=runs: len(cafe.runs()) > at, 20, "another run of the clock")  # type: ignore[misc]
        found = cafe.settle(f"{what.__name__}, few viewers", 5)
    table.append(found)
    unnoticed(found)
    assert found.idle < TICK + TAKE_OVER


def test_a_runner_that_is_killed_is_followed_by_another(
    servers: Servers, tmp_path: Path, table: list[Figures]
) -> None:
    with open_cafe(servers, tmp_path, viewers=VIEWERS, workers=WORKERS) as cafe:
        took = []
        for _ in range(8):
            cafe.ordered(10)
            took.append(cafe.kill_runner())
        found = cafe.settle("kill -9 of the clock's worker", 8)
        found.note = f"taken over after at most {max(took):.2f} s"
    table.append(found)
    unnoticed(found)
    assert found.runs == 9
    assert max(took) < TAKE_OVER


# Each viewer that is back is three requests, so how soon the last one is depends on what the machine can answer.
@pytest.mark.parametrize(("viewers", "seconds"), [(1500, 5.0), (VIEWERS, 15.0)])
def test_a_hub_that_is_killed_is_replaced_and_everybody_is_right_again(
    servers: Servers, tmp_path: Path, table: list[Figures], viewers: int, seconds: float
) -> None:
    # Few orders: what the page lists is the proof for those from before.
    with open_cafe(servers, tmp_path, viewers=viewers, workers=WORKERS, pause=2.0) as cafe:
        cafe.ordered(6)
        back, healed = cafe.kill_hub()
        cafe.ordered(6)
        found = cafe.settle("kill -9 of the hub", 1)
        found.note += f"; all back in {back[-1]:.1f} s, right in {healed[-1]:.1f} s"
    table.append(found)
    assert (found.lost, found.doubled) == (0, 0)
    assert back[-1] < seconds


def test_a_hub_that_hangs_is_noticed_and_goes_on(
    servers: Servers, tmp_path: Path, table: list[Figures]
) -> None:
    with open_cafe(servers, tmp_path, viewers=VIEWERS, workers=WORKERS, heartbeat=4) as cafe:
        cafe.ordered(20)
        refused = cafe.hang_hub(timeout=60)
        cafe.ordered(20)
        found = cafe.settle("the hub hangs", 1, timeout=60)
        slowest = max(order.took for order in refused)
        found.note += f"; refused after at most {slowest:.1f} s"
    table.append(found)
    assert (found.lost, found.doubled) == (0, 0)
    assert {order.why for order in refused} == {"status 500"}
    assert "HubError" in cafe.server.log()
    assert slowest < 7
