"""The text of a response that is written while it is sent, as by a streamed template: as it is, and nothing else."""

from __future__ import annotations

import math

from ..blocks import Hello
from ..log import Piece, Step

NAME = "text"
HEARTBEAT = math.inf
LASTS = False
ONCE = False
ENDING = b""


def hello(hello: Hello) -> bytes:
    """Nothing."""
    return b""


def step(step: Step, epoch: str) -> bytes:
    """The pieces of a step of a log's answer."""
    return b"".join([item.data for item in step.items if isinstance(item, Piece)])


def ping(id: str) -> bytes:
    """Nothing: there is no place in a text that is safe for it."""
    return b""


def bye(retry: int) -> bytes:
    """Nothing, as for `ping`: the text is cut."""
    return b""
