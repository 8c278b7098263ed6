"""Runs all tests that take no hours: those of each browser, those that mostly wait, and the rest, all at once.

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
RUNS = [
    *(["-m", f"{name} and not soak"] for name in BROWSERS),
    ["-m", NO_BROWSER, *WAITING],
    ["-m", NO_BROWSER, *(f"--ignore={folder}" for folder in WAITING)],
]


def main(arguments: list[str]) -> int:
    """Runs pytest, each time with these arguments too; returns the greatest exit status."""
    with tempfile.TemporaryDirectory() as folder:
        started: dict[Path, subprocess.Popen[bytes]] = {}
        for number, chosen in enumerate(RUNS):
            log = Path(folder, str(number))
            with log.open("wb") as output:
                command = [sys.executable, "-m", "pytest", *chosen, *arguments]
                started[log] = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            for log, process in started.items():
                process.wait()
                sys.stdout.buffer.write(log.read_bytes())
                sys.stdout.flush()
        finally:  # also at Ctrl-C, which they hear themselves: they have servers and browsers to close
            statuses = [process.wait() for process in started.values()]
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
