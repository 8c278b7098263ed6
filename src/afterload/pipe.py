"""The text of one response, as a log: kept until its viewer was sent it, and no longer."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from .log import Answer, End, Item, Log, Piece, Step

BURST = 8  # pieces that are sent one by one, each by who has written it
WINDOW = 0.005  # seconds; more than that many in it are joined


class Pipe(Log):
    """A log whose entries are pieces of text, for one viewer; its offsets count bytes.

    Args:
        epoch: see `Log`.

    Attributes:
        begins: the offset up to which it is forgotten.
    """

    __slots__ = ("_burst", "_pieces", "_until", "begins")

    def __init__(self, epoch: str) -> None:
        super().__init__(epoch)
        self.begins = 0
        self._pieces: deque[bytes] = deque()
        self._burst = 0
        self._until = 0.0

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self.head - self.begins

    def write(self, data: bytes) -> None:
        """Adds a piece."""
        self._pieces.append(data)
        self.head += len(data)

    def forget(self, offset: int) -> None:
        """What is before an offset was sent."""
        pieces = self._pieces
        while pieces and self.begins + len(pieces[0]) <= offset:
            self.begins += len(pieces.popleft())
        if pieces and self.begins < offset:
            pieces[0] = pieces[0][offset - self.begins :]
            self.begins = offset

    def is_burst(self, now: float) -> bool:
        """Whether so much is written at once that it is better sent together; asked for each piece."""
        if now >= self._until:
            self._until = now + WINDOW
            self._burst = 0
        self._burst += 1
        return self._burst > BURST

    def connect(
        self,
        names: Sequence[str],
        at: int | None,
        *,
        rendered: bool = False,
        foreign: bool = False,
        painted: Collection[str] = (),
    ) -> Answer:
        """All that there is."""
        return self.news(names, self.begins)

    def news(self, names: Sequence[str], at: int) -> Answer:
        """What comes after an offset."""
        data = b"".join(self._pieces)[at - self.begins :]
        items: list[Item] = [Piece(data)] if data else []
        ends = [End(c.name, c.status, c.message) for c in self.channels.values() if c.ended]
        return Answer((Step((*items, *ends), self.head),), self.head, bool(ends), "")

    def news_key(self, names: Sequence[str], at: int) -> None:
        """None: nobody else gets the same."""
