"""How far a page has got. Opaque to clients: they send back what they were given."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import PositionError

MAX_LENGTH = 128
_EPOCH = re.compile(r"[A-Za-z0-9_~-]{1,64}", re.ASCII)
# One spelling for each position, so that two of them are the same if and only if their texts are.
_FORM = re.compile(rf"({_EPOCH.pattern})\.(0|[1-9][0-9]{{0,17}})(~?)", re.ASCII)
_OFFSETS = 10**18


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a log.

    Attributes:
        epoch: which life of which log, 1 to 64 of ``A-Z a-z 0-9 _ ~ -``; for a private loop its key.
        offset: everything up to this entry has been applied; from 0, below 10**18.
        rendered: the page was served at this place and nothing has been applied to it.

    Raises:
        PositionError: epoch or offset are not of these.

    Example:
        >>> Position.parse("e1.12~")
        Position(epoch='e1', offset=12, rendered=True)
        >>> str(Position("e1", 12))
        'e1.12'
    """

    epoch: str
    offset: int
    rendered: bool = False

    def __post_init__(self) -> None:
        if _EPOCH.fullmatch(self.epoch) is None:
            raise PositionError(str(self), "an epoch is 1 to 64 of A-Z a-z 0-9 _ ~ -")
        if not 0 <= self.offset < _OFFSETS:
            raise PositionError(str(self), "an offset is from 0 and below 10**18")

    def __str__(self) -> str:
        return f"{self.epoch}.{self.offset}{'~' if self.rendered else ''}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """The position that a client sent; None where it says that it has none ("" or "0").

        For every position that we made, ``str(Position.parse(text)) == text``.

        Raises:
            PositionError: it is longer than 128 characters, or malformed.

        Example:
            >>> Position.parse("0") is None
            True
        """
        if text in ("", "0"):
            return None
        if len(text) > MAX_LENGTH:
            raise PositionError(text, f"it is longer than {MAX_LENGTH} characters")
        match = _FORM.fullmatch(text)
        if match is None:
            raise PositionError(text, "it is epoch.offset, of the characters A-Z a-z 0-9 . _ ~ -")
        return cls(match[1], int(match[2]), bool(match[3]))
