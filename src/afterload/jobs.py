"""Jobs: loops that a request or a script starts, which end, and are remembered for a while.

A job runs in the process that has started it, from the start and once: nobody needs to watch, and nobody begins it
again. Its channel is `job-ID`, in the hub, so pages of all processes follow it, and ask it to end; `Job` is what a
program has of it, in that process or in another one.

How a job ends::

    returns                        ──▶ `done`
    raises                         ──▶ log record, `failed`, on_error
    `cancel`, in any process       ──▶ told to stop; when it has ended, `cancelled`
    its process ends               ──▶ told to stop, and at once `lost`
    its process is killed          ──▶ `lost`, as soon as the hub sees the end of its connection
    the hub ends                   ──▶ goes on, and its channel with the next hub (`afterload.hub.held`)

Who is told to stop raises `Stopped` (in a task, `CancelledError`) out of what it waits in, or at its next `yield`.
"""

from __future__ import annotations

import inspect
import math
import operator
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from .errors import LoopError, PatchError
from .hub.held import PREFIX
from .hub.leases import GONE as LOST
from .log import OPEN
from .patch import patches, text
from .progress import Pace, Progress
from .runs import Run, Source, Stopped, current
from .values import short

T = TypeVar("T")

_EACH = 0.1  # seconds between two reports of a track
_TELLING = 5.0  # seconds that who waits for the end of a job gives its hub to come back
_LOOKS = (0.02, 0.05, 0.1, 0.25, 0.5)  # seconds between looks at a job of another process; the last goes on


class Owner(Protocol):
    """Whom a job asks that runs elsewhere (`afterload.live.Live`)."""

    def standing(self, id: str) -> tuple[str, str]:
        """Its status, and the message to it.

        Raises:
            JobError: there is none.
        """

    def cancel_job(self, id: str) -> bool:
        """Tells it to end."""


class Gone(Enum):
    """Why nobody knows a job that a page knew."""

    LOST = "lost"  # it is not remembered, or its process is gone
    EARLY = "early"  # the hub is new, and its process may yet come


class Job:
    """A loop that was started by a request or a script; from `Live.start` or `Live.job`.

    Attributes:
        id: what stands for it in URLs and databases: 22 characters of ``A-Z a-z 0-9 - _`` that nobody can guess.
        channel: the channel that its pages follow, ``job-`` and the id.
        gone: why it is unknown, where a page that is open already asks for it; else None.
    """

    def __init__(self, id: str, owner: Owner, run: Run | None = None, gone: Gone | None = None) -> None:
        self.id = id
        self.channel = PREFIX + id
        self.gone = gone
        self._owner = owner
        self._run = run

    def __repr__(self) -> str:
        return f"<job {self.id!r}>"

    @property
    def status(self) -> str:
        """How it stands: "open" while it runs; then "done", "failed", "cancelled", or "lost" with its process.

        Raises:
            JobError: it has ended so long ago (`loop_retention`) that it is not remembered any more.
            HubError: another process runs it, and the hub cannot be asked.
        """
        return self._standing()[0]

    @property
    def message(self) -> str:
        """Of a status "failed" or "lost", what the readers of its pages are told; else "".

        Raises:
            JobError: as of `status`.
            HubError: as of `status`.
        """
        return self._standing()[1]

    def _standing(self) -> tuple[str, str]:
        if self._run is not None and self._run.held is not None:
            return self._run.held.status, self._run.held.message
        if self.gone is Gone.LOST:
            return "lost", LOST
        return self._owner.standing(self.id)

    @property
    def cancelled(self) -> bool:
        """Whether it was told to end; for a job that computes for long, and neither yields nor waits.

        In a process that does not run it, whether it has ended so.
        """
        if self._run is not None:
            return self._run.stopped
        return self.status == "cancelled"

    def cancel(self) -> bool:
        """Tells it to end, whichever process runs it. When it has ended, its status is "cancelled".

        A generator ends at its `yield`, by GeneratorExit; `live.sleep`, `publish` and `track` end the function that
        calls them by raising. A coroutine is cancelled where it waits. So what is in a `finally` is done.

        Returns:
            Whether it was running.

        Raises:
            HubError: another process runs it, and the hub cannot be asked.
        """
        if self._run is None:
            return self._owner.cancel_job(self.id)
        if self._run.status:
            return False
        self._run.stop()
        return True

    def wait(self, timeout: float | None = None) -> str:
        """Waits until it has ended; a script that starts one needs to, as it ends with its process.

        In the process that runs it, where its hub is away then, another five seconds at most, until there is one that
        knows: else the pages would be told that it is lost when the process ends. And where it has failed, until the
        `on_error` handlers are through; so none of them may wait for it, or for somebody who does.

        Args:
            timeout: seconds at most; None for as long as it takes.

        Returns:
            Its status; "open" if it has not ended in that time.

        Raises:
            JobError: as of `status`.
            LoopError: it is called in the job itself, or `timeout` is no number.
            HubError: as of `status`.
        """
        if self._run is not None and self._run is current():
            raise LoopError(f"{self!r} cannot wait for its own end")
        if timeout is not None and math.isnan(timeout):
            raise LoopError(f"a timeout is a number of seconds, and not {timeout!r}")
        deadline = None if timeout is None else time.monotonic() + timeout

        def left(most: float = threading.TIMEOUT_MAX) -> float:
            return most if deadline is None else min(most, max(deadline - time.monotonic(), 0.0))

        if self._run is not None and self._run.held is not None:
            held = self._run.held
            if held.over.wait(left()):
                held.told.wait(left(_TELLING))
                if held.status == "failed":
                    self._run.finished.wait(left())
            return held.status
        looks = 0
        while (status := self.status) == OPEN and left() > 0:
            time.sleep(left(_LOOKS[min(looks, len(_LOOKS) - 1)]))
            looks += 1
        return status

    def publish(self, *things: Any) -> None:
        """Changes its pages; for a function that does not yield. In its process, from any thread.

        Args:
            *things: as of `Live.publish`.

        Raises:
            Stopped: it was told to end. No `Exception`, so nothing but a `finally` holds it up.
            LoopError: another process runs it, or it has ended.
            PatchError: as of `Live.publish`.
        """
        run = self._running()
        entry = patches(*things)
        if not entry:
            raise PatchError(f"there is nothing to publish to {self!r}")
        run.publish(entry)
        if run.stopped:
            raise Stopped

    def _running(self) -> Run:
        if self._run is None:
            raise LoopError(
                f"{self!r} runs in another process, or no more; only what runs it can publish to it"
            )
        if self._run.status:
            raise LoopError(f"{self!r} has ended: {self._run.status}")
        if self._run.stopped:
            raise Stopped
        return self._run

    def track(
        self,
        items: Iterable[T] | AsyncIterable[T],
        target: str,
        total: int | None = None,
        *,
        words: str | None = None,
        say: Callable[[Progress], Any] = str,
    ) -> Track[T]:
        """Iterates, and shows how far it has got, how fast it goes and how long it will yet take.

        For a ``for`` loop, or for an async iterable an ``async for``, of a job of any kind. Its pages are changed at
        most ten times a second, and when it is through. It ends the job, by raising, when that was told to end.

        Args:
            items: what to iterate.
            target: of the ``<progress>`` element: its `value`, and its `max`.
            total: how many there are; by default what ``len()`` says. Where nobody knows, the bar shows that something
                goes on, and the words count.
            words: target of an element for the words; by default the bar's with ``-text`` behind it, and "" for none.
            say: makes the words, of an `afterload.progress.Progress`.

        Raises:
            LoopError: total is no number from 0; or as of `publish`.
            PatchError: a target is none; or what `say` returns is none that `text` takes.

        Example:
            >>> def import_rows(job, rows):
            ...     for row in job.track(rows, "#bar"):  # <progress id="bar">, and <p id="bar-text">
            ...         print("importing", row)
        """
        if words is None:
            words = f"{target}-text"
        if total is None and (hint := operator.length_hint(items, -1)) >= 0:
            total = hint
        return Track(self, items, target, total, words, say)


class Track(Generic[T]):
    """What `Job.track` returns: iterates once, and reports."""

    def __init__(
        self,
        job: Job,
        items: Iterable[T] | AsyncIterable[T],
        target: str,
        total: int | None,
        words: str,
        say: Callable[[Progress], Any],
    ) -> None:
        self._job = job
        self._items: Any = items
        self._target = target
        self._words = words
        self._say = say
        self._done = 0
        self._reported = 0.0
        self._pace = Pace(total, time.monotonic())
        self._report()

    def __iter__(self) -> Iterator[T]:
        if not isinstance(self._items, Iterable):
            raise LoopError(f"{short(self._items)} cannot be iterated, or by `async for` only")
        try:
            for item in self._items:
                yield item
                self._count()
        finally:
            self._last()

    async def __aiter__(self) -> AsyncIterator[T]:
        if not isinstance(self._items, AsyncIterable):
            raise LoopError(f"{short(self._items)} cannot be iterated by `async for`")
        try:
            async for item in self._items:
                yield item
                self._count()
        finally:
            self._last()

    def _count(self) -> None:
        self._done += 1
        if self._job.cancelled:
            raise Stopped
        if time.monotonic() - self._reported >= _EACH:
            self._report()

    def _last(self) -> None:
        """It is through, or was left: what it shows last is where it has got to."""
        # Where the job has failed, it may be collected only afterwards.
        if not self._job.cancelled and self._job.status == OPEN:
            self._report(over=True)

    def _report(self, *, over: bool = False) -> None:
        self._reported = now = time.monotonic()
        progress = self._pace.at(self._done, now, over=over)
        shown = progress.patches(self._target)
        if self._words:
            shown.append(text(self._words, self._say(progress)))
        self._job.publish(shown)


def name_of(function: Any) -> str:
    """A function's name, for log records."""
    function = getattr(function, "func", function)  # of a functools.partial
    return str(getattr(function, "__qualname__", type(function).__name__))


def source_of(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Source:
    """What a job runs, as a generator.

    Raises:
        LoopError: it is no function, or cannot be called so.
    """
    if not callable(function):
        if inspect.iscoroutine(function):
            function.close()
        raise LoopError(
            f"live.start() takes a function and its arguments, live.start(f, x), and not {short(function)}"
        )
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise LoopError(f"{name_of(function)} cannot be started so: {error}") from error
    except ValueError:
        pass  # of what is written in C not all say what they take
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        source: Source = function(*args, **kwargs)
        return source
    if inspect.iscoroutinefunction(function):
        return _awaited(function, args, kwargs)
    return _called(function, args, kwargs)


def _called(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    """A function as a generator: its first step is all of it, unless what it returns is one."""
    found = function(*args, **kwargs)
    if inspect.isgenerator(found):
        yield from found
    elif inspect.isasyncgen(found) or inspect.isawaitable(found):
        close = getattr(found, "close", None)  # of a coroutine, which would say that nobody has awaited it
        if close is not None:
            close()
        raise LoopError(f"{name_of(function)}() returns {short(found)}: start the async function itself")


async def _awaited(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> AsyncIterator[Any]:
    """The same of a coroutine function."""
    await function(*args, **kwargs)
    yield None  # which is nothing
