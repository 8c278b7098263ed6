"""What the commands that serve pages share: their options, the listener, and the server behind it."""

from __future__ import annotations

import argparse
import errno
import logging
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from werkzeug.serving import BaseWSGIServer


class CannotListenError(Exception):
    """The address cannot be listened on; the message says which and why."""


def add_address(parser: argparse.ArgumentParser, port: int) -> None:
    """Adds ``--host`` and ``--port``."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port",
        type=_port,
        default=port,
        help="port to listen on, 0 for a free one (default: %(default)s)",
    )


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:9]) <= 65535):
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def in_url(host: str) -> str:
    """The host as a URL has it."""
    return f"[{host}]" if ":" in host else host


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        CannotListenError: there is none to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        raise CannotListenError(f"cannot listen on {in_url(host)}:{port}: {_why(error)}") from error


def server_on(listener: socket.socket, host: str, app: Any) -> BaseWSGIServer:
    """A server of the app on a listening socket, which it takes over."""
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with listener:
        return make_server(host, listener.getsockname()[1], app, threaded=True, fd=listener.fileno())


def _why(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "this is no host name"
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; choose another with --port"
    # create_server() adds the address to it
    return (error.strerror or str(error)).partition(" (while")[0]
