"""Every default of afterload in one place; ``docs/reference/settings.md`` shows the same table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from .errors import SettingError


@dataclass(frozen=True, slots=True)
class Settings:
    """What an app can tune. Durations are float seconds, sizes are bytes.

    Attributes:
        linger: how long something without a viewer is kept: a private loop is paused that long before it
            is closed, a shared loop runs that long after its last viewer.
        heartbeat: a silent stream carries a `ping` this often; clients give up after 2.5 of them.
        retry: milliseconds a browser waits before it reconnects, sent with every stream (never below 500).
        max_loops: loops that may run at once in this process.
        loop_retention: how long the result of a finished loop is remembered.
        failed_retention: how long a failed shared loop stays failed before a new viewer starts it again.
        history: entries kept for gap-free replay, for each channel.
        history_bytes: the same bound in bytes.
        state_bytes: size of a channel's state; past it the page itself is the snapshot.
        state_cells: number of patches in a channel's state.
        max_channels: channels without a viewer that are remembered.
        max_viewers: viewers held by this process; later ones get short streams.
        max_viewers_per_address: the same for one client address; 0 is no limit (addresses behind a proxy are one).
        max_channels_per_viewer: channels one page may follow.
        fallback_viewers: streams that may hold a server thread where the connection cannot be taken.
        short_retry: milliseconds after which a viewer with a short stream asks again.
        stall: a viewer that takes nothing for so long, with bytes waiting, is dropped.
        flush_rate: flushes a second and channel set at most; the first patch after quiet goes at once.
        ahead_entries: how far a private loop may run ahead of its viewer, in entries.
        ahead_bytes: the same in bytes.
        namespace: names the channels that belong together; default: the app's import name.
        allow_cross_site: answer streams asked for by pages of other sites.
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
    flush_rate: float = 60.0
    ahead_entries: int = 64
    ahead_bytes: int = 65_536
    namespace: str = ""
    allow_cross_site: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            want = type(field.default)
            if want is float and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
                object.__setattr__(self, field.name, value)
            if type(value) is not want:
                raise SettingError(f"setting {field.name!r} is a {want.__name__}, not {value!r}")
            if isinstance(value, int | float) and value < 0:
                raise SettingError(f"setting {field.name!r} cannot be negative: {value!r}")
        for name in ("heartbeat", "flush_rate", "history", "ahead_entries", "ahead_bytes", "state_cells"):
            if not getattr(self, name):
                raise SettingError(f"setting {name!r} cannot be 0")
        if self.retry < 500 or self.short_retry < 500:
            # retry: 0 is a hot loop of hundreds of requests a second in Chromium and WebKit
            raise SettingError(
                f"retry and short_retry cannot be below 500 ms: {self.retry}, {self.short_retry}"
            )

    def updated(self, values: Mapping[str, Any]) -> Settings:
        """These settings with `values` in place of their own.

        Raises:
            SettingError: a name is no setting, or a value is of the wrong type or out of range.
        """
        known = {field.name for field in fields(self)}
        for name in values:
            if name not in known:
                raise SettingError(f"there is no setting {name!r}; there are: {', '.join(sorted(known))}")
        return replace(self, **values)
