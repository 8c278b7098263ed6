"""Everything below this directory runs a how-to as it stands, in a pod of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.pod import Pod
from tests.evidence import add_evidence

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("server")


@pytest.fixture
def make_pod(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Pod]]:
    """Makes a pod, with the ports that are to be reached from here; it is closed after the test."""
    with contextlib.ExitStack() as made:

        def make(*ports: int) -> Pod:
            pod = made.enter_context(contextlib.closing(Pod(tmp_path, *ports)))
            add_evidence(request.node, "what ran in the pod", pod.log)
            return pod

        yield make
