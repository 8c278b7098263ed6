"""Whose rights were taken away a while ago: a viewer whose view was still at work then may not have been told of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_LONGEST_VIEW = 300.0  # seconds that a view may take, and a revocation meanwhile is not overlooked


class Revocations:
    """Channels and owners, each with the clock time of its last revocation."""

    def __init__(self) -> None:
        self._at: dict[tuple[str, str], float] = {}  # (channel, "") or ("", owner); the last stands last

    def add(self, names: Iterable[str], owner: str | None, now: float) -> None:
        """Takes note of one."""
        self.forget(now)
        for key in _keys(names, owner):
            self._at.pop(key, None)
            self._at[key] = now

    def concern(self, asked: float, names: Iterable[str], owner: str) -> bool:
        """Whether there was one since a viewer's request came, at clock time `asked`."""
        return any(asked < self._at.get(key, asked) for key in _keys(names, owner))

    def forget(self, now: float) -> None:
        """Forgets those that no view can have overlooked."""
        while self._at and now - next(iter(self._at.values())) > _LONGEST_VIEW:
            del self._at[next(iter(self._at))]


def _keys(names: Iterable[str], owner: str | None) -> Iterator[tuple[str, str]]:
    yield from ((name, "") for name in names)
    if owner is not None:
        yield "", owner
