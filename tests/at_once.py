"""Several runs of pytest at once, as most tests wait for something; what each has written is shown at its end."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def at_once(*runs: Sequence[str]) -> int:
    """Runs pytest with each of these arguments; returns the greatest exit status."""
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
    return max(statuses)
