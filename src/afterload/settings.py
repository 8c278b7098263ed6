"""Every default of afterload in one place; ``docs/reference/settings.md`` shows the same table."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from .errors import SettingError

# Timers and time-outs reach the operating system as 32-bit milliseconds, which are 24.8 days.
LONGEST = 7 * 86_400.0
_DAY_MS = 86_400_000

# Where 0 to "any" is not right: the least and the greatest value, both allowed.
_RANGES: dict[str, tuple[float, float]] = {
    "linger": (0, LONGEST),
    "heartbeat": (0.1, 86_400),
    # retry: 0 is a hot loop of hundreds of requests a second in Chromium and WebKit
    "retry": (500, _DAY_MS),
    "short_retry": (500, _DAY_MS),
    "history": (1, math.inf),
    "state_cells": (1, math.inf),
    "max_channels_per_viewer": (1, math.inf),
    "stall": (0.1, LONGEST),
    "max_age": (0, LONGEST),
    "poll_wait": (0, 3600),
    "flush_rate": (0.1, 10_000),
    "ahead_entries": (1, math.inf),
    "ahead_bytes": (1, math.inf),
    "hub_idle": (0.1, LONGEST),
    "publish_timeout": (0.1, LONGEST),
}
_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a str"}
# Where not any text is right: what it is to be, and how that is said.
_FORMS: dict[str, tuple[re.Pattern[str], str]] = {
    "hub": (re.compile("auto|thread|process"), '"auto", "thread" or "process"'),
    # It is part of the name of a socket, which has 107 characters.
    "namespace": (re.compile("[A-Za-z0-9._-]{0,64}", re.ASCII), "at most 64 of A-Z a-z 0-9 . _ -"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What an app can tune. Durations are float seconds, sizes are bytes.

    Attributes:
        linger: how long something without a viewer is kept: a private loop is paused that long before it
            is closed, a shared loop runs that long after its last viewer.
        heartbeat: a silent stream carries a `ping` this often; clients give up after 2.5 of them.
        retry: milliseconds a browser waits before it reconnects, sent with every stream (never below 500).
        max_loops: loops that may run at once in this process.
        loop_retention: how long the result of a finished loop or job is remembered.
        failed_retention: how long a failed shared loop stays failed before a new viewer starts it again.
        history: entries kept for gap-free replay, for each channel.
        history_bytes: the same bound in bytes.
        state_bytes: size of a channel's state; past it the page itself is the snapshot.
        state_cells: number of patches in a channel's state.
        max_channels: channels without a viewer that are remembered.
        max_viewers: viewers held by this process; later ones get short streams.
        max_viewers_per_address: the same for one client address; 0 is no limit (behind a proxy all are one).
        max_channels_per_viewer: channels one page may follow.
        fallback_viewers: streams that may hold a server thread where the connection cannot be taken.
        short_retry: milliseconds after which a viewer with a short stream asks again.
        stall: a viewer that takes nothing for so long, with bytes waiting, is dropped.
        max_age: a stream is ended when it is three quarters to all of that old, and its page comes back, so its view
            is asked again whether it may; 0 is for ever.
        poll_wait: how long a long poll waits for news at most.
        flush_rate: flushes a second and channel set at most; the first patch after quiet goes at once.
        ahead_entries: how far a private loop may run ahead of its viewer, in entries.
        ahead_bytes: the same in bytes.
        allow_cross_site: answer streams asked for by pages of other sites.
        namespace: whose channels these are: processes of one host and user with the same share them; "" for a name
            made of the app's import name and root path.
        hub: where the hub runs if there is none yet: "thread" of this process, "process" of its own, or "auto": in
            a thread, and where the server runs several processes or recycles them, in a process of its own.
        hub_idle: how long a hub process that an app has started waits for another when the last one has ended.
        publish_timeout: how long `publish` waits for the hub of another process before it raises.
        io_uring: send to many viewers by one system call, where the system has io_uring and allows it.
    """

    linger: float = 15.0
    heartbeat: float = 20.0
    retry: int = 2000
    max_loops: int = 200
    loop_retention: float = 3600.0
    failed_retention: float = 15.0
    history: int = 1000
    history_bytes: int = 262_144
    state_bytes: int = 262_144
    state_cells: int = 2000
    max_channels: int = 10_000
    max_viewers: int = 10_000
    max_viewers_per_address: int = 0
    max_channels_per_viewer: int = 50
    fallback_viewers: int = 2
    short_retry: int = 5000
    stall: float = 60.0
    max_age: float = 3600.0
    poll_wait: float = 25.0
    flush_rate: float = 60.0
    ahead_entries: int = 64
    ahead_bytes: int = 65_536
    allow_cross_site: bool = False
    namespace: str = ""
    hub: str = "auto"
    hub_idle: float = 30.0
    publish_timeout: float = 5.0
    io_uring: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = checked(field.name, getattr(self, field.name), type(field.default))
            object.__setattr__(self, field.name, value)

    def updated(self, values: Mapping[str, Any]) -> Settings:
        """These settings with `values` in place of their own.

        Raises:
            SettingError: a name is no setting, or a value is of the wrong type or out of range.
        """
        known = [field.name for field in fields(self)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known))}"
                raise SettingError(f"there is no setting {name!r}; {hint}")
        return replace(self, **values)


def checked(name: str, value: Any, kind: type[Any]) -> Any:
    """A setting's value, of its type: for a float an int will do, for an int a bool will not.

    Raises:
        SettingError: it is of another type, or out of range.
    """
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise SettingError(f"setting {name!r} is too large a number") from None
    if type(value) is not kind:
        raise SettingError(f"setting {name!r} is {_NAMES[kind]}, not {value!r}")
    if kind is bool:
        return value
    if kind is str:
        form, said = _FORMS[name]
        if not form.fullmatch(value):
            raise SettingError(f"setting {name!r} is {said}, not {value!r}")
        return value
    if not math.isfinite(value):
        raise SettingError(f"setting {name!r} is a finite number, not {value!r}")
    least, most = _RANGES.get(name, (0, math.inf))
    if not least <= value <= most:
        bounds = f"{least} or more" if most == math.inf else f"{least} to {most:,.0f}"
        raise SettingError(f"setting {name!r} is {bounds}, not {value!r}")
    return value
