"""What a failing test shows beside its traceback: the log of a server, the console of a browser, a screenshot."""

from __future__ import annotations

from collections.abc import Callable

import pytest

EVIDENCE = pytest.StashKey[list[tuple[str, Callable[[], str]]]]()


def add_evidence(node: pytest.Item | pytest.Collector, title: str, text: Callable[[], str]) -> None:
    """Have ``text()`` shown under ``title`` when a test of this node, or below it, fails."""
    node.stash.setdefault(EVIDENCE, []).append((title, text))
