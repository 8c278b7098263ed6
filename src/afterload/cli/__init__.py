"""The command line: one module a command."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version

from . import demo, follow, hub, publish, run, status

_OPTION = re.compile(r"--?[A-Za-z]|--$")


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
    hub.add_parser(commands)
    status.add_parser(commands)
    publish.add_parser(commands)
    follow.add_parser(commands)
    chosen, rest = parser.parse_known_args(arguments)
    # argparse takes no more words behind an option that stands between them.
    late = getattr(chosen, "late", None)
    if rest and (late is None or any(map(_OPTION.match, rest))):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if not hasattr(chosen, "run"):
        parser.print_help(sys.stderr)
        return 2  # what argparse gives for a wrong command line
    if late is not None:
        late.extend(rest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not have all that is shown
    try:
        ended: int = chosen.run(chosen)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter complains when it ends
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return ended


if __name__ == "__main__":
    sys.exit(main())
