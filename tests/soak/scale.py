"""How much of the long tests is done: all of it, or the part that the variable SOAK says, as in ``SOAK=0.05``."""

from __future__ import annotations

import os

SCALE = float(os.environ.get("SOAK", "1"))


def scaled(count: float, least: float = 1) -> int:
    """So many, or a part of it."""
    return round(max(least, count * SCALE))
