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
def no_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were no test that runs."""
    monkeypatch.delitem(sys.modules, "pytest")
