"""What every test may use: real servers, evidence beside a failure, and no silent skips in CI.

A failing test shows, beside its traceback, what its fixtures have put into its evidence: the log of a
server, the console of a browser, the path of a screenshot. A failure should not need a second run to be read.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from tests.browser.fixtures import (
    browser,
    console,
    open_page,
    open_scriptless,
    page,
    scriptless,
    scriptless_page,
)
from tests.evidence import EVIDENCE, add_evidence
from tests.servers.process import Server, Servers

__all__ = [  # the fixtures
    "browser",
    "console",
    "open_page",
    "open_scriptless",
    "page",
    "scriptless",
    "scriptless_page",
]


@pytest.fixture
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Starts real server processes; ends them after the test, and shows their logs when it failed."""
    yield from _servers(request.node, tmp_path_factory)


@pytest.fixture(scope="module")
def module_servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """The same for servers that all tests of a module share."""
    yield from _servers(request.node, tmp_path_factory)


def _servers(
    node: pytest.Item | pytest.Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    def show(server: Server) -> None:
        add_evidence(node, f"log of {server.name}", server.log)

    with Servers(tmp_path_factory.mktemp("servers"), on_start=show) as started:
        yield started


def pytest_itemcollected(item: pytest.Item) -> None:
    if name := _browser(item):
        item.add_marker("browser")
        item.add_marker(name)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The quick ones first: what is wrong is known as soon as can be. Then one browser after the other.
    items.sort(
        key=lambda item: (
            item.get_closest_marker("browser") is not None,
            _browser(item),
            item.get_closest_marker("server") is not None,
        )
    )


def _browser(item: pytest.Item) -> str:
    """The name of the browser that it runs in, or nothing."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return str(parameters.get("browser", parameters.get("scriptless", "")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _forbid_skip(report)
    if report.failed:
        for node in item.listchain():
            for title, text in node.stash.get(EVIDENCE, []):
                try:
                    report.sections.append((title, text()))
                except Exception as exception:  # the evidence must not hide the failure it belongs to
                    report.sections.append((title, f"(not to be had: {exception!r})"))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        _forbid_skip(report)
    return report


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI everything is installed, so a test that is skipped there is a test nobody runs."""
    if os.environ.get("CI") != "true":
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{reason}\nA skipped test is a failure when CI=true."
