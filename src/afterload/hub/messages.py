"""What viewers and entries are in the messages between processes, and back again.

What comes back was checked where it was made; it is checked again, as any process of the user may say anything. What is
none of these raises a `ValueError`, `TypeError`, `KeyError` or `AttributeError`, or what is refused as by a program.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..log import PRIVATE, End, Item, Message, Patches, Present, Refresh, Reset, Snapshot, Step, wrong_name
from ..noscript import Shown
from ..patch import Patch
from ..position import Position
from ..wire import document, poll, sse, websocket
from .viewer import Follow, Wire

# What can be wrong with a value that came from elsewhere.
REFUSED = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError)
_WIRES: dict[str, Wire] = {wire.NAME: wire for wire in (sse, document, websocket, poll)}


def entry(patches: Iterable[Patch]) -> list[Any]:
    """What one publish adds, as a JSON value."""
    return [patch.wire() for patch in patches]


def patches(entry: Any) -> tuple[Patch, ...]:
    """The patches of an entry."""
    found = tuple([Patch(*patch) for patch in entry])
    if not found:
        raise ValueError("an entry has a patch")
    return found


def of_follow(follow: Follow) -> dict[str, Any]:
    """What a viewer asks for, as a JSON value."""
    said: dict[str, Any] = {
        "names": follow.names,
        "position": follow.position,
        "foreign": follow.foreign,
        "into": follow.into,
        "hold": follow.hold,
        "head": follow.head.decode("latin-1"),
        "address": follow.address,
        "wire": follow.wire.NAME,
        "sent": follow.sent,
        "wait": follow.wait,
        "owner": follow.owner,
        "asked": follow.asked,
    }
    if follow.opening or follow.ending:
        said["opening"] = base64.b64encode(follow.opening).decode()
        said["ending"] = base64.b64encode(follow.ending).decode()
    if follow.shown is not None:
        said["shown"] = follow.shown.form()
    return said


def follow(said: Any, clock: Callable[[], float], most: int, private: bool = False) -> Follow:
    """What a viewer asks for; it may follow at most so many channels, and where it says so one of a private loop."""
    names = tuple(said["names"])
    if not 1 <= len(names) <= most:
        raise ValueError(f"a viewer follows 1 to {most} channels, by name, not {len(names)}")
    for name in () if names == (PRIVATE,) and private else names:
        if wrong := wrong_name(name):
            raise ValueError(wrong)
    Position.parse(said["position"])
    shown = said.get("shown")
    return Follow(
        None,
        names,
        position=str(said["position"]),
        foreign=bool(said["foreign"]),
        into=None if said["into"] is None else str(said["into"]),
        hold=bool(said["hold"]),
        head=said["head"].encode("latin-1"),
        address=str(said["address"]),
        wire=_WIRES[said["wire"]],
        opening=base64.b64decode(said.get("opening", "")),
        ending=base64.b64decode(said.get("ending", "")),
        shown=None if shown is None else Shown.of(shown, clock),
        sent=int(said["sent"]),
        wait=None if said["wait"] is None else float(said["wait"]),
        owner=str(said["owner"]),
        asked=float(said["asked"]),
    )


def of_present(present: Present) -> list[Any]:
    """What a channel shows, as a JSON value."""
    return [present.run, present.complete, [[offset, *patch.wire()] for offset, patch in present.parts]]


def present(said: Any) -> Present:
    """What a channel shows."""
    run, complete, parts = said
    return Present(bool(run), bool(complete), [(int(offset), Patch(*patch)) for offset, *patch in parts])


def of_steps(steps: Sequence[Step]) -> list[Any]:
    """The steps of a log's answer, as a JSON value."""
    return [[[_of_item(item) for item in step.items], step.offset] for step in steps]


def steps(said: Any) -> tuple[Step, ...]:
    """The steps of an answer."""
    return tuple([Step(tuple([_item(*item) for item in items]), offset) for items, offset in said])


def _of_item(item: Item) -> list[Any]:
    match item:
        case Patches():
            return ["patches", item.channel, item.seq, entry(item.patches), item.since]
        case Snapshot():
            return ["snapshot", item.channel, item.seq, entry(item.patches)]
        case Message():
            return ["message", item.text]
        case Reset():
            return ["reset", item.channel]
        case Refresh():
            return ["refresh"]
        case End():
            return ["end", item.channel, item.status, item.message]
        case _:
            raise TypeError(f"{type(item).__name__} is of one process only")


def _item(kind: str, *said: Any) -> Item:
    match kind:
        case "patches":
            channel, seq, patched, since = said
            return Patches(channel, seq, [Patch(*patch) for patch in patched], since)
        case "snapshot":
            channel, seq, patched = said
            return Snapshot(channel, seq, [Patch(*patch) for patch in patched])
        case "message":
            return Message(*said)
        case "reset":
            return Reset(*said)
        case "refresh":
            return Refresh()
        case "end":
            return End(*said)
    raise ValueError(f"there is no item {kind!r}")
