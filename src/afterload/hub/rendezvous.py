"""Where the processes of a namespace meet: an abstract Unix socket, named by user and namespace.

To bind one is atomic, and it dies with its owner, however that ends: so whoever binds it *is* the hub, and there is no
file that a crash could leave behind, or that a read-only file system forbids. Any user of the host may bind any such
name, so both sides look at who the other one is (https://man7.org/linux/man-pages/man7/unix.7.html, SO_PEERCRED).
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import sys
import weakref
from pathlib import Path

from ..errors import HubError

POSSIBLE = sys.platform.startswith("linux")
_PREFIX = "afterload"
_BACKLOG = 512
_UCRED = struct.Struct("3i")
_TABLE = "/proc/net/unix"  # of this network namespace, which is what abstract names belong to


def default_namespace(name: str, root: str) -> str:
    """The namespace of an app that names none: it is met by those with the same code at the same place.

    Example:
        >>> default_namespace("shop.web", "/srv/shop")
        'shop.web-edeabb3ecb'
    """
    place = f"{name}\0{os.path.realpath(root)}"
    known = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
    return f"{known[:50]}-{hashlib.sha256(place.encode()).hexdigest()[:10]}"


def address(namespace: str, uid: int | None = None) -> str:
    """The socket's address; of this process's user unless another is named."""
    return f"\0{_PREFIX}/{os.geteuid() if uid is None else uid}/{namespace}"


def bind(namespace: str, purpose: str = "") -> socket.socket | None:
    """Takes the place of a namespace; None where another process has it.

    Args:
        namespace: whose.
        purpose: of a second place beside it.
    """
    sock = _made(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        sock.bind(address(namespace) + purpose)
        if not purpose:
            sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        return None
    return sock


def connect(namespace: str, timeout: float) -> socket.socket | None:
    """A connection to who has the place; None where nobody has it.

    Raises:
        HubError: it is another user's, or there is no answer.
    """
    sock = _made(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        # A timeout of Python's makes it non-blocking underneath, and so it would fail at once where many wait.
        seconds = struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
        sock.connect(address(namespace))
        sock.settimeout(timeout)
        uid = peer(sock)[1]
        if uid != os.geteuid():
            raise HubError(
                f"the place of namespace {namespace!r} is held by user {uid}, and this process is of user "
                f"{os.geteuid()}: another user has taken its name",
                namespace=namespace,
            )
    except ConnectionRefusedError:
        sock.close()
        return None
    except HubError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise HubError(
            f"the hub of namespace {namespace!r} does not answer: {error}", namespace=namespace
        ) from error
    return sock


def peer(sock: socket.socket) -> tuple[int, int]:
    """Process and user at the other end."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(raw)
    return pid, uid


def present() -> list[tuple[int, str]]:
    """All hubs of this host (or container), of any user: user id and namespace of each."""
    try:
        lines = Path(_TABLE).read_text(errors="replace").splitlines()[1:]
    except OSError:
        return []
    found = set()
    for line in lines:
        name = line.split(" ", 7)[-1].split()[-1] if line.split() else ""
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == "@" + _PREFIX and parts[1].isdigit() and ":" not in parts[2]:
            found.add((int(parts[1]), parts[2]))
    return sorted(found)


def others(namespace: str) -> str:
    """What to say where nobody of this user has the place, but somebody else has it; else ""."""
    uids = [uid for uid, name in present() if name == namespace and uid != os.geteuid()]
    if not uids:
        return ""
    return (
        f"the hub of namespace {namespace!r} is of user {uids[0]}, and this process is of user {os.geteuid()}: "
        "run it as the same user"
    )


_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _made(sock: socket.socket) -> socket.socket:
    _sockets.add(sock)
    return sock


def _in_child() -> None:
    """A fork must not hold its parent's place, nor its connections: their end is what says that a process is gone."""
    for sock in list(_sockets):
        sock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
