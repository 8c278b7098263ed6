"""Snapshot sources: functions of the app that say what a channel shows, where no hub knows it.

A hub's state of a published channel begins with the hub, or where it has last overflowed. What was before, only the app
knows. `SnapshotSource.give` asks it, and gives that to the hub as the base of the state (`Log.restore`); so it is asked
once for each loss of memory, and not for each page.

The place in the log is taken *before* the app is asked, as for a page: what is published meanwhile is added to the
base, and may be in it already.
"""

from __future__ import annotations

import contextvars
import inspect
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from .errors import HubError, LoopError, PatchError
from .hub.hub import Shared
from .patch import Patch, patches
from .runs import required
from .seldom import Seldom
from .values import short

_TRIES = 5
_AGAIN = 1.0  # seconds until one that failed is asked again


class SnapshotSource:
    """A function that says what a channel shows; made by ``@live.snapshot``.

    Args:
        name: of the channel.
        function: returns patches that bring a page, as it was served, to what the channel shows at present.

    Raises:
        LoopError: it is no function, needs arguments, or is a generator function or async.
    """

    def __init__(self, name: str, function: Any) -> None:
        if not callable(function) or isinstance(function, type):
            raise LoopError(f"@live.snapshot({name!r}) needs a function, not {short(function)}")
        if (
            inspect.isgeneratorfunction(function)
            or inspect.isasyncgenfunction(function)
            or inspect.iscoroutinefunction(function)
        ):
            raise LoopError(
                f"@live.snapshot({name!r}) needs a function that returns patches, which {short(function)} does not"
            )
        if needed := required(function):
            raise LoopError(
                f"the snapshot of {name!r} is asked for without arguments, and needs {', '.join(needed)}"
            )
        self.name = name
        self.function: Callable[[], Any] = function
        self._failed = -_AGAIN
        self.renew()

    def renew(self) -> None:
        """Forgets who asks: what a forked child does, as that thread is not in it."""
        self._lock = threading.Lock()
        self._asks = 0
        self._failures = Seldom()

    def give(
        self,
        shared: Shared,
        context: Callable[[], AbstractContextManager[Any]],
        at: int | None,
        *,
        anyway: bool = True,
    ) -> None:
        """Gives a hub the state that it lacks; nothing if it does not lack it (any more).

        Args:
            shared: the hub.
            context: makes the context that the function is called in.
            at: where the log was before the page that needs it was made; None for now.
            anyway: also if it has failed just now. If not, who comes in a crowd does not wait for the same failure
                one by one.

        Raises:
            HubError: as of `Client`.
            PatchError: what it returns is no state, or more than a state may hold.
            LoopError: so much is published meanwhile that the hub forgets some of it before it has the base; or the
                function asks for its own channel's state.
            Exception: what the function raises.
        """
        if self._asks == threading.get_ident():
            raise LoopError(
                f"the snapshot of {self.name!r} says what that channel shows, and so cannot ask for its state"
            )
        with self._lock:
            if not anyway and time.monotonic() - self._failed < _AGAIN:
                return
            self._asks = threading.get_ident()
            try:
                self._give(shared, context, at)
            except HubError:
                raise
            except Exception:
                self._failed = time.monotonic()
                raise
            finally:
                self._asks = 0

    def _give(
        self, shared: Shared, context: Callable[[], AbstractContextManager[Any]], at: int | None
    ) -> None:
        if not shared.lacks([self.name], "0", False):
            return
        for _ in range(_TRIES):
            place = shared.head() if at is None else at
            if shared.restore(self.name, place, self._made(context)):
                return
            at = None
        raise LoopError(
            f"the snapshot of {self.name!r} takes so long that more is published meanwhile than is remembered: "
            "make it faster, or raise history and history_bytes"
        )

    def failures(self) -> int:
        """It has failed, and that is to be said; as `Seldom.count`."""
        return self._failures.count()

    def _made(self, context: Callable[[], AbstractContextManager[Any]]) -> tuple[Patch, ...]:
        def call() -> Any:
            with context():
                return self.function()

        # Where a view asks for it there is a request, and where a page comes back there is none: so there never is.
        returned = contextvars.Context().run(call)
        if returned is None:
            raise PatchError(
                f"the snapshot of {self.name!r} has returned None; [] if there is nothing to show"
            )
        return patches(returned)
