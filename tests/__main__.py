"""Runs all tests that take no hours, in parts, as they mostly wait: three parts at once keep two processors busy.

What each part has written is shown when it has ended.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.browser.fixtures import BROWSERS

AT_ONCE = 3
NO_BROWSER = " and ".join(f"not {name}" for name in (*BROWSERS, "soak"))
# Of about equal length, each with what is left out of it.
WAITING = [
    "tests/cli",
    "tests/deploy",
    "tests/servers",
]  # for servers, sandboxes and commands to start, and to end
CLIENT = [
    "tests/browser/test_client.py",
    "tests/browser/test_client_wire.py",
    "tests/browser/test_client_wires.py",
]
PARTS = [
    ["-m", NO_BROWSER, *(f"--ignore={folder}" for folder in WAITING)],
    ["-m", NO_BROWSER, *WAITING],
    *(["-m", f"{name} and not soak", *CLIENT] for name in BROWSERS),
    *(["-m", f"{name} and not soak", *(f"--ignore={file}" for file in CLIENT)] for name in BROWSERS),
]


def main(arguments: list[str]) -> int:
    """Runs pytest, each time with these arguments too; returns the greatest exit status."""
    pool = ThreadPoolExecutor(AT_ONCE)
    statuses = []
    try:
        for status, output in pool.map(lambda part: run([*part, *arguments]), PARTS):
            sys.stdout.buffer.write(output)
            sys.stdout.flush()
            statuses.append(status)
    finally:  # Ctrl-C they hear themselves: they have servers and browsers to close, and are waited for
        pool.shutdown(cancel_futures=True)
    return max(statuses)


def run(arguments: list[str]) -> tuple[int, bytes]:
    """The exit status of a run of pytest, and what it has written."""
    command = [sys.executable, "-m", "pytest", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
