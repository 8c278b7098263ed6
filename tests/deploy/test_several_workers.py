"""docs/how-to/several-workers.md: its command lines, and what it says of them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.pod import Pod, Running, Sandbox
from tests.deploy.shop import APP, Page, make_shop, order, reload, replaced, service, wait_app
from tests.docs.markdown import ROOT, fences
from tests.servers.process import wait_until

HOW_TO = ROOT / "docs" / "how-to" / "several-workers.md"
SHELL = [f.text.splitlines() for f in fences(HOW_TO) if f.language == "sh"]
SERVERS = [line for lines in SHELL for line in lines if line.startswith("gunicorn")]
STATUS = [line for lines in SHELL for line in lines if line.startswith("afterload")]


@pytest.fixture
def pod(make_pod: Callable[..., Pod]) -> Pod:
    return make_pod(APP)


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., Sandbox]:
    """A command line of the how-to, given by the shop's user."""
    made: dict[str, Sandbox] = {}

    def run(line: str, app: str = "board") -> Sandbox:
        if app not in made:
            made[app] = service(
                "shop.service", make_shop(tmp_path / app, app=app), tmp_path / "unit"
            ).sandbox()
        command, *arguments = shlex.split(line)
        if command == "gunicorn":
            arguments.insert(0, "--no-control-socket")
        return replace(made[app], command=[f"/srv/shop/venv/bin/{command}", *arguments])

    return run


def by_inner_number(app: Running, number: str) -> int:
    """The number on this host of a worker that knows itself by another."""
    inner = {re.findall(r"^NSpid:.*\s(\d+)$", _status(pid), re.M)[0]: pid for pid in app.workers}
    return inner[number]


def _status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize("line", SERVERS)
def test_each_page_follows_what_any_worker_publishes(
    line: str, pod: Pod, shell: Callable[..., Sandbox]
) -> None:
    app = wait_app(pod, pod.start(shell(line)))
    wait_until(lambda: len(app.workers) == 4, 20, "four workers")
    pages = [Page(pod) for _ in range(8)]
    things = [f"thing-{number}" for number in range(40)]
    for thing in things:
        order(pod, thing)
    for page in pages:
        page.wait_order(things[-1])
        assert page.orders() == things
    runners = {page.wait_loop() for page in pages}
    [hub] = app.hubs
    assert Path(f"/proc/{hub}/comm").read_text() == "afterload-hub\n"
    assert len(runners) == 1 or "--max-requests" in line
    assert "short streams" not in app.log()


def test_a_shared_loop_is_taken_over_and_no_page_notices(pod: Pod, shell: Callable[..., Sandbox]) -> None:
    app = wait_app(pod, pod.start(shell(SERVERS[0])))
    page = Page(pod)
    runner = page.wait_loop()
    os.kill(by_inner_number(app, runner), signal.SIGKILL)
    while page.wait_loop() == runner:
        pass
    reload(app)
    order(pod, "thing-0")
    page.wait_order("thing-0")
    page.wait_loop()


def test_workers_are_replaced_after_so_many_requests_and_no_page_notices(
    pod: Pod, shell: Callable[..., Sandbox]
) -> None:
    [line] = [line for line in SERVERS if "--max-requests" in line]
    app = wait_app(pod, pod.start(shell(line)))
    wait_until(lambda: len(app.workers) == 4, 20, "four workers")
    page = Page(pod)
    things = []
    with replaced(app):
        old = set(app.workers)
        while old & set(app.workers):
            things.append(f"thing-{len(things)}")
            order(pod, things[-1])
    page.wait_order(things[-1])
    assert page.orders() == things


def test_a_loop_of_a_pages_own_is_found_again_from_any_worker(
    pod: Pod, shell: Callable[..., Sandbox]
) -> None:
    app = wait_app(pod, pod.start(shell(SERVERS[0], app="spinner")))
    wait_until(lambda: len(app.workers) == 4, 20, "four workers")
    page = Page(pod)
    page.raw.until(b'"#data"', 3)
    for _ in range(6):
        position = page.position
        page.raw.close()
        page = Page(pod, position=position)
        page.raw.until(b'"#data"', 2)
        assert b'"resumed":true' in page.raw.data
        assert b"event: reset" not in page.raw.data


def test_the_status_says_who_is_there(pod: Pod, shell: Callable[..., Sandbox]) -> None:
    wait_app(pod, pod.start(shell(SERVERS[0])))
    pages = [Page(pod) for _ in range(3)]
    runner = pages[0].wait_loop()
    [line] = STATUS

    def whole() -> dict[str, Any]:
        [found] = json.loads(pod.run(shell(f"{line} --json")).stdout)
        return dict(found)

    wait_until(lambda: len(whole()["processes"]) == 4, 20, "four processes")
    assert (whole()["namespace"], whole()["viewers"]) == ("shop", 3)
    said = pod.run(shell(line))
    assert (said.returncode, said.stderr) == (0, "")
    assert re.search(r"^shop\n", said.stdout)
    assert re.search(rf"clock +run by process {runner}\b", said.stdout)
    assert pod.run(shell(f"{line} --namespace shop")).returncode == 0
    assert pod.run(shell(f"{line} --namespace shoe")).returncode == 1
