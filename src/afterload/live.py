"""The extension without a framework: channels, loops, and what a stream request gets.

`Live` owns a process's hub and loops. An adapter (`afterload.flask`) turns a request into a
`afterload.negotiate.Request`, asks `stream` what it gets, and answers with it.
"""

from __future__ import annotations

import inspect
import logging
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, overload

from .errors import LoopError, PatchError
from .hub.hub import Hub
from .hub.thread import HubThread
from .hub.viewer import Follow
from .loops import PRIVATE, Loops, SharedLoop, Source, sleep
from .negotiate import Request
from .patch import patches
from .position import Position
from .settings import Settings

logger = logging.getLogger("afterload")


@dataclass(frozen=True, slots=True)
class Page:
    """What a view said its page follows: one private loop, or any number of channels.

    Attributes:
        source: the generator of a private loop, not started.
        channels: names of the channels otherwise.
        into: the page's target for plain strings.
        restart: whether a private loop that is gone is started again.
        away: "pause" or "run": what a private loop does while its viewer is away.
    """

    source: Source | None
    channels: tuple[str, ...]
    into: str | None
    restart: bool
    away: str

    @property
    def label(self) -> str:
        return getattr(self.source, "__qualname__", type(self.source).__name__)


class Live:
    """Channels, loops and viewers of one app; see `afterload.flask.Live` for the Flask extension.

    Args:
        settings: see `afterload.settings.Settings`.
    """

    sleep = staticmethod(sleep)

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._definitions: dict[str, SharedLoop] = {}
        self._handlers: list[Callable[[str, BaseException], None]] = []
        self._lock = threading.Lock()
        self._thread: HubThread | None = None
        self._loops: Loops | None = None

    @property
    def hub(self) -> Hub:
        """This process's hub; made when first needed, and again in a forked child."""
        thread = self._thread
        if thread is None or not thread.usable:
            thread = self._renew()
        return thread.hub

    @property
    def loops(self) -> Loops:
        """This process's loops."""
        thread = self._thread
        if thread is None or not thread.usable or self._loops is None:
            self._renew()
        assert self._loops is not None
        return self._loops

    def _renew(self) -> HubThread:
        if not self._lock.acquire(timeout=1):
            self._lock = threading.Lock()  # a fork copied it while another thread held it
            self._lock.acquire()
        try:
            if self._thread is None or not self._thread.usable:
                self._thread = HubThread(self.settings)
                self._loops = Loops(self._thread.hub, self.settings, self.step_context)
                self._loops.handlers = self._handlers
            return self._thread
        finally:
            self._lock.release()

    def step_context(self) -> AbstractContextManager[Any]:
        """The context each step of a loop runs in; an adapter gives its own."""
        return nullcontext()

    def publish(self, channel: str, *things: Any) -> str:
        """Publishes patches to a channel: every page that follows it shows them, in place.

        May be called from any thread, inside or outside a request. All that one call publishes is applied
        together.

        Args:
            channel: the channel's name.
            *things: patches, dicts of target to new text, plain strings, or lists of these.

        Returns:
            The position of the new entry.

        Raises:
            PatchError: something is no patch, or the channel's name is none.

        Example:
            >>> live = Live()
            >>> position = live.publish("orders", {"#count": 12})
        """
        if type(channel) is not str or not 0 < len(channel) <= 200 or channel == PRIVATE:
            raise PatchError(
                f"a channel's name is a string of 1 to 200 characters and not {PRIVATE!r}: {channel!r}"
            )
        entry = patches(*things)
        if not entry:
            raise PatchError(f"nothing to publish to {channel!r}")
        hub = self.hub
        return str(Position(hub.log.epoch, hub.publish(channel, entry)))

    @overload
    def loop(self, function: Callable[[], Source]) -> SharedLoop: ...
    @overload
    def loop(
        self, *, name: str | None = None, linger: float | None = None
    ) -> Callable[[Callable[[], Source]], SharedLoop]: ...

    def loop(
        self,
        function: Callable[[], Source] | None = None,
        *,
        name: str | None = None,
        linger: float | None = None,
    ) -> Any:
        """Makes a generator function a **shared loop**: it runs once for all its viewers.

        It starts with its first viewer and is stopped `linger` seconds after its last.

        Args:
            function: a generator function or async generator function without arguments.
            name: of its channel; by default the function's.
            linger: seconds; by default the app's setting.

        Raises:
            LoopError: it is no generator function, needs arguments, or the name is taken.
        """
        if function is None:
            return lambda f: self._define(f, name, linger)
        return self._define(function, name, linger)

    def _define(self, function: Callable[[], Source], name: str | None, linger: float | None) -> SharedLoop:
        name = name or getattr(function, "__name__", "")
        if not name or name == PRIVATE:
            raise LoopError(f"a shared loop needs a name: {function!r}")
        if name in self._definitions:
            raise LoopError(
                f"there is a shared loop {name!r} already: {self._definitions[name].function!r}; "
                "name this one: @live.loop(name=...)"
            )
        loop = self._definitions[name] = SharedLoop(function, name, linger, self)
        return loop

    def on_error(self, handler: Callable[[str, BaseException], None]) -> Callable[[str, BaseException], None]:
        """Registers a function that is told of every loop that failed: its name and the exception.

        It runs in the loop's thread, after the log record.
        """
        self._handlers.append(handler)
        return handler

    def viewers(self, channel: str | SharedLoop) -> int:
        """How many pages follow a channel now."""
        return self.hub.viewers(channel.name if isinstance(channel, SharedLoop) else channel)

    def stats(self) -> dict[str, Any]:
        """Numbers of this process: viewers, loops, channels, and counters since its start."""
        return {**self.hub.stats(), "loops": self.loops.running}

    def close(self, timeout: float = 1.0) -> None:
        """Ends all loops and says `bye` to every viewer, as at the end of the process.

        Args:
            timeout: seconds at most.
        """
        thread, loops = self._thread, self._loops
        if thread is not None and thread.usable:
            thread.close(timeout)
            if loops is not None:
                loops.close(timeout / 2)

    # What an adapter needs

    def follow(
        self, sources: tuple[Any, ...], into: str | None = None, restart: bool = True, away: str = "pause"
    ) -> Page:
        """Checks what a view says its page follows.

        Raises:
            LoopError: it is nothing that can be followed.
        """
        if away not in ("pause", "run"):
            raise LoopError(f'away is "pause" or "run", not {away!r}')
        if into is not None and not re.fullmatch(r"#\S+", into):
            raise LoopError(f'into is a target such as "#data", not {into!r}')
        if not sources:
            raise LoopError(
                "a page needs something to follow: a generator, a @live.loop, or names of channels"
            )
        first = sources[0]
        if inspect.isgenerator(first) or inspect.isasyncgen(first):
            if len(sources) > 1:
                raise LoopError(
                    "a page follows one private loop, or any number of shared loops and channels, not both"
                )
            return Page(first, (), into, restart, away)
        names: list[str] = []
        for source in sources:
            if isinstance(source, SharedLoop):
                names.append(source.name)
            elif isinstance(source, str) and source and source != PRIVATE:
                names.append(source)
            elif inspect.isgeneratorfunction(source) or inspect.isasyncgenfunction(source):
                raise LoopError(
                    f"{source.__name__} is a function: pass {source.__name__}() for a loop of each viewer's own, "
                    "or decorate it with @live.loop for one that all share"
                )
            else:
                raise LoopError(
                    f"a page follows a generator, a @live.loop, or a channel's name, and not {source!r}"
                )
        most = self.settings.max_channels_per_viewer
        if len(names) > most:
            raise LoopError(
                f"a page follows at most {most} channels (max_channels_per_viewer), not {len(names)}"
            )
        return Page(None, tuple(dict.fromkeys(names)), into, restart, away)

    def is_over(self, page: Page, position: Position | None) -> bool:
        """Whether a page at that position has all there will ever be (its stream gets a 204)."""
        if position is None or position.rendered:
            return False
        if page.source is not None:
            return self.loops.private_at_end(position.epoch, position.offset)
        hub = self.hub
        return position.epoch == hub.log.epoch and hub.at_end(hub.log, page.channels, position.offset)

    def leave(self, position: Position | None) -> None:
        """A page says that it will not come back: its own loop, if it has one, is ended."""
        if position is not None:
            self.loops.close_private(position.epoch)

    def connect(self, page: Page, request: Request) -> Follow:
        """Starts what the page follows, and says how its viewer is to be served."""
        if page.source is not None:
            return self._connect_private(page, page.source, request)
        for name in page.channels:
            loop = self._definitions.get(name)
            if loop is not None:
                try:
                    self.loops.ensure(loop)
                except LoopError as error:
                    return self._busy(page, error)
        hub = self.hub
        position = request.position
        known = position is not None and position.epoch == hub.log.epoch
        return Follow(
            hub.log,
            page.channels,
            at=position.offset if known and position else None,
            rendered=known and position is not None and position.rendered,
            foreign=request.bad_position or (position is not None and not known),
            position=str(position or "0"),
            into=page.into,
        )

    def _connect_private(self, page: Page, source: Source, request: Request) -> Follow:
        position, channels = request.position, (PRIVATE,)
        if position is not None:
            log = self.loops.find_private(position.epoch, page.label)
            if log is not None:
                return Follow(log, channels, at=position.offset, position=str(position), into=page.into)
            if not page.restart:
                return self._lost(page, position)
        try:
            log = self.loops.start_private(source, page.label, page.away)
        except LoopError as error:
            return self._busy(page, error)
        foreign = position is not None or request.bad_position
        return Follow(
            log,
            channels,
            at=None if foreign else 0,
            foreign=foreign,
            position=f"{log.epoch}.0",
            into=page.into,
        )

    def _lost(self, page: Page, position: Position) -> Follow:
        log = self.hub.new_log(position.epoch)
        log.begin(PRIVATE)
        log.head = position.offset
        log.finish(PRIVATE, "lost", "The server no longer has what this page was following.")
        return Follow(log, (PRIVATE,), at=position.offset, position=str(position), into=page.into)

    def _busy(self, page: Page, error: LoopError) -> Follow:
        """Nothing to follow for now: `hello`, `bye`, and the page asks again later."""
        logger.warning("afterload: a loop was not started: %s", error)
        return Follow(self.hub.new_log("-"), page.channels or (PRIVATE,), into=page.into, hold=False)
