"""How far a page has got. Opaque to clients: they send back what they were given."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import PositionError

MAX_LENGTH = 128
_FORM = re.compile(r"([A-Za-z0-9_~-]{1,64})\.(0|[1-9][0-9]{0,17})(~?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a log.

    Attributes:
        epoch: which life of which log; for a private loop its key.
        offset: everything up to this entry has been applied.
        rendered: the page was served at this place and nothing has been applied to it.

    Example:
        >>> Position.parse("e1.12~")
        Position(epoch='e1', offset=12, rendered=True)
        >>> str(Position("e1", 12))
        'e1.12'
    """

    epoch: str
    offset: int
    rendered: bool = False

    def __str__(self) -> str:
        return f"{self.epoch}.{self.offset}{'~' if self.rendered else ''}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """The position that a client sent; None where it says it has none ("" or "0").

        Raises:
            PositionError: it is longer than 128 characters or malformed.
        """
        if text in ("", "0"):
            return None
        if len(text) > MAX_LENGTH:
            raise PositionError(text, f"longer than {MAX_LENGTH} characters")
        match = _FORM.fullmatch(text)
        if match is None:
            raise PositionError(text, "it is epoch.offset, of the characters A-Z a-z 0-9 . _ ~ -")
        return cls(match[1], int(match[2]), bool(match[3]))
