"""Runs the tests in browsers, each browser in a process of its own, all at once."""

from __future__ import annotations

import sys

from tests.at_once import at_once
from tests.browser.fixtures import BROWSERS

if __name__ == "__main__":
    sys.exit(at_once(*(["-m", f"{name} and not soak", *sys.argv[1:]] for name in BROWSERS)))
