"""Several workers and one hub: the example's order board, and what deploys and failures are to its viewers.

The same with thousands of viewers, and for minutes, is `./dev soak deploy`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.process import Servers, wait_until
from tests.soak.cafe import Figures, hub_of, open_cafe, separate_hub

VIEWERS = 36
WORKERS = 3


def unnoticed(found: Figures) -> None:
    """Nobody had to come back, and everybody has everything once."""
    assert (found.reconnects, found.lost, found.doubled, found.errors) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("worker_class", "arguments"), [("sync", []), ("gthread", []), ("gthread", ["--preload"])]
)
def test_a_reload_is_not_noticed(
    servers: Servers, tmp_path: Path, worker_class: str, arguments: list[str]
) -> None:
    with open_cafe(
        servers,
        tmp_path,
        *arguments,
        viewers=VIEWERS,
        workers=WORKERS,
        worker_class=worker_class,
        pause=0.05,
    ) as cafe:
        for _ in range(2):
            cafe.ordered(20)
            cafe.reload()
        cafe.ordered(20)
        hub_of(cafe.namespace)
        unnoticed(cafe.settle("reload", 2))


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_workers_that_are_recycled_are_not_noticed(
    servers: Servers, tmp_path: Path, worker_class: str
) -> None:
    arguments = ("--max-requests", "20")
    with open_cafe(
        servers,
        tmp_path,
        *arguments,
        viewers=VIEWERS,
        workers=WORKERS,
        worker_class=worker_class,
        pause=0.05,
    ) as cafe:
        before = cafe.recycled()
        wait_until(lambda: cafe.recycled() >= before + 4, 30, "four workers to have ended")
        cafe.ordered(20)
        hub_of(cafe.namespace)
        unnoticed(cafe.settle("max-requests", cafe.recycled() - before))


def test_a_stop_and_a_start_under_a_hub_of_its_own_are_not_noticed(servers: Servers, tmp_path: Path) -> None:
    with (
        separate_hub(tmp_path) as namespace,
        open_cafe(
            servers, tmp_path, viewers=VIEWERS, workers=WORKERS, namespace=namespace, pause=0.05
        ) as cafe,
    ):
        for _ in range(2):
            cafe.ordered(20)
            runs = len(cafe.runs())
            cafe.server.restart()
            # Nobody asks for a page, and still there is somebody to run the clock.
            wait_until(lambda at=runs: len(cafe.runs()) > at, 10, "the clock to run again")  # type: ignore[misc]
        cafe.ordered(20)
        unnoticed(cafe.settle("stop and start", 2))


def test_a_shared_loop_is_taken_over_from_a_worker_that_is_killed(servers: Servers, tmp_path: Path) -> None:
    with open_cafe(servers, tmp_path, viewers=VIEWERS, workers=WORKERS, pause=0.05) as cafe:
        for _ in range(2):
            cafe.kill_runner()
        cafe.ordered(20)
        found = cafe.settle("kill -9 of the clock's worker", 2)
        unnoticed(found)
        assert found.runs == 3


def test_a_hub_that_is_killed_is_replaced_and_everybody_is_right_again(
    servers: Servers, tmp_path: Path
) -> None:
    with open_cafe(servers, tmp_path, viewers=VIEWERS, workers=WORKERS, retry=500) as cafe:
        cafe.ordered(10)
        cafe.kill_hub()
        cafe.ordered(10)
        found = cafe.settle("kill -9 of the hub", 1)
    assert (found.lost, found.doubled) == (0, 0)
    assert found.reconnects >= VIEWERS


def test_a_hub_that_hangs_is_noticed_by_those_who_publish_and_by_pages_and_goes_on(
    servers: Servers, tmp_path: Path
) -> None:
    with open_cafe(
        servers, tmp_path, viewers=VIEWERS, workers=WORKERS, heartbeat=1, publish_timeout=1
    ) as cafe:
        cafe.ordered(10)
        refused = cafe.hang_hub(timeout=30)
        cafe.ordered(10)
        found = cafe.settle("the hub hangs", 1)
    assert (found.lost, found.doubled) == (0, 0)
    assert {order.why for order in refused} == {"status 500"}
    assert "HubError" in cafe.server.log()
