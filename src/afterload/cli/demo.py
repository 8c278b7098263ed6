"""``afterload demo``: pages to look at, each with its source beside it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import threading
from typing import Any

from .serve import CannotListenError, add_address, in_url, listen, server_on

PORT = 23423


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("demo", help="serve the demo pages", description="Serves the demo pages.")
    add_address(parser, PORT)
    parser.add_argument(
        "--data", metavar="DIR", help="where the demo keeps its database (default: a temporary place)"
    )
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Serves until Ctrl-C or SIGTERM."""
    if importlib.util.find_spec("flask") is None:
        print("afterload demo needs Flask: pip install 'afterload[flask]'", file=sys.stderr)
        return 1
    if chosen.data:
        os.environ["AFTERLOAD_DEMO_DATA"] = chosen.data

    from ..demo import app, live

    try:
        server = server_on(listen(chosen.host, chosen.port), chosen.host, app)
    except CannotListenError as error:
        print(f"afterload demo: {error}", file=sys.stderr)
        return 1

    def stop(*_: Any) -> None:
        threading.Thread(target=server.shutdown).start()  # it waits for serve_forever, which runs here

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"afterload demo: http://{in_url(chosen.host)}:{server.port}/   (Ctrl-C ends it)", flush=True)
    server.serve_forever(poll_interval=0.1)
    live.close(timeout=0.8)
    return 0
