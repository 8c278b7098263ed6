"""``afterload demo``: pages to look at, each with its source beside it."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
from typing import Any

PORT = 23423


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("demo", help="serve the demo pages", description="Serves the demo pages.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port",
        type=_port,
        default=PORT,
        help="port to listen on, 0 for a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--data", metavar="DIR", help="where the demo keeps its database (default: a temporary place)"
    )
    parser.set_defaults(run=run)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:9]) <= 65535):
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text!r}")
    return int(text)


def run(chosen: argparse.Namespace) -> int:
    """Serves until Ctrl-C or SIGTERM."""
    if importlib.util.find_spec("flask") is None:
        print("afterload demo needs Flask: pip install 'afterload[flask]'", file=sys.stderr)
        return 1
    if chosen.data:
        os.environ["AFTERLOAD_DEMO_DATA"] = chosen.data
    from werkzeug.serving import make_server

    from ..demo import app, live

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    address = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
    family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
    try:
        listener = socket.create_server((chosen.host, chosen.port), family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        print(f"afterload demo: cannot listen on {address}:{chosen.port}: {_why(error)}", file=sys.stderr)
        return 1
    with listener:
        server = make_server(chosen.host, chosen.port, app, threaded=True, fd=listener.fileno())

    def stop(*_: Any) -> None:
        threading.Thread(target=server.shutdown).start()  # it waits for serve_forever, which runs here

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"afterload demo: http://{address}:{server.port}/   (Ctrl-C ends it)", flush=True)
    server.serve_forever(poll_interval=0.1)
    live.close(timeout=0.8)
    return 0


def _why(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "this is no host name"
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; choose another with --port"
    # create_server() adds the address to it
    return (error.strerror or str(error)).partition(" (while")[0]
