"""Drives one user loop onto its channel.

A **run** is one generator being stepped, each step inside the app's step context (for Flask an app context, so no
database session outlives a step), what it yields published to its channel. A sync generator has a thread of its own
and is always resumed by it; async generators are tasks on one event loop thread of ours.

How a run ends, and who wins when several happen at once (the first that takes the run's lock)::

    returns            ──▶ channel `done`
    raises             ──▶ log record, channel `failed`, on_error
    told to stop       ──▶ nothing it yields afterwards is published; GeneratorExit at its next yield, or at
                           once inside `sleep`
    viewer away        ──▶ paused: not stepped again after its next yield; back within `linger`: goes on;
    (private loop)         not back, or the client's close(): told to stop
    no viewer (shared) ──▶ after `linger`: told to stop; the next viewer starts a new run
    no viewer (job)    ──▶ goes on; told to stop, its channel is `cancelled` when it has ended

A private run is *pulled*: it waits while it is `ahead_entries` or `ahead_bytes` ahead of what its viewer's
socket has taken.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from .errors import HubError, LoopError
from .hub.calls import Refusal
from .hub.client import Client
from .hub.held import Held
from .hub.hub import Hub, Outlet
from .log import Log
from .patch import Patch, patches
from .pipe import Pipe
from .seldom import Seldom
from .settings import Settings

logger = logging.getLogger("afterload.loops")

_AGAIN = 0.1  # seconds between two tries to publish where the hub does not answer
FAILED = "Something went wrong on the server. The page shows the last state."

Source: TypeAlias = Iterator[Any] | AsyncIterator[Any]
StepContext: TypeAlias = Callable[[], AbstractContextManager[Any]]
_current: contextvars.ContextVar[Run | None] = contextvars.ContextVar("afterload_run", default=None)


class Stopped(BaseException):
    """Raised inside a loop by `sleep` when the loop should end; in a job also by `publish` and `track`.

    Not an `Exception`, so that ``except Exception`` in a loop does not hold it up.
    """


def sleep(seconds: float) -> None:
    """Waits, in a loop; ends the loop at once when it should end.

    Outside a loop it is `time.sleep`. In an async generator use ``await asyncio.sleep(...)``, which is
    cancelled.

    Args:
        seconds: how long.

    Raises:
        LoopError: called in an async generator.
    """
    run = _current.get()
    if run is None or run.status:  # in an on_error handler it is over
        time.sleep(seconds)
    else:
        run.sleep(seconds)


def current() -> Run | None:
    """The run that this is called in."""
    return _current.get()


def required(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments without which a function cannot be called.

    Example:
        >>> required(lambda a, b=1, *rest: None)
        ['a']
    """
    return [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


class Owner(Protocol):
    """What a run needs of who has started it (`afterload.loops.Loops`)."""

    hub: Hub
    settings: Settings
    waiting: Seldom
    handlers: list[Callable[[str, BaseException], None]]

    def step_context(self) -> AbstractContextManager[Any]:
        """The context that each step runs in."""

    @property
    def executor(self) -> Executor:
        """Where they wait for a hub elsewhere."""

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """Where tasks run."""

    def record(self, label: str, error: BaseException) -> None:
        """Tells the log of a failure."""

    def tell(self, label: str, error: BaseException) -> None:
        """Tells the app of a failure."""

    def ended(self, run: Run) -> None:
        """Forgets a run that is over."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a shared loop, for one run.

    Attributes:
        outlet: whose.
        number: by which it is known there.
    """

    outlet: Outlet
    number: int


class Run:
    """One generator being stepped onto one channel.

    Attributes:
        log: of a private run: where its one channel is.
        lease: of a shared one.
        held: of a job: its channel.
        label: its name in log records, and what a private loop has to match when its page comes back.
        step_context: makes the context that each step runs in.
        begun: it was started, or is being so.
        finished: set when it has ended, one way or another, and whoever is told of it has been told.
    """

    def __init__(
        self,
        loops: Owner,
        source: Source,
        to: Log | Lease | Held,
        channel: str,
        label: str,
        step_context: StepContext | None = None,
    ) -> None:
        self.loops = loops
        self.source = source
        self.lease = to if isinstance(to, Lease) else None
        self.held = to if isinstance(to, Held) else None
        if not isinstance(to, Lease | Held):
            self.log = to
            self.log.served = 0
        self.channel = channel
        self.label = label
        self.step_context = step_context or loops.step_context
        self.finished = threading.Event()
        self.status = ""  # until it is over
        self.away = False  # its viewer is
        self.runs_on = False  # while its viewer is away
        self.lock = threading.Lock()
        self.stopped = False
        self.begun = False
        self._count = 0
        self._ahead: deque[tuple[int, int]] = deque()
        self._ahead_bytes = 0

    def start(self) -> None:
        """Begins to step."""
        raise NotImplementedError

    def wake(self) -> None:
        """Lets the run look again at whether it may be stepped."""
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        """See the function `sleep`."""
        raise NotImplementedError

    def stop(self) -> None:
        """Tells it to end; nothing it yields from now on is published."""
        with self.lock:
            self.stopped = True
        self.wake()

    def viewer(self, away: bool) -> None:
        """Its viewer has gone, or is back."""
        self.away = away
        if away:
            self.log.served = math.inf  # nobody waits for it, and it may run on
        self.wake()

    def served(self, offset: int) -> None:
        """The viewer has got everything up to `offset`."""
        with self.lock:
            waited = not self.may_step()
            while self._ahead and self._ahead[0][0] <= offset:
                self._ahead_bytes -= self._ahead.popleft()[1]
            self.log.served = offset
        if waited:
            self.wake()

    def may_step(self) -> bool:
        """Whether the next step may be taken now."""
        if self.lease is not None or self.held is not None:
            return True
        if self.away:
            return self.runs_on
        settings = self.loops.settings
        return len(self._ahead) < settings.ahead_entries and self._ahead_bytes < settings.ahead_bytes

    def publish(self, thing: Any) -> None:
        """Publishes what was yielded, unless it was told to stop.

        Raises:
            PatchError: it is nothing that can be published.
        """
        entry = patches(thing)
        if not entry:
            return
        if self.held is not None:
            if not self.stopped:
                self.held.publish(entry)
            return
        if self.lease is not None:
            self._publish_shared(self.lease, entry)
            return
        with self.lock:
            if self.stopped:
                return
            offset = self.loops.hub.publish(self.channel, entry, self.log)
            size = sum(len(p.content) if isinstance(p.content, str) else 8 for p in entry)
            self._ahead.append((offset, size))
            self._ahead_bytes += size
        if not self.may_step():
            self.loops.hub.hurry(self.log, self.channel)

    def _publish_shared(self, lease: Lease, entry: tuple[Patch, ...]) -> None:
        """The lease is what makes sure that nothing is published behind its end."""
        self._count += 1
        while not self.stopped:
            try:
                if lease.outlet.publish_run(self.channel, lease.number, self._count, entry) is None:
                    self.stop()
                return
            except Refusal:
                raise
            except HubError as error:
                self._wait(error)

    def _wait(self, error: HubError) -> None:
        """Its hub is silent, and may go on; or has ended, and this run has been told so or is about to be."""
        if not self.stopped and (count := self.loops.waiting.count()):
            logger.warning(
                "afterload: the loop %r waits for its hub (waits of all loops since the last such record: %d): %s",
                self.label,
                count,
                error,
            )
        time.sleep(_AGAIN)

    def over(self, error: BaseException | None) -> None:
        """The generator has ended: says so in its channel, unless the run was told to stop."""
        # That its hub was away is no fault of the loop's, and no matter of its pages.
        without_hub = (
            self.lease is not None and isinstance(error, HubError) and not isinstance(error, Refusal)
        )
        with self.lock:
            stopped, self.stopped = self.stopped, True
            if error is None:
                self.status = "cancelled" if stopped else "done"
            elif without_hub or isinstance(error, Stopped | GeneratorExit | asyncio.CancelledError):
                self.status = "cancelled"
            else:
                self.status = "failed"
        failed = error if self.status == "failed" else None
        try:
            try:
                if failed is not None:  # first: who sees that a page has failed finds out why
                    self.loops.record(self.label, failed)
            finally:
                self._finish(
                    FAILED if failed is not None else "", tell_nobody=stopped, without_hub=without_hub
                )
        finally:
            self._conclude(failed)

    def _conclude(self, failed: BaseException | None) -> None:
        """All pages know; the app's handlers, if it has failed, may take their time."""
        try:
            if failed is not None:
                self.loops.tell(self.label, failed)
        finally:
            self.finished.set()
            self.loops.ended(self)

    def _finish(self, message: str, *, tell_nobody: bool, without_hub: bool) -> None:
        if self.held is not None:
            self.held.finish(self.status, message)
        elif tell_nobody:
            pass
        elif self.lease is None:
            self.loops.hub.finish(self.channel, self.status, message, self.log)
        else:
            try:
                if without_hub:
                    self.lease.outlet.give_back(self.channel, self.lease.number)
                else:
                    self.lease.outlet.finish(self.channel, self.lease.number, self.status, message)
            except HubError as gone:
                logger.warning("afterload: the end of the loop %r is told to nobody: %s", self.label, gone)


class ThreadRun(Run):
    """A sync generator in a thread of its own."""

    def __init__(self, loops: Owner, *what: Any) -> None:
        super().__init__(loops, *what)
        self._condition = threading.Condition()

    def start(self) -> None:
        """See `Run.start`; in a thread of its own."""
        threading.Thread(target=self._drive, name=f"afterload-loop {self.label}", daemon=True).start()

    def wake(self) -> None:
        """See `Run.wake`."""
        with self._condition:
            self._condition.notify_all()

    def sleep(self, seconds: float) -> None:
        """See the function `sleep`."""
        with self._condition:
            self._condition.wait_for(lambda: self.stopped, seconds)
        if self.stopped:
            raise Stopped

    def _drive(self) -> None:
        _current.set(self)
        source: Any = self.source
        error: BaseException | None = None
        try:
            while True:
                with self._condition:
                    self._condition.wait_for(lambda: self.stopped or self.may_step())
                if self.stopped:
                    break
                with self.step_context():
                    try:
                        thing = next(source)
                    except StopIteration:
                        break
                self.publish(thing)
        except BaseException as e:  # noqa: BLE001 - whatever ends a loop ends its channel
            error = e
        try:
            with self.step_context():
                source.close()
        except BaseException as e:  # noqa: BLE001 - whatever ends a loop ends its channel
            if error is None:
                error = e
        self.over(error)


class TextRun(ThreadRun):
    """A generator of the pieces of a text; its log is a `Pipe`."""

    log: Pipe

    def __init__(self, loops: Owner, *what: Any) -> None:
        super().__init__(loops, *what)
        self._context = contextvars.copy_context()
        self._context.run(_current.set, self)

    def first(self) -> bytes:
        """The first piece, in the thread that asks for it, before the run is started."""
        return self._bytes(self._context.run(next, self.source, ""))  # type: ignore[arg-type]

    def _drive(self) -> None:
        self._context.run(super()._drive)

    @staticmethod
    def _bytes(piece: str) -> bytes:
        # What is no Unicode text would stop what is behind it.
        return piece.encode("utf-8", "replace")

    def served(self, offset: int) -> None:
        """See `Run.served`."""
        waited = not self.may_step()
        self.loops.hub.forget(self.log, offset)
        if waited:
            self.wake()

    def may_step(self) -> bool:
        """See `Run.may_step`."""
        return not self.away and self.log.size < self.loops.settings.ahead_bytes

    def publish(self, thing: Any) -> None:
        """See `Run.publish`."""
        with self.lock:
            if self.stopped:
                return
            self.loops.hub.write(self.channel, self._bytes(thing), self.log)
        if not self.may_step():
            self.loops.hub.hurry(self.log, self.channel)


class TaskRun(Run):
    """An async generator as a task on the loops' event loop."""

    def __init__(self, loops: Owner, *what: Any) -> None:
        super().__init__(loops, *what)
        self._loop = loops.event_loop()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """See `Run.start`; as a task."""

        def begin() -> None:
            self._task = self._loop.create_task(self._drive(), name=f"afterload-loop {self.label}")

        self._loop.call_soon_threadsafe(begin)

    def wake(self) -> None:
        """See `Run.wake`; a run that was stopped is cancelled."""

        def change() -> None:
            self._changed.set()
            if self.stopped and self._task is not None and not self.finished.is_set():
                self._task.cancel()

        try:
            self._loop.call_soon_threadsafe(change)
        except RuntimeError:
            pass  # the event loop is closed: the process ends

    def sleep(self, seconds: float) -> None:
        """Refuses: it would hold up all tasks."""
        raise LoopError("live.sleep() would block every async loop; use: await asyncio.sleep(...)")

    async def _drive(self) -> None:
        _current.set(self)
        source: Any = self.source
        error: BaseException | None = None
        try:
            while True:
                while not (self.stopped or self.may_step()):
                    self._changed.clear()
                    await self._changed.wait()
                if self.stopped:
                    break
                with self.step_context():
                    try:
                        thing = await anext(source)
                    except StopAsyncIteration:
                        break
                await self._call(self.publish, thing)
        except BaseException as e:  # noqa: BLE001 - whatever ends a loop ends its channel
            error = e
        try:
            with self.step_context():
                await source.aclose()
        except BaseException as e:  # noqa: BLE001 - whatever ends a loop ends its channel
            if error is None:
                error = e
        await asyncio.shield(self._call(self.over, error))

    def _conclude(self, failed: BaseException | None) -> None:
        # Not where it holds up the other tasks, or those that wait for a hub.
        if failed is not None and self.loops.handlers:
            context = contextvars.copy_context()
            conclude = super()._conclude
            try:
                threading.Thread(
                    target=context.run,
                    args=(conclude, failed),
                    name=f"afterload-loop {self.label}",
                    daemon=True,
                ).start()
                return
            except RuntimeError:
                pass  # there is no thread for it
        super()._conclude(failed)

    def _may_wait(self) -> bool:
        if self.held is not None:
            return self.held.is_remote
        return self.lease is not None and isinstance(self.lease.outlet, Client)

    async def _call(self, what: Callable[[Any], None], thing: Any) -> None:
        """Calls what may have to wait for another process, without holding up the other loops."""
        if self._may_wait():
            context = contextvars.copy_context()
            await self._loop.run_in_executor(self.loops.executor, context.run, what, thing)
        else:
            what(thing)
