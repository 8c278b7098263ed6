"""Runs all tests that take no hours: those that mostly wait beside the rest, and then those of all browsers at once.

What each run has written is shown when it has ended.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.browser.fixtures import BROWSERS

NO_BROWSER = " and ".join(f"not {name}" for name in (*BROWSERS, "soak"))
# Where they mostly wait: for servers, sandboxes and commands to start, and to end.
WAITING = ["tests/cli", "tests/deploy", "tests/servers"]
STAGES = [
    [
        ["-m", NO_BROWSER, *WAITING],
        ["-m", NO_BROWSER, *(f"--ignore={folder}" for folder in WAITING)],
    ],
    [["-m", f"{name} and not soak"] for name in BROWSERS],
]


def main(arguments: list[str]) -> int:
    """Runs pytest, each time with these arguments too; returns the greatest exit status."""
    return max([status for stage in STAGES for status in at_once([[*run, *arguments] for run in stage])])


def at_once(runs: list[list[str]]) -> list[int]:
    """The exit statuses of several runs."""
    with tempfile.TemporaryDirectory() as folder:
        started: dict[Path, subprocess.Popen[bytes]] = {}
        for number, arguments in enumerate(runs):
            log = Path(folder, str(number))
            with log.open("wb") as output:
                command = [sys.executable, "-m", "pytest", *arguments]
                started[log] = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            for log, process in started.items():
                process.wait()
                sys.stdout.buffer.write(log.read_bytes())
                sys.stdout.flush()
        finally:  # also at Ctrl-C, which they hear themselves: they have servers and browsers to close
            statuses = [process.wait() for process in started.values()]
    return statuses


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
