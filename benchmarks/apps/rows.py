"""What documents and templates are made of, on all sides alike: numbered rows, at full speed or paced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping


def rows(asked: Mapping[str, str], sleep: Callable[[float], None]) -> Iterator[str]:
    """`count` of them; between two, `interval` seconds of `sleep` if that is asked for."""
    interval = float(asked.get("interval", 0))
    for number in range(int(asked["count"])):
        if interval and number:
            sleep(interval)
        yield f"@{number}@"
