"""Runs the tests in browsers, each browser in a process of its own, all at once: they mostly wait."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.browser.fixtures import BROWSERS


def main() -> int:
    """The greatest exit status; what each has written is shown when it has ended."""
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[Path, subprocess.Popen[bytes]] = {}
        for name in BROWSERS:
            command = [sys.executable, "-m", "pytest", "-m", f"{name} and not soak", *sys.argv[1:]]
            log = Path(folder, name)
            with log.open("wb") as output:
                runs[log] = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            for log, process in runs.items():
                process.wait()
                sys.stdout.buffer.write(log.read_bytes())
                sys.stdout.flush()
        finally:  # also at Ctrl-C, which they hear themselves: they have browsers to close
            statuses = [process.wait() for process in runs.values()]
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
