"""The command line: one module a command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from . import demo, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``afterload COMMAND ...``; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="afterload",
        description="Write the Python loop once; every page that is already open follows it, in place.",
    )
    parser.add_argument("--version", action="version", version=f"afterload {version('afterload')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    demo.add_parser(commands)
    run.add_parser(commands)
    chosen = parser.parse_args(arguments)
    if not hasattr(chosen, "run"):
        parser.print_help(sys.stderr)
        return 2  # what argparse gives for a wrong command line
    status: int = chosen.run(chosen)
    return status


if __name__ == "__main__":
    sys.exit(main())
