"""What the commands that speak to a hub share: whose hub is meant, and how what it says is shown."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SettingError
from ..hub import rendezvous
from ..settings import checked

if TYPE_CHECKING:
    from ..live import Live

VARIABLE = "AFTERLOAD_NAMESPACE"


class CommandError(Exception):
    """A command cannot do what it is asked to; the message says why.

    Attributes:
        status: the exit status: 2 for a mistake in the command line, else 1.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def add_namespace(parser: argparse.ArgumentParser) -> None:
    """Adds ``--namespace`` and ``--app``."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--namespace", metavar="NAME", type=_namespace, help=f"whose hub (default: ${VARIABLE})"
    )
    group.add_argument("--app", metavar="MODULE:APP", help="import this app, and take its namespace")


def _namespace(text: str) -> str:
    try:
        found: str = checked("namespace", text, str)
    except SettingError:
        found = ""
    if not found:
        raise argparse.ArgumentTypeError(f"a namespace is 1 to 64 of A-Z a-z 0-9 . _ -, not {text!r}")
    return found


def named(chosen: argparse.Namespace) -> str:
    """The namespace that is named, by an option or the environment; "" if none is.

    Raises:
        CommandError: there is no such app, or what is named is no namespace.
    """
    if not rendezvous.POSSIBLE:
        raise CommandError("processes meet on Linux only", 1)
    if chosen.namespace:
        return str(chosen.namespace)
    if chosen.app:
        try:
            found = live_of(chosen.app).namespace
        except SettingError as error:  # of the variable
            raise CommandError(str(error), 2) from None
        if not found:
            raise CommandError(f"the app {chosen.app!r} meets nobody: it is under test (app.testing)", 2)
        return found
    try:
        return _namespace(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else ""
    except argparse.ArgumentTypeError as error:
        raise CommandError(f"${VARIABLE}: {error}", 2) from None


def live_of(app: str) -> Live:
    """Imports an app, as a server does: from the present directory, by module and name.

    Raises:
        CommandError: there is none, or it has no `Live`.
    """
    module, _, name = app.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    none = CommandError(f"--app is MODULE:APP, and there is no module {module!r} here", 2)
    if not all(part.isidentifier() for part in module.split(".")):
        raise none
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # something that the app wants
        raise none from None
    name = name or "app"
    attribute = name.removesuffix("()")
    if not hasattr(found, attribute):
        raise CommandError(f"the module {module!r} has no {attribute!r}", 2)
    found = getattr(found, attribute)
    if attribute != name:
        found = found()
    live: Live | None = getattr(found, "extensions", {}).get("afterload")
    if live is None:
        raise CommandError(f"{app!r} is no Flask app with a Live", 2)
    return live


def own() -> list[str]:
    """The namespaces that have a hub of this user."""
    return [name for uid, name in rendezvous.present() if uid == os.geteuid()]


def none_runs(namespace: str = "") -> str:
    """What to say where no hub is to be found, of a namespace or at all."""
    if namespace:
        there = f"; those that run: {', '.join(own())}" if own() else ""
        return (
            rendezvous.others(namespace) or f"no hub of namespace {namespace!r} runs: no page follows{there}"
        )
    found = sorted({f"{name!r} (user {uid})" for uid, name in rendezvous.present() if uid != os.geteuid()})
    elsewhere = f"; others have hubs: {', '.join(map(plain, found))}" if found else ""
    return f"no hub of this user (number {os.geteuid()}) runs: no page follows{elsewhere}"


def plain(text: object) -> str:
    r"""What may be shown in a terminal: nothing in it moves the cursor, or begins a line.

    Example:
        >>> plain("caf\u00e9 \x1b[2J")
        'café \\x1b[2J'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def complain(command: str, what: object) -> None:
    """Says what is wrong."""
    print(f"afterload {command}: {plain(what)}", file=sys.stderr)
