"""The hub's door, as several files here have it."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from afterload.errors import HubError
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
