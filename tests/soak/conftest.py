"""The table of what the deploys came to, at the end of the run."""

from __future__ import annotations

import dataclasses

import pytest

from tests.soak.cafe import Figures

_TABLE = pytest.StashKey[list[Figures]]()


@pytest.fixture
def table(request: pytest.FixtureRequest) -> list[Figures]:
    """What is put here is shown when all tests have run."""
    return request.config.stash.setdefault(_TABLE, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(_TABLE, [])
    if not figures:
        return
    rows = [[str(value) for value in dataclasses.astuple(one)] for one in figures]
    rows.insert(0, [field.name for field in dataclasses.fields(Figures)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section("deploys")
    for first, *others in rows:
        right = [cell.rjust(width) for cell, width in zip(others[:-1], widths[1:-1], strict=True)]
        terminalreporter.write_line("  ".join([first.ljust(widths[0]), *right, others[-1]]).rstrip())
