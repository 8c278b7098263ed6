"""The hub's door, as several files here have it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hub.door import Door, descriptors
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
