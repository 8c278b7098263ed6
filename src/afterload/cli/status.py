"""``afterload status``: the hubs of this user, and what they say of themselves."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import HubError
from .hubs import CommandError, add_namespace, complain, named, none_runs, own, plain

_CHANNELS = 20  # that are shown
_LONGEST = 80  # characters of a name or a title that are shown
_TIMEOUT = 5.0  # seconds that a hub has to answer
# What is no counter.
_PRESENT = frozenset(
    "behind channels epoch hub lag loops_offered loops_run namespace pid processes published title uptime version "
    "viewers".split()
)


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "status",
        help="show the hubs that run, and what they hold",
        description="Shows the hubs of this user on this host, or the one that is named: its processes, viewers, "
        "channels and loops, and its counters. The exit status is 1 if there is none, or one does not answer.",
    )
    add_namespace(parser)
    parser.add_argument(
        "--json", action="store_true", help="the same for a program: a list with an object a hub"
    )
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Shows them."""
    try:
        name = named(chosen)
    except CommandError as error:
        complain("status", error)
        return error.status
    found, failed = [], False
    for namespace in [name] if name else own():
        try:
            found.append(_ask(namespace))
        except HubError as error:
            complain("status", error)
            failed = True
    hubs = [hub for hub in found if hub is not None]
    if chosen.json:
        print(json.dumps(hubs, indent=2))
    else:
        print("\n\n".join("\n".join(_lines(hub)) for hub in hubs), end="\n" if hubs else "")
    if not hubs and not failed:
        complain("status", none_runs(name))
    return int(failed or not hubs)


def _ask(namespace: str) -> dict[str, Any] | None:
    """What a hub says; None if there is none."""
    from ..hub.calls import Calls, Gone

    calls = Calls(namespace, _TIMEOUT)
    try:
        stats: dict[str, Any] = calls.call("stats")
    except Gone:
        return None
    finally:
        calls.close()
    return stats


def _lines(hub: dict[str, Any]) -> Iterator[str]:
    yield plain(hub["namespace"])
    processes = {hub["pid"]: hub["title"]} | {p["pid"]: p["title"] for p in hub["processes"]}
    what = "thread of process" if hub["hub"] == "thread" else "process"
    yield _row("hub", f"{what} {_process(hub['pid'], hub['title'])}, up {duration(hub['uptime'])}")
    rows = [
        (str(p["pid"]), p["title"], duration(p["seconds"]), f"{p['viewers']:,}", f"{p['loops']:,}")
        for p in hub["processes"]
    ]
    yield _row("processes", f"{len(rows)}")
    if rows:
        yield from _table([("pid", "title", "for", "own viewers", "loops"), *rows])
    late = f"; {hub['behind']:,} behind, the longest for {duration(hub['lag'])}" if hub["behind"] else ""
    yield _row("viewers", f"{hub['viewers']:,}{late}")
    yield _row("published", f"{hub['published']:,}")
    yield from _channels(hub["channels"])
    yield from _loops(hub, processes)
    yield _row("counters", "")
    counters = sorted((name, value) for name, value in hub.items() if name not in _PRESENT)
    yield from _table([(name, f"{value:,}") for name, value in counters if isinstance(value, int)])


def _channels(channels: dict[str, Any]) -> Iterator[str]:
    yield _row("channels", f"{len(channels):,}")
    most = sorted(channels.items(), key=lambda item: (-item[1]["viewers"], item[0]))
    head = ("name", "viewers", "entries", "status", "state bytes")
    rows = [
        (name, f"{c['viewers']:,}", f"{c['entries']:,}", c["status"], f"{c['state_bytes']:,}")
        for name, c in most[:_CHANNELS]
    ]
    if rows:
        yield from _table([head, *rows])
    if len(most) > _CHANNELS:
        yield f"    and {len(most) - _CHANNELS:,} more"


def _loops(hub: dict[str, Any], processes: dict[int, str]) -> Iterator[str]:
    names = sorted({*hub["loops_offered"], *hub["loops_run"]})
    yield _row("loops", f"{len(names):,}")
    rows = []
    for name in names:
        channel = hub["channels"].get(name, {"viewers": 0, "status": "open"})
        if name in hub["loops_run"]:
            pid = hub["loops_run"][name]
            said = f"run by process {_process(pid, processes.get(pid, ''))}"
        elif channel["status"] != "open":
            said = f"ended: {channel['status']}"
        else:
            said = "no process has room for it" if channel["viewers"] else "nobody watches"
        rows.append((name, said))
    yield from _table(rows)


def _process(pid: int, title: str) -> str:
    return f"{pid} ({_cut(title)})" if title else f"{pid}"


def _row(name: str, value: str) -> str:
    return f"  {name:11}{plain(value)}".rstrip()


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    shown = [[_cut(plain(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = [
            cell.rjust(width) if cell.replace(",", "").isdecimal() and column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"    {'  '.join(cells)}".rstrip()


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def duration(seconds: float) -> str:
    """A time for people, by its two greatest units.

    Example:
        >>> duration(0.25), duration(75.2), duration(7300), duration(200_000)
        ('0.2 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = max(60, int(seconds))
    for unit, small, size, part in (("d", "h", 86_400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {small}"
    raise AssertionError(seconds)
