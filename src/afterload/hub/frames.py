r"""What processes say to a hub and it to them: frames of JSON on a Unix stream socket.

::

    b"al"  version (1 byte)  descriptors (1 byte)  length (4 bytes, big-endian)  length bytes of JSON, an object

The version is in every frame, so that whoever speaks another one is told so, whatever it says first. Frames are
bounded, and what is none ends the connection it came by and nothing else.
"""

from __future__ import annotations

import array
import json
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import AfterloadError

VERSION = 2
LONGEST = 16 * 1024 * 1024  # bytes of one frame's JSON: what a publish may carry
_MAGIC = b"al"
_HEAD = struct.Struct("!2sBBI")
_STEP = 262_144  # bytes of one read
_FD = array.array("i").itemsize
_MSG_CMSG_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

Message = dict[str, Any]


class FrameError(AfterloadError, ValueError):
    """The peer says something that is no frame.

    Attributes:
        version: the version it speaks, where that is what is wrong; else 0.
    """

    def __init__(self, message: str, version: int = 0) -> None:
        super().__init__(message)
        self.version = version


def frame(message: Message, descriptors: int = 0) -> bytes:
    r"""One frame.

    Args:
        message: what it says.
        descriptors: how many file descriptors are sent along with its first byte.

    Raises:
        FrameError: it is longer than `LONGEST`.

    Example:
        >>> frame({"say": "hello"})
        b'al\x02\x00\x00\x00\x00\x0f{"say":"hello"}'
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > LONGEST:
        raise FrameError(f"{len(body):,} bytes are more than the {LONGEST:,} that one message may have")
    return _HEAD.pack(_MAGIC, VERSION, descriptors, len(body)) + body


class Frames:
    """Bytes to messages: the same however the bytes are split.

    Example:
        >>> frames = Frames()
        >>> data = frame({"say": "hello"})
        >>> list(frames.feed(data[:5])), list(frames.feed(data[5:]))
        ([], [({'say': 'hello'}, 0)])
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Message, int]]:
        """Takes bytes; gives the messages that they complete, each with how many descriptors belong to it.

        Raises:
            FrameError: they are no frame. Nothing that comes behind can be read then.
        """
        rest = self._rest
        rest += data
        while len(rest) >= _HEAD.size:
            magic, version, descriptors, length = _HEAD.unpack_from(rest)
            if magic != _MAGIC:
                raise FrameError(f"{bytes(rest[:8])!r} begins no frame")
            if version != VERSION:
                raise FrameError(f"version {version} is spoken there, and {VERSION} here", version)
            if length > LONGEST:
                raise FrameError(f"a frame of {length:,} bytes is longer than {LONGEST:,}")
            end = _HEAD.size + length
            if len(rest) < end:
                return
            body = bytes(rest[_HEAD.size : end])
            del rest[:end]
            try:
                message = json.loads(body)
            except (ValueError, RecursionError) as error:
                raise FrameError(f"a frame's content is no JSON: {error}") from error
            if not isinstance(message, dict):
                raise FrameError(f"a frame's content is an object, not {type(message).__name__}")
            yield message, descriptors


def receive(sock: socket.socket, descriptors: deque[int]) -> bytes:
    """Reads what there is, and the descriptors that came along.

    Returns:
        The bytes; none at the end of the connection.

    Raises:
        FrameError: descriptors were lost, as there is no room for them here. Which message one is missing of cannot be
            known, and no viewer may be taken for another: the connection is of no use any more.
        OSError: of the socket.
    """
    data, ancillary, flags, _ = sock.recvmsg(_STEP, socket.CMSG_SPACE(16 * _FD), _MSG_CMSG_CLOEXEC)
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found = array.array("i")
            found.frombytes(raw[: len(raw) - len(raw) % _FD])
            descriptors.extend(found)
    if flags & socket.MSG_CTRUNC:
        raise FrameError("descriptors were lost on the way, as there is no room for more")
    return data


def rights(descriptor: int | None) -> list[tuple[int, int, array.array[int]]]:
    """What `socket.sendmsg` sends along for a descriptor."""
    if descriptor is None:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]


def title() -> str:
    """What this process is, for people: its command."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return " ".join([name, *sys.argv[1:]])[:200]
