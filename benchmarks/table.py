"""A measured figure beside its target, and all of them as Markdown: for `docs`, and for the README."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

PACKAGES = ("flask", "gunicorn", "gevent", "uvicorn", "starlette", "sse-starlette")


@dataclass
class Row:
    """One line of the table.

    Attributes:
        what: what was measured.
        target: what it should be, in words; empty for a figure that is only shown.
        measured: what it was, in words.
        met: None where there is no target.
        details: every number behind it.
        short: `measured` for who wants the outcome only; empty if it is short enough.
        scenario: the name of what has measured it.
    """

    what: str
    target: str
    measured: str
    met: bool | None
    details: dict[str, Any] = field(default_factory=dict)
    short: str = ""
    scenario: str = ""


class NoBlockError(ValueError):
    """A file has no place for the table; the text says what is missing."""


def machine() -> dict[str, str]:
    """What the figures depend on."""
    facts = {
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release().split("-")[0],
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }
    for name in ("afterload", *PACKAGES):
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
    return facts


def machine_line(facts: Mapping[str, str]) -> str:
    # What runs beside makes times longer, and ratios a little less exact; whoever reads the figures must know.
    busy = float(facts["others"]) >= 0.2
    others = f" (and by **other programs, which used {facts['others']} of them**)" if busy else ""
    packages = ", ".join(f"{name} {facts[name]}" for name in PACKAGES)
    return (
        f"{facts['cores']} cores ({facts['architecture']}) shared by the server and the load on it{others}, "
        f"Linux {facts['kernel']}, Python {facts['python']}, {packages}"
    )


def cell(text: str) -> str:
    """Text as a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def markdown(rows: Sequence[Row], facts: Mapping[str, str], *, short: bool = False, note: str = "") -> str:
    """The table, and what it was measured on."""
    lines = ["| what | target | measured | met |", "|---|---|---|---|"]
    for row in rows:
        met = {True: "yes", False: "**no**", None: "–"}[row.met]
        measured = row.short if short and row.short else row.measured
        lines.append(f"| {cell(row.what)} | {cell(row.target) or '–'} | {cell(measured)} | {met} |")
    return "\n".join([*lines, "", f"{note}Measured on {machine_line(facts)}."])


def as_json(rows: Sequence[Row], facts: Mapping[str, str], **more: Any) -> dict[str, Any]:
    return {**more, "machine": facts, "rows": [asdict(row) for row in rows]}


PAGE = """\
# Benchmarks

<!-- Written by `./dev bench --write`; not to be edited. -->

What holding many pages open costs, each figure beside what it should be. `./dev bench` measures them again on
your machine, in about {minutes} minutes; `./dev bench quick` gives a rough first look, with fewer viewers.

{table}

A target that is missed says **no**. Figures move by some per cent from run to run.

## How it is measured

- Servers are real ones, each in a process of its own, with one worker where nothing else is said. Viewers are
  loopback connections of a load generator written in C, so that both fit on one small machine. They are plain
  clients, not browsers; only `browsers` has real ones.
- CPU is what the operating system has accounted to the worker process, for everything it does: the requests
  that publish, the hub, the kernel's part of each send. Where the hub is a process of its own, both are said.
- **The C loop** is `benchmarks/send.c`: `send()` in a `for`, the same {block} bytes to as many connections.
  Nothing that sends to each connection can be cheaper, and the kernel's work is the same for all, so a ratio to
  it says what the Python costs. Every ratio, to it or to the peer that is named, is taken within one run, in turns,
  in the order A B B A or A B C B C A, as who follows itself is at an advantage; the figure is the median.
- At the end of each turn every viewer must be there and have the last value, or the scenario has failed. Where
  values were merged, or the load generator had no time left, the line says so.
- Loopback has no network behind it: what TLS, a proxy or a slow line add is not in these figures.

## What each line says

{scenarios}
"""


def page(table: str, scenarios: Mapping[str, str], minutes: int, block: int) -> str:
    """All of `docs/benchmarks.md`; `scenarios` are their names with what they say about themselves."""
    texts = [f"### `{name}`\n\n{text}" for name, text in scenarios.items()]
    return PAGE.format(table=table, scenarios="\n\n".join(texts), minutes=minutes, block=block)


BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"


def with_block(text: str, block: str) -> str:
    """The text with the block in place of what is between its two marks.

    Raises:
        NoBlockError: the marks are not there once each, in this order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise NoBlockError(f"it needs one {BEGIN} and, after it, one {END}")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"
