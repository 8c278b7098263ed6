"""The hub's door, as several files here have it."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from afterload.errors import HubError
from afterload.hub import sending
from afterload.hub.uring import Ring
from afterload.live import Live
from afterload.settings import Settings
from tests.hub.door import Door, descriptors, is_taken, status
from tests.servers.process import wait_until


@pytest.fixture
def door() -> Iterator[Door]:
    """Whatever comes by it: no descriptor is left, and nothing went wrong inside."""
    before = descriptors()
    made = Door(publish_timeout=20.0)
    yield made
    errors = made.hub.poller.errors, made.own.hub.poller.errors
    made.close()
    wait_until(lambda: descriptors() <= before, 10, "all descriptors to be closed")
    assert errors == (0, 0)


@pytest.fixture
def namespace() -> Iterator[str]:
    """One of its own; a hub process of it is ended."""
    made = f"test-{secrets.token_hex(8)}"
    yield made
    if is_taken(made):
        with suppress(HubError):  # it may be about to end, or be let go by this process
            pid = status(made)["pid"]
            if pid != os.getpid():
                os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_taken(made), 10, "the place to be free")


@pytest.fixture
def process(namespace: str) -> Iterator[Callable[..., Live]]:
    """What a process of an app has; several in this one are as good as several processes."""
    made: list[Live] = []

    def make(**settings: Any) -> Live:
        made.append(Live(Settings(**{"namespace": namespace, "publish_timeout": 20.0, **settings})))
        return made[-1]

    yield make
    for live in made:
        live.close()


@pytest.fixture
def io_uring() -> None:
    """It can be used here."""
    try:
        Ring().close()
    except OSError as error:
        pytest.skip(f"there is no io_uring here: {error}")


@pytest.fixture(params=["one by one", "many at a time"])
def sent_one_by_one_and_many_at_a_time(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a hub sends to all that follow the same, be it a single one."""
    if request.param == "one by one":
        monkeypatch.setattr(sending, "MANY", 1 << 30)
        return
    request.getfixturevalue("io_uring")
    monkeypatch.setattr(sending, "MANY", 1)


@pytest.fixture
def no_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were no test that runs."""
    monkeypatch.delitem(sys.modules, "pytest")
