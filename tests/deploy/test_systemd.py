"""docs/how-to/systemd.md: its units, run with what they say, and with nothing else.

systemd itself is not the first process where tests run. So it is asked whether the units are right, and what it would
do then is done by bubblewrap.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.deploy.pod import Pod, installed
from tests.deploy.shop import Page, make_shop, order, replaced, service, wait_app
from tests.deploy.systemd import Service
from tests.docs.markdown import EXAMPLES
from tests.servers.process import wait_until

UNITS = ("shop.service", "shop-hub.service")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return make_shop(tmp_path / "shop", "gunicorn.conf.py")


@pytest.fixture
def pod(make_pod: Callable[..., Pod]) -> Pod:
    return make_pod(8000)


@pytest.fixture
def app_unit(shop: Path, tmp_path: Path) -> Service:
    return service("shop.service", shop, tmp_path)


@pytest.fixture
def hub_unit(shop: Path, tmp_path: Path) -> Service:
    return service("shop-hub.service", shop, tmp_path)


def test_systemd_finds_nothing_wrong_with_the_units(pod: Pod, app_unit: Service) -> None:
    sandbox = app_unit.sandbox()
    mounts = [*sandbox.mounts, "--ro-bind", str(EXAMPLES / "deploy"), "/etc/systemd/system"]
    verify = [installed("systemd-analyze", "systemd"), "verify", "--man=no", *UNITS]
    said = pod.run(replace(sandbox, command=verify, mounts=mounts, uid=0, folder="/etc/systemd/system"))
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_the_units_say_of_each_other_what_they_need() -> None:
    app, hub = ((EXAMPLES / "deploy" / name).read_text() for name in UNITS)
    assert "Wants=shop-hub.service" in app
    assert "shop-hub.service" in next(line for line in app.splitlines() if line.startswith("After="))
    [command] = [line for line in hub.splitlines() if line.startswith("ExecStart=")]
    [environment] = [line for line in app.splitlines() if line.startswith("Environment=AFTERLOAD")]
    assert command.split("--namespace ")[1] == environment.split("NAMESPACE=")[1]


def test_pages_do_not_notice_that_the_app_is_stopped_and_started(
    pod: Pod, hub_unit: Service, app_unit: Service
) -> None:
    hub_unit.start(pod)
    app = wait_app(pod, app_unit.start(pod))
    pages = [Page(pod) for _ in range(3)]
    for round_ in range(3):
        order(pod, f"thing-{round_}")
        for page in pages:
            page.wait_order(f"thing-{round_}")
            page.wait_loop()
        assert app.stop() == 0
        app = wait_app(pod, app_unit.start(pod))
    order(pod, "thing-3")
    for page in pages:
        page.wait_order("thing-3")
        assert page.orders() == ["thing-0", "thing-1", "thing-2", "thing-3"]
    assert app.hubs == []


def test_pages_do_not_notice_a_reload(pod: Pod, app_unit: Service) -> None:
    app = wait_app(pod, app_unit.start(pod))
    page = Page(pod)
    for round_ in range(3):
        with replaced(app):
            subprocess.run(app_unit.reload(app), check=True, timeout=10)
        order(pod, f"thing-{round_}")
        page.wait_order(f"thing-{round_}")
    assert page.orders() == ["thing-0", "thing-1", "thing-2"]
    assert len(app.hubs) == 1


def test_without_the_hubs_unit_a_stop_ends_the_hub_too_and_pages_are_back(
    pod: Pod, app_unit: Service
) -> None:
    app = wait_app(pod, app_unit.start(pod))
    page = Page(pod)
    order(pod, "thing-0")
    page.wait_order("thing-0")
    assert len(app.hubs) == 1
    assert app.stop() == 0
    page.raw.rest()
    wait_app(pod, app_unit.start(pod))
    back = Page(pod, position=page.position)
    back.raw.until(b"event: refresh")  # the new hub remembers nothing; the page fetches its HTML


def test_the_hub_ends_in_order_when_it_is_stopped(pod: Pod, hub_unit: Service, app_unit: Service) -> None:
    hub = hub_unit.start(pod)
    wait_app(pod, app_unit.start(pod))
    page = Page(pod)
    assert hub.stop() == 0
    assert b"event: bye" in page.raw.rest()


def test_an_app_that_was_there_before_the_hub_gives_it_its_place(
    pod: Pod, hub_unit: Service, app_unit: Service
) -> None:
    app = wait_app(pod, app_unit.start(pod))
    hub = hub_unit.start(pod)
    Page(pod)
    wait_until(lambda: not app.hubs, 20, "the end of the hub that the app has started")
    assert not hub.over


def test_nothing_but_its_own_folders_can_be_written(pod: Pod, app_unit: Service) -> None:
    sandbox = app_unit.sandbox()
    folders = "/ /etc /home /root /srv/shop /usr /var /var/lib/shop /tmp"
    tries = f"for f in {folders}; do touch $f/x 2>/dev/null && echo $f; done"
    said = pod.run(replace(sandbox, command=["/bin/sh", "-c", tries]))
    assert said.stdout.split() == ["/var/lib/shop", "/tmp"]
