"""The table behind a page: numbered rows in a file, so that they are there after a restart."""

from __future__ import annotations

import os
import threading
from pathlib import Path


class Table:
    """All rows, in their order.

    Attributes:
        last: the number of the newest.
    """

    def __init__(self) -> None:
        self._path = Path(os.environ["BENCH_TABLE"])
        self._lock = threading.Lock()
        self.last = len(self.all())

    def all(self) -> list[int]:
        return [int(line) for line in self._path.read_text().split()]

    def add(self, number: int) -> bool:
        """Adds a row; not once more, where who adds it was not told that it is there."""
        with self._lock:
            if number <= self.last:
                return False
            with self._path.open("a") as file:
                file.write(f"{number}\n")
            self.last = number
            return True
