"""How far a page has got. Opaque to clients: they send back what they were given."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from .errors import PositionError

MAX_LENGTH = 128
_EPOCH = re.compile(r"[A-Za-z0-9_~-]{1,64}", re.ASCII)
# Which of the page's channels it was served with, as the bits of a number; and behind that a check of their names.
_PAINTED = re.compile(r"([1-9a-f][0-9a-f]*)([0-9a-f]{3})", re.ASCII)
# One spelling for each position, so that two of them are the same if and only if their texts are.
_FORM = re.compile(rf"({_EPOCH.pattern})\.(0|[1-9][0-9]{{0,17}})(?:(~)((?:{_PAINTED.pattern})?))?", re.ASCII)
_OFFSETS = 10**18


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a log.

    Attributes:
        epoch: which life of which log, 1 to 64 of ``A-Z a-z 0-9 _ ~ -``; for a private loop its key.
        offset: everything up to this entry has been applied; from 0, below 10**18.
        rendered: the page was served at this place and nothing has been applied to it.
        painted: which of its channels it was served with, as `with_painted` writes it; "" for none.

    Raises:
        PositionError: epoch, offset or painted are not of these, or the whole is longer than 128 characters.

    Example:
        >>> Position.parse("e1.12~")
        Position(epoch='e1', offset=12, rendered=True, painted='')
        >>> str(Position("e1", 12))
        'e1.12'
    """

    epoch: str
    offset: int
    rendered: bool = False
    painted: str = ""

    def __post_init__(self) -> None:
        if _EPOCH.fullmatch(self.epoch) is None:
            raise PositionError(str(self), "an epoch is 1 to 64 of A-Z a-z 0-9 _ ~ -")
        if not 0 <= self.offset < _OFFSETS:
            raise PositionError(str(self), "an offset is from 0 and below 10**18")
        if self.painted:
            if not self.rendered or _PAINTED.fullmatch(self.painted) is None:
                raise PositionError(
                    str(self), "what was painted is 4 or more of 0-9 a-f, of a page as served"
                )
            if len(str(self)) > MAX_LENGTH:
                raise PositionError(str(self), f"it is longer than {MAX_LENGTH} characters")

    def __str__(self) -> str:
        return f"{self.epoch}.{self.offset}{'~' if self.rendered else ''}{self.painted}"

    def with_painted(self, names: Sequence[str], painted: Collection[str]) -> Position:
        """The same of a page whose HTML shows everything that these of its channels have brought up to here.

        Args:
            names: all that it follows, in the order of its view.
            painted: those of them that it shows.

        Where a page follows so many channels that this could not be said, it says of none.

        Example:
            >>> position = Position("e1", 12, rendered=True).with_painted(["orders", "clock"], ["clock"])
            >>> position.painted_of(["orders", "clock"])
            frozenset({'clock'})
        """
        bits = sum(1 << i for i, name in enumerate(names) if name in painted)
        if not bits:
            return self
        try:
            return replace(self, rendered=True, painted=f"{bits:x}{_check(names)}")
        except PositionError:
            return self

    def painted_of(self, names: Sequence[str]) -> frozenset[str]:
        """Which of these channels the page shows; none if the page was served with others."""
        if not self.painted or self.painted[-3:] != _check(names):
            return frozenset()
        bits = int(self.painted[:-3], 16)
        return frozenset(name for i, name in enumerate(names) if bits >> i & 1)

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
        return cls(match[1], int(match[2]), bool(match[3]), match[4] or "")


def _check(names: Sequence[str]) -> str:
    # A view may name other channels when it runs again. That is no attack; twelve bits find it.
    return f"{zlib.crc32(chr(0).join(names).encode()) & 0xFFF:03x}"
