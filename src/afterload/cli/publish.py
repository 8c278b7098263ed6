"""``afterload publish``: a patch from a shell or cron."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from ..errors import AfterloadError, PatchError
from .hubs import CommandError, add_namespace, complain, named, none_runs, own

if TYPE_CHECKING:
    from ..patch import Patch

_USAGE = """%(prog)s [options] CHANNEL TARGET VALUE [TARGET VALUE]...
       %(prog)s [options] (--remove | --class NAME | --no-class NAME) CHANNEL TARGET..."""


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "publish",
        usage=_USAGE,
        help="publish to the pages of an app that runs",
        description="Publishes to a channel of an app that runs on this host as this user: every page that follows it "
        "shows it, in place. Prints the position of what was published once the hub has it.",
    )
    add_namespace(parser)
    parser.add_argument(
        "--html",
        action="store_true",
        help="the values are markup, which is yours to vouch for; else they are text",
    )
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--append", action="store_true", help="add at the end of the element")
    actions.add_argument("--prepend", action="store_true", help="add at the start of the element")
    actions.add_argument("--attr", metavar="NAME", help="set this attribute")
    actions.add_argument("--class", metavar="NAME", dest="on", help="add this class; there are no values")
    actions.add_argument(
        "--no-class", metavar="NAME", dest="off", help="take this class away; there are no values"
    )
    actions.add_argument("--remove", action="store_true", help="remove the element; there are no values")
    parser.add_argument(
        "--keep",
        metavar="N",
        type=int,
        help="with --append or --prepend: so many children are left, the newest",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="do not print the position")
    parser.add_argument("channel", metavar="CHANNEL", help="where to")
    parser.add_argument(
        "words",
        metavar="TARGET VALUE",
        nargs="+",
        help="'#id' of an element, and what it shows from now on; - is what comes by stdin, without a line feed at "
        "its end. Several pairs are applied together",
    )
    parser.set_defaults(run=run, late=[])


def run(chosen: argparse.Namespace) -> int:
    """Publishes."""
    try:
        entry = _entry(chosen, [*chosen.words, *chosen.late])
        position = _publish(_namespace(chosen), chosen.channel, entry)
    except (CommandError, AfterloadError) as error:
        complain("publish", error)
        return 2 if isinstance(error, PatchError) else getattr(error, "status", 1)
    if not chosen.quiet:
        print(position)
    return 0


def _namespace(chosen: argparse.Namespace) -> str:
    found = named(chosen)
    if found:
        return found
    hubs = own()
    if not hubs:
        raise CommandError(none_runs(), 1)
    if len(hubs) > 1:
        raise CommandError(f"which app? Say --namespace with one of these: {', '.join(hubs)}", 2)
    return hubs[0]


def _entry(chosen: argparse.Namespace, words: list[str]) -> tuple[Patch, ...]:
    """The patches that are meant."""
    from markupsafe import Markup

    from .. import patch
    from ..log import wrong_name

    if wrong := wrong_name(chosen.channel):
        raise PatchError(wrong, value=chosen.channel)
    class_name = chosen.on if chosen.on is not None else chosen.off
    if chosen.keep is not None and not (chosen.append or chosen.prepend):
        raise CommandError("--keep goes with --append or --prepend", 2)
    if class_name is not None or chosen.remove:
        if chosen.html:
            raise CommandError("--html goes with values, and there are none", 2)
        if class_name is None:
            return tuple([patch.remove(target) for target in words])
        return tuple([patch.class_(target, class_name, chosen.off is None) for target in words])
    if len(words) % 2:
        raise CommandError(f"{words[-1]!r} has no value: each target has one behind it", 2)
    found = []
    values = [_stdin() if word == "-" else word for word in words[1::2]]
    for target, value in zip(words[::2], values, strict=True):
        shown = Markup(value) if chosen.html else value  # noqa: S704 - the user says so
        if chosen.append:
            found.append(patch.append(target, shown, keep=chosen.keep))
        elif chosen.prepend:
            found.append(patch.prepend(target, shown, keep=chosen.keep))
        elif chosen.attr is not None:
            found.append(patch.attr(target, chosen.attr, shown))
        else:
            found.append(patch.text(target, shown))
    return tuple(found)


def _stdin() -> str:
    from ..hub.frames import LONGEST

    if sys.stdin is None:
        raise CommandError("a value is to come by stdin, and there is none", 2)
    data = sys.stdin.buffer.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise CommandError(f"what comes by stdin is longer than {LONGEST:,} bytes", 2)
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise CommandError(f"what comes by stdin is no UTF-8: {error}", 2) from None


def _publish(namespace: str, channel: str, entry: tuple[Patch, ...]) -> str:
    from ..hub.calls import Calls, Gone
    from ..hub.messages import entry as said
    from ..position import Position
    from ..settings import Settings

    timeout = Settings().publish_timeout
    calls = Calls(namespace, timeout)
    try:
        # By one connection, so it is the hub of this epoch that has the entry.
        epoch = calls.call("epoch")
        until = time.monotonic() + timeout  # who is told that there is no answer must not see it come later
        return str(Position(epoch, calls.call("publish", name=channel, entry=said(entry), until=until)))
    except Gone:
        raise CommandError(none_runs(namespace), 1) from None
    finally:
        calls.close()
