"""docs/how-to/zero-drop-deploy.md: its command lines, and what pages see."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.deploy.pod import Pod, Running, Sandbox
from tests.deploy.shop import APP, Page, make_shop, order, replaced, service, wait_app, wait_hub
from tests.docs.markdown import ROOT, fences
from tests.handover.raw import Raw
from tests.servers.process import wait_until

HOW_TO = ROOT / "docs" / "how-to" / "zero-drop-deploy.md"


def shown(section: str) -> list[str]:
    return [f.text.strip() for f in fences(HOW_TO) if (f.section, f.language) == (section, "sh")]


@pytest.fixture
def pod(make_pod: Callable[..., Pod]) -> Pod:
    return make_pod(APP)


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], Sandbox]:
    """A command line of the how-to, given in the folder of the app."""
    shop = make_shop(tmp_path / "shop")
    unit = service("shop.service", shop, tmp_path / "unit", env={"GUNICORN_CMD_ARGS": "--no-control-socket"})
    plain = unit.sandbox()
    # Here the folder is the one that can be written: for gunicorn's file, and the database.
    mounts = [*plain.mounts, "--bind", str(tmp_path), "/var/lib/shop"]
    env = {**plain.env, "PATH": f"/srv/shop/venv/bin:{plain.env['PATH']}", "PYTHONPATH": "/srv/shop"}
    del env["AFTERLOAD_NAMESPACE"], env["NOTIFY_SOCKET"]

    def run(line: str) -> Sandbox:
        command = ["/bin/sh", "-c", f"exec env {line}"]
        return replace(plain, command=command, mounts=mounts, env=env, folder="/var/lib/shop")

    return run


def test_a_reload_is_not_noticed(pod: Pod, shell: Callable[[str], Sandbox], tmp_path: Path) -> None:
    start, reload = shown("Reload")
    app = wait_app(pod, pod.start(shell(start)))
    wait_until(lambda: len(app.workers) == 4, 20, "four workers")
    pages = [Page(pod) for _ in range(3)]
    things = [f"thing-{number}" for number in range(4)]
    for thing in things:
        order(pod, thing)
        for page in pages:
            page.wait_order(thing)
        # The file has gunicorn's number as it knows itself.
        command = reload.replace("$(cat gunicorn.pid)", str(app.pid))
        assert command != reload
        assert (tmp_path / "gunicorn.pid").exists()
        with replaced(app):
            subprocess.run(shlex.split(command), check=True, timeout=10)
        pages[0].wait_loop()
    order(pod, "thing-4")
    for page in pages:
        page.wait_order("thing-4")
        assert page.orders() == [*things, "thing-4"]


def test_a_stop_and_start_beneath_a_hub_of_its_own_is_not_noticed(
    pod: Pod, shell: Callable[[str], Sandbox]
) -> None:
    hub, start = shown("Stop and start")
    wait_hub(pod.start(shell(hub)), "board")
    app = wait_app(pod, pod.start(shell(start)))
    pages = [Page(pod) for _ in range(3)]
    things = [f"thing-{number}" for number in range(3)]
    for thing in things:
        order(pod, thing)
        for page in pages:
            page.wait_order(thing)
        assert app.stop() == 0
        app = wait_app(pod, pod.start(shell(start)))
        pages[0].wait_loop()
    assert [page.orders() for page in pages] == [things] * 3


SPINNER = re.compile(rb'"#data","\S (\d+)"')


@pytest.fixture
def example(pod: Pod, tmp_path: Path) -> Callable[..., Running]:
    """An example of the other how-tos, with four workers; of its text, something may be another."""

    def run(app: str, *change: str) -> Running:
        shop = make_shop(tmp_path / "shop", "gunicorn.conf.py", app=app)
        if change:
            (shop / "app.py").write_text((shop / "app.py").read_text().replace(*change))
        return wait_app(pod, service("shop.service", shop, tmp_path).start(pod))

    return run


def test_a_loop_of_a_pages_own_ends_with_its_worker_and_begins_anew(
    pod: Pod, example: Callable[..., Running]
) -> None:
    app = example("spinner")
    page = Page(pod)
    page.raw.until(b'"#data"', 10)
    with replaced(app):
        app.signal(signal.SIGHUP)
    page.raw.rest()
    back = Page(pod, position=page.position)
    back.raw.until(b'"#data"', 2)
    assert b"event: reset" in back.raw.data
    numbers = [int(number) for number in SPINNER.findall(back.raw.data)]
    assert numbers[0] < int(SPINNER.findall(page.raw.data)[-1])


def test_a_document_ends_with_its_worker_and_does_not_look_finished(
    pod: Pod, example: Callable[..., Running]
) -> None:
    app = example("hello", '"hello"', '"h" + 1000 * "o"')
    document = pod.keep(Raw(pod.where(APP))).ask("/")
    document.until(b'"#data","h"')
    with replaced(app):
        app.signal(signal.SIGHUP)
    assert b'complete",{}' not in document.rest()


def test_a_hub_that_is_killed_takes_no_loop_of_a_pages_own_with_it(
    pod: Pod, example: Callable[..., Running]
) -> None:
    app = example("spinner")
    page = Page(pod)
    page.raw.until(b'"#data"', 2)
    [hub] = app.hubs
    os.kill(hub, signal.SIGKILL)
    wait_until(lambda: app.hubs not in ([], [hub]), 20, "another hub")
    page.raw.until(b'"#data"', page.raw.data.count(b'"#data"') + 5)


@pytest.mark.parametrize("hub", ["process", "thread"])
def test_one_worker_can_have_its_hub_in_either_place(
    hub: str, pod: Pod, shell: Callable[[str], Sandbox]
) -> None:
    start = shown("Reload")[0].replace("-w 4", "-w 1")
    app = wait_app(pod, pod.start(shell(f"FLASK_AFTERLOAD_HUB={hub} {start}")))
    page = Page(pod)
    with replaced(app):
        app.signal(signal.SIGHUP)
    order(pod, "thing-0")
    if hub == "process":
        page.wait_order("thing-0")
        assert len(app.hubs) == 1
    else:
        assert b"event: bye" in page.raw.rest()
        assert app.hubs == []


OTHER_VERSION = """
import sys
from afterload.hub import frames
frames.VERSION += 1
from afterload.cli import main
sys.exit(main(["hub", "--namespace", "board"]))
"""


def test_an_app_of_another_protocol_is_refused_with_a_clear_message(
    pod: Pod, shell: Callable[[str], Sandbox]
) -> None:
    _, start = shown("Stop and start")
    other = replace(shell("true"), command=["/srv/shop/venv/bin/python", "-c", OTHER_VERSION])
    hub = wait_hub(pod.start(other), "board")
    app = pod.start(shell(start))
    app.wait_log("another version of afterload")
    assert hub.stop() == 0
    wait_until(lambda: app.hubs, 20, "a hub of the app's version")
    page = Page(pod)
    order(pod, "thing-0")
    page.wait_order("thing-0")


def test_what_runs_in_the_hubs_place_waits_for_the_next_app(
    pod: Pod, shell: Callable[[str], Sandbox]
) -> None:
    # "Without a hub of its own": the hub process is in no unit and in no container here.
    start, _ = shown("Reload")
    line = start.replace("--pid gunicorn.pid", "")
    keeper = replace(shell("true"), command=["/bin/sh", "-c", f"{line}; {line}"])
    app = pod.start(keeper)
    first = wait_app(pod, app)
    page = Page(pod)
    order(pod, "thing-0")
    page.wait_order("thing-0")
    [gunicorn] = Running.children(first.pid)
    hubs = app.hubs
    subprocess.run(["kill", str(gunicorn)], check=True, timeout=10)
    wait_until(lambda: Running.children(app.pid) not in ([], [gunicorn]), 20, "the second app")
    wait_app(pod, app)
    order(pod, "thing-1")
    page.wait_order("thing-1")
    assert app.hubs == hubs
