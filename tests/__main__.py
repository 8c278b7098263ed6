"""Runs all tests that need no browser and take no hours: those that mostly wait, and the rest, both at once."""

from __future__ import annotations

import sys

from tests.at_once import at_once

NEITHER = ["-m", "not chromium and not firefox and not webkit and not soak"]
# Where they mostly wait: for servers, sandboxes and commands to start, and to end.
WAITING = ["tests/cli", "tests/deploy", "tests/servers"]

if __name__ == "__main__":
    rest = [f"--ignore={folder}" for folder in WAITING]
    sys.exit(at_once([*NEITHER, *WAITING, *sys.argv[1:]], [*NEITHER, *rest, *sys.argv[1:]]))
