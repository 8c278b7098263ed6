"""`python -m benchmarks`: measures, and prints the table; see `--help`."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from . import browsed, documents, fanout, holding, hubs, interruptions, nchan, streams
from .bench import Bench
from .servers import BLOCK
from .system import BenchError, allow_files, busy, ours
from .table import NoBlockError, Row, as_json, machine, markdown, page, with_block

ROOT = Path(__file__).parents[1]
Scenario = Callable[[Bench], Iterator[Row]]

SCENARIOS: dict[str, Scenario] = {
    "cpu": fanout.cpu_per_delivery,
    "peers": fanout.peers,
    "computing": fanout.beside_computing,
    "memory": holding.memory,
    "loops": holding.loops,
    "requests": holding.requests_beside,
    "flood": streams.flood,
    "stalled": streams.stalled,
    "connects": holding.connects,
    "hub": hubs.hub,
    "nchan": nchan.nchan,
    "template": documents.templates,
    "document": documents.documents,
    "browsers": browsed.browsers,
    "interruptions": interruptions.interruptions,
    "client": streams.client,
}
# Those that README shows.
HEADLINES = frozenset({"cpu", "peers", "computing", "memory", "requests", "nchan", "interruptions", "client"})


def describe(scenario: Scenario) -> str:
    """What a scenario says it measures."""
    return inspect.cleandoc(scenario.__doc__ or "")


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    described = (f"{name}\n{textwrap.indent(describe(SCENARIOS[name]), '    ')}" for name in SCENARIOS)
    parser = argparse.ArgumentParser(
        prog="./dev bench",
        description="Measures what holding many pages open costs; prints it beside the targets, in Markdown.",
        epilog="what each NAME measures:\n\n" + "\n\n".join(described),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="only these scenarios; `quick` among them: fewer viewers and rounds, for a first look",
    )
    parser.add_argument("--list", action="store_true", help="print the names of the scenarios")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number behind the table there")
    parser.add_argument(
        "--write",
        action="store_true",
        help="put the table into docs/benchmarks.md, and into README.md between <!-- benchmarks --> and "
        "<!-- /benchmarks -->; needs a full run",
    )
    parser.add_argument("--strict", action="store_true", help="exit status 1 when a target is missed")
    found = parser.parse_args(argv)
    found.quick = "quick" in found.names
    found.names = [name for name in found.names if name != "quick"]
    if unknown := [name for name in found.names if name not in SCENARIOS]:
        parser.error(f"there is no {', '.join(unknown)}; there are: {', '.join(SCENARIOS)}")
    if found.write and (found.quick or found.names):
        parser.error("--write needs a full run: neither `quick` nor names")
    return found


def measure(bench: Bench, scenarios: Iterable[tuple[str, Scenario]]) -> Iterator[Row]:
    """The rows of all scenarios; one that cannot be run is a row that says why, and the others are run."""
    for name, scenario in scenarios:
        print(f"{name}: {describe(scenario).splitlines()[0]}", file=sys.stderr, flush=True)
        try:
            for row in scenario(bench):
                yield replace(row, scenario=name)
        except BenchError as error:
            yield unrun(name, str(error))
        except Exception as error:
            traceback.print_exc()
            yield unrun(name, f"{type(error).__name__}: {error}")


def unrun(name: str, why: str) -> Row:
    """The row of a scenario that could not be run. It counts as a target that was missed."""
    print(f"  {name} could not be run: {why}", file=sys.stderr, flush=True)
    first = describe(SCENARIOS[name]).splitlines()[0] if name in SCENARIOS else name
    return Row(
        first.rstrip("."), "to be measured", f"could not be run: {why}", False, {"unrun": why}, scenario=name
    )


def write(rows: Sequence[Row], facts: dict[str, str], seconds: float) -> None:
    """Puts the rows where they are shown."""
    described = {name: describe(scenario) for name, scenario in SCENARIOS.items()}
    text = page(markdown(rows, facts), described, max(1, round(seconds / 60)), BLOCK)
    (ROOT / "docs" / "benchmarks.md").write_text(text, encoding="utf-8")
    print("wrote docs/benchmarks.md", file=sys.stderr)
    readme = ROOT / "README.md"
    try:
        text = with_block(readme.read_text(encoding="utf-8"), headlines(rows, facts))
    except (NoBlockError, FileNotFoundError) as error:
        print(f"README.md stays as it is: {error}", file=sys.stderr)
    else:
        readme.write_text(text, encoding="utf-8")
        print("wrote README.md", file=sys.stderr)


def headlines(rows: Sequence[Row], facts: dict[str, str]) -> str:
    """What README shows: the rows that say most, and how many of the others are as they should be."""
    others = [row.met for row in rows if row.scenario not in HEADLINES and row.met is not None]
    note = f"Of the other targets, {others.count(True)} of {len(others)} are met. "
    shown = [row for row in rows if row.scenario in HEADLINES]
    return markdown(shown, facts, short=True, note=note)


def main(argv: Sequence[str]) -> int:
    args = arguments(argv)
    if args.list:
        print("\n".join(SCENARIOS))
        return 0
    began, others, rows = time.monotonic(), busy() - ours(), []
    with tempfile.TemporaryDirectory(prefix="afterload-bench-") as directory:
        bench = Bench(Path(directory), allow_files(), quick=args.quick)
        try:
            for row in measure(bench, [(name, SCENARIOS[name]) for name in args.names or SCENARIOS]):
                print(f"  {row.what}: {row.measured}", file=sys.stderr, flush=True)
                rows.append(row)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
    seconds = time.monotonic() - began
    facts = machine() | {"others": f"{(busy() - ours() - others) / seconds:.1f}"}
    note = "A quick run, with fewer viewers: rough figures. " if args.quick else ""
    print(markdown(rows, facts, note=note))
    if args.json:
        found = as_json(rows, facts, arguments=list(argv), seconds=seconds)
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.write:
        write(rows, facts, seconds)
    print(f"took {seconds:.0f} s; meanwhile other programs used {facts['others']} cores", file=sys.stderr)
    failed = any("unrun" in row.details for row in rows)
    missed = any(row.met is False for row in rows)
    return 1 if failed or (args.strict and missed) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
