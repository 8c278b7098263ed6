"""``afterload demo``: pages to look at, each with its source beside it."""

from __future__ import annotations

import argparse
import errno
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
    parser.add_argument("--port", type=_port, default=PORT, help="port to listen on (default: %(default)s)")
    parser.add_argument(
        "--data", metavar="DIR", help="where the demo keeps its database (default: a temporary place)"
    )
    parser.set_defaults(run=run)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"a port is 0 to 65535, not {port}")
    return port


def run(chosen: argparse.Namespace) -> int:
    """Serves until Ctrl-C or SIGTERM."""
    try:
        from werkzeug.serving import make_server
    except ImportError:
        print("afterload demo needs Flask: pip install 'afterload[flask]'", file=sys.stderr)
        return 1
    from ..demo import app, live

    if chosen.data:
        os.environ["AFTERLOAD_DEMO_DATA"] = chosen.data
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
    try:
        listener = socket.create_server((chosen.host, chosen.port), family=family, backlog=128)
    except OSError as error:
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror
        print(f"afterload demo: cannot listen on {chosen.host}:{chosen.port}: {reason}", file=sys.stderr)
        return 1
    server = make_server(chosen.host, chosen.port, app, threaded=True, fd=listener.fileno())
    server.daemon_threads = True  # type: ignore[attr-defined]
    host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
    print(f"afterload demo: http://{host}:{listener.getsockname()[1]}/   (Ctrl-C ends it)", flush=True)

    def stop(*_: Any) -> None:
        threading.Thread(target=server.shutdown).start()  # it waits for serve_forever, which runs here

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server.serve_forever(poll_interval=0.1)
    live.close(timeout=0.8)
    return 0
