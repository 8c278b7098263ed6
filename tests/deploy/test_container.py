"""docs/how-to/container.md: its Dockerfile and its `docker run` lines.

No Docker is needed: what these say (and Docker's defaults: the first process, no home directory, no entry for the user)
is done by bubblewrap.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.deploy.docker import Image, container, image
from tests.deploy.pod import Pod, Running, Sandbox
from tests.deploy.shop import Page, make_shop, order, reload, wait_app, wait_hub
from tests.docs.markdown import EXAMPLES, ROOT, fences
from tests.servers.process import wait_until

IMAGE: Image = image((EXAMPLES / "deploy" / "Dockerfile").read_text())
RUN = {
    section: [
        f.text
        for f in fences(ROOT / "docs/how-to/container.md")
        if (f.section, f.language) == (section, "sh")
    ]
    for section in ("One container", "The hub beside it")
}


@pytest.fixture
def pod(make_pod: Callable[..., Pod]) -> Pod:
    return make_pod(8000)


@pytest.fixture
def sandbox(tmp_path: Path) -> Callable[[str], Sandbox]:
    """What a `docker run` line starts."""
    shop = make_shop(tmp_path / "shop", "gunicorn.conf.py")

    def made(line: str) -> Sandbox:
        return container(line, IMAGE, shop, tmp_path).sandbox

    return made


def follow_and_order(pod: Pod, app: Running, pages: list[Page], *things: str) -> None:
    for thing in things:
        order(pod, thing)
        for page in pages:
            page.wait_order(thing)
    assert not app.over


@pytest.mark.parametrize("init", [False, True])
def test_an_app_starts_its_hub_in_its_container(
    init: bool, pod: Pod, sandbox: Callable[[str], Sandbox]
) -> None:
    [line] = RUN["One container"]
    started = sandbox(line.replace("docker run", "docker run --init" if init else "docker run"))
    app = wait_app(pod, pod.start(started))
    pages = [Page(pod) for _ in range(2)]
    follow_and_order(pod, app, pages, "thing-0")
    assert len(app.hubs) == 1
    reload(app)
    follow_and_order(pod, app, pages, "thing-1", "thing-2")
    pages[0].wait_loop()
    assert [page.orders() for page in pages] == [["thing-0", "thing-1", "thing-2"]] * 2
    assert len(app.hubs) == 1
    assert app.stop(10) == 0  # as long as Docker waits
    for page in pages:
        page.raw.rest()


def test_the_app_is_replaced_beside_the_hub_and_no_page_notices(
    pod: Pod, sandbox: Callable[[str], Sandbox]
) -> None:
    first, second = RUN["The hub beside it"]
    hub = wait_hub(pod.start(sandbox(first)), "shop", IMAGE.user)
    app = wait_app(pod, pod.start(sandbox(second)))
    pages = [Page(pod) for _ in range(2)]
    for round_ in range(3):
        follow_and_order(pod, app, pages, f"thing-{round_}")
        assert app.stop(10) == 0
        app = wait_app(pod, pod.start(sandbox(second)))
        pages[0].wait_loop()
    follow_and_order(pod, app, pages, "thing-3")
    assert [page.orders() for page in pages] == [[f"thing-{n}" for n in range(4)]] * 2
    assert hub.stop(10) == 0
    for page in pages:
        assert b"event: bye" in page.raw.rest()


def test_a_hub_that_was_killed_is_replaced_by_one_in_the_apps_container(
    pod: Pod, sandbox: Callable[[str], Sandbox]
) -> None:
    first, second = RUN["The hub beside it"]
    hub = wait_hub(pod.start(sandbox(first)), "shop", IMAGE.user)
    app = wait_app(pod, pod.start(sandbox(second)))
    page = Page(pod)
    hub.signal(signal.SIGKILL)
    page.raw.rest()
    wait_until(lambda: app.hubs, 20, "a hub that the app has started")
    back = Page(pod, position=page.position)
    order(pod, "thing-0")
    back.wait_order("thing-0")


def test_the_second_line_is_in_the_network_of_the_first(tmp_path: Path) -> None:
    first, second = (container(line, IMAGE, tmp_path, tmp_path) for line in RUN["The hub beside it"])
    assert second.network == first.name


def test_containers_with_networks_of_their_own_do_not_meet(
    make_pod: Callable[..., Pod], sandbox: Callable[[str], Sandbox]
) -> None:
    first, _ = RUN["The hub beside it"]
    hub = sandbox(first)
    status = replace(hub, command=["afterload", "status", "--namespace", "shop"])
    pod, elsewhere = make_pod(8000), make_pod(8000)
    wait_hub(pod.start(hub), "shop", IMAGE.user)
    assert pod.run(status).returncode == 0
    assert elsewhere.run(status).returncode == 1


def test_nothing_can_be_written_but_what_the_how_to_names(
    pod: Pod, sandbox: Callable[[str], Sandbox]
) -> None:
    tries = "for d in / /data /dev/shm /etc /srv/shop /tmp /usr $HOME; do touch $d/x 2>/dev/null && echo $d; done; id"
    [line] = RUN["One container"]
    said = pod.run(replace(sandbox(line), command=["/bin/sh", "-c", tries]))
    assert said.stdout.split()[:2] == ["/data", "/dev/shm"]
    assert said.stdout.split()[2:] == ["uid=10001", "gid=10001", "groups=10001"]
