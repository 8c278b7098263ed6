"""``afterload hub``: the hub of an app, as a service of its own."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from ..errors import SettingError
from ..settings import Settings, checked
from .hubs import VARIABLE, CommandError, add_namespace, complain, live_of, named


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "hub",
        help="be the hub of an app, for systemd or a container",
        description="Is the hub that holds an app's open pages, in the foreground, until SIGTERM or Ctrl-C. The app's "
        "processes find it by its namespace, and may come and go without a page noticing. A hub that an app has "
        "started makes way for it.",
    )
    add_namespace(parser)
    parser.add_argument(
        "--idle",
        metavar="SECONDS",
        type=_seconds,
        help="end when no process of the app has been there for so long (default: never)",
    )
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    try:
        found: float = checked("hub_idle", float(text), float)
    except (ValueError, SettingError):
        raise argparse.ArgumentTypeError(f"seconds are a number from 0.1 to 604800, not {text!r}") from None
    return found


def run(chosen: argparse.Namespace) -> int:
    """Is the hub until it is told to end."""
    try:
        namespace = named(chosen)
        if not namespace:
            raise CommandError(f"whose hub? Say --namespace NAME, --app MODULE:APP, or set ${VARIABLE}", 2)
        settings = live_of(chosen.app).settings if chosen.app else Settings(namespace=namespace)
    except CommandError as error:
        complain("hub", error)
        return error.status
    from ..hub import process

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    logging.getLogger("afterload.hub").setLevel(logging.INFO)
    return process.run(namespace, settings, idle=chosen.idle, detach=False)
