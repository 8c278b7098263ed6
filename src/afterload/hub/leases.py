"""Who runs the shared loops and the jobs: each once in a namespace, in one of its processes.

A **lease** is the right to run one loop, for one run: a number that no other lease of this hub has. What comes under
any other number is not published, so two runs can never write one channel, whatever their processes believe.

::

    offered ──first viewer──▶ held ──▶ the run ends by itself: that is remembered for a while, as the channel's status
                               │ ──▶ nobody has watched for `linger`: stopped; the next viewer begins anew
                               │ ──▶ its process gives it back, or is gone: another one begins, if somebody watches
                               └ ──▶ its process has no room: another one begins, or they are asked again in a second

A **job** is begun by a process itself, and its lease is never given to another: what it does may have effects, and is
not to be done again.

::

    held ──▶ it ends by itself, or was told to: remembered for `loop_retention`, then forgotten
      │  ──▶ its process gives it back, or is gone: `lost`; remembered likewise
      └─ the hub ends ──▶ its process holds it anew with the next hub, with the state that it has left so far

A runner is told to start and to stop outside the lock, as it may call back, and may be slow to hear: what it does then
under a lease that it has lost is refused by the number.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..errors import LoopError
from ..log import OPEN
from ..patch import Patch
from ..seldom import Seldom

if TYPE_CHECKING:
    from .hub import Hub

logger = logging.getLogger("afterload.hub")

FIRST = 5.0  # seconds that the first viewer of a run has to come, if the linger is less
_AGAIN = 1.0  # seconds until those who had no room are asked again
_OFFERS_MOST = 10_000
_OVER_MOST = 1000  # jobs that have ended, and are remembered
_WATCHED = 60.0  # seconds until a job that would be forgotten, and is looked at, is looked after again
GONE = "The server no longer has what this page was following."
STOPPED = "The server was stopped before it had finished."


class Runner(Protocol):
    """A process that offers to run loops."""

    def start(self, name: str, number: int) -> None:
        """Starts a run of a loop, under a lease.

        Raises:
            LoopError: it has no room. (One that can only say so later calls `Leases.refuse`.)
        """

    def stop(self, name: str, number: int) -> None:
        """Ends that run: the lease is over already."""

    def cancel(self, name: str, number: int) -> None:
        """Tells a job to end. The lease is over when it says that it has."""


@dataclass(eq=False)
class _Loop:
    """A loop that is offered, or a job.

    Attributes:
        linger: seconds it goes on after its last viewer.
        runners: who offers it, who came first first.
        number: of the lease that holds now, or 0.
        holder: who has it.
        refused: who had no room when asked last.
        asking: they are asked again soon.
        count: how many entries of the present run were published.
        offset: of the last of them.
        begun: its channel was begun for a run that is still to come.
        status: how the last run ended by itself, or "".
        ended: clock time at which it did.
        viewers: how many were there at the last look.
        is_job: it is one, and nobody offers it.
        message: of the status, for the readers of a job's pages.
    """

    name: str
    linger: float
    runners: list[Runner] = field(default_factory=list)
    number: int = 0
    holder: Runner | None = None
    refused: list[Runner] = field(default_factory=list)
    asking: bool = False
    count: int = 0
    offset: int = 0
    begun: bool = False
    status: str = ""
    ended: float = 0.0
    viewers: int = 0
    is_job: bool = False
    message: str = ""


class Leases:
    """The leases of a hub.

    Args:
        hub: whose channels the loops write.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._lock = threading.RLock()
        self._loops: dict[str, _Loop] = {}
        self._last = 0
        self._held: Counter[Runner] = Counter()
        self._full = Seldom()

    # By those who run loops

    def offer(self, runner: Runner, name: str, linger: float) -> None:
        """A runner offers to run a loop, which it does at once where somebody watches and nobody runs it."""
        with self._lock:
            loop = self._loops.get(name)
            if loop is None:
                if len(self._loops) >= _OFFERS_MOST:
                    raise LoopError(f"{_OFFERS_MOST} loops are offered already")
                loop = self._loops[name] = _Loop(name, linger)
                self._hub.watch(self._hub.log, name, lambda count: self._watched(name, count))
            elif loop.is_job:
                raise LoopError(f"{name!r} is the channel of a job")
            loop.linger = linger
            if runner not in loop.runners:
                loop.runners.append(runner)
            loop.viewers = self._hub.viewers(name)
        if loop.viewers:
            self._try(name)

    def withdraw(self, runner: Runner, message: str = GONE) -> None:
        """A runner ends, or is gone: its leases are free, and others begin anew where somebody watches.

        Args:
            runner: who.
            message: for the readers of the pages of its jobs, which are lost.
        """
        free = []
        self.lose(runner, message)
        with self._lock:
            for loop in self._loops.values():
                if runner in loop.runners:
                    loop.runners.remove(runner)
                if runner in loop.refused:
                    loop.refused.remove(runner)
                if loop.holder is runner:
                    self._free(loop)
                    free.append(loop.name)
            del self._held[runner]
        for name in free:
            if self._hub.viewers(name):
                self._try(name)

    def publish_run(self, name: str, number: int, count: int, patches: tuple[Patch, ...]) -> int | None:
        """What a run has yielded.

        Args:
            name: of the loop.
            number: of the lease.
            count: how many the run has yielded with this one. One that was told before is not published again.
            patches: the entry.

        Returns:
            Its offset, or None if the lease is over and nothing was published.
        """
        with self._lock:
            if not self._holds(name, number):
                return None
            loop = self._loops[name]
            if count > loop.count:
                loop.count, loop.offset = count, self._hub.publish(name, patches, self._hub.log)
            return loop.offset

    def give_back(self, name: str, number: int) -> None:
        """A run has ended, and the loop has not: another one is to begin where somebody watches."""
        with self._lock:
            if not self._holds(name, number):
                return
            self._free(self._loops[name])
        if self._hub.viewers(name):
            self._try(name)

    def finish(self, name: str, number: int, status: str, message: str) -> None:
        """A run has ended by itself; nothing, if its lease was over before."""
        with self._lock:
            if not self._holds(name, number):
                return
            self._over(self._loops[name], status, message)

    def refuse(self, name: str, number: int) -> None:
        """A runner that was told to start has no room."""
        if self._holds(name, number):
            self._refused(self._loops[name], number)
            self._try(name)

    # By those who run jobs

    def hold(self, runner: Runner, name: str, patches: tuple[Patch, ...], whole: bool) -> int:
        """A runner has begun a job, or comes to this hub with one that goes on.

        Args:
            runner: who runs it, and nobody else ever will.
            name: of its channel, which is its own.
            patches: what the job has left in its channel so far.
            whole: they are all that is to be done to a page as it was served.

        Returns:
            The number of the lease; one that was there before is over.

        Raises:
            LoopError: the channel is a shared loop's.
        """
        with self._lock:
            job = self._loops.get(name)
            if job is None:
                job = self._loops[name] = _Loop(name, 0.0, is_job=True)
                # Also so that it is remembered as long as it is here.
                self._hub.watch(self._hub.log, name, lambda count: None)
            elif not job.is_job:
                raise LoopError(f"{name!r} is the channel of a shared loop")
            self._free(job)
            self._last += 1
            job.number, job.holder = self._last, runner
            self._held[runner] += 1
            job.status, job.message, job.count = "", "", 0
            self._hub.begin(name, whole=whole)
            if patches:
                self._hub.publish(name, patches, self._hub.log)
            return job.number

    def lose(self, runner: Runner, message: str) -> None:
        """The jobs of a runner are lost, and a message says why to the readers of their pages."""
        with self._lock:
            for job in [job for job in self._loops.values() if job.is_job and job.holder is runner]:
                self._over(job, "lost", message)
                self._hub.hurry(self._hub.log, job.name)

    def standing(self, name: str) -> tuple[str, str] | None:
        """How a job stands, by the name of its channel.

        Returns:
            Its status and the message to it; two empty texts if it is unknown, and its process may yet come; None if it
            is unknown.
        """
        with self._lock:
            job = self._loops.get(name)
            if job is not None and job.is_job:
                return job.status or OPEN, job.message
            return ("", "") if self._hub.is_young else None

    def is_job(self, name: str) -> bool:
        """Whether a channel is a job's, which nobody else writes."""
        loop = self._loops.get(name)
        return loop is not None and loop.is_job

    def cancel(self, name: str) -> bool:
        """Tells the process of a job to end it; whether there is one that goes on."""
        with self._lock:
            job = self._loops.get(name)
            if job is None or not job.is_job or job.holder is None:
                return False
            holder, number = job.holder, job.number
        holder.cancel(name, number)
        return True

    # By those who need them

    def want(self, name: str, first: Runner | None = None) -> None:
        """Has somebody run a loop, unless one does or the end of its last run is still remembered.

        Args:
            name: of the loop; a channel that no loop writes needs nothing.
            first: who is asked before others.

        Raises:
            LoopError: none of those that could be asked at once has room.
        """
        while True:
            with self._lock:
                loop = self._loops.get(name)
                if loop is None or self._stands(loop):
                    return
                if first not in loop.runners:
                    free = [runner for runner in loop.runners if runner not in loop.refused]
                    if not free:
                        self._ask_again(loop)
                        return
                    first = min(free, key=self._held.__getitem__)
                self._last += 1
                number = loop.number = self._last
                loop.holder = runner = first
                self._held[runner] += 1
                loop.status, loop.count = "", 0
                if not loop.begun:
                    self._hub.begin(name)
                loop.begun = False
            try:
                runner.start(name, number)
            except LoopError:
                self._refused(loop, number)
                if all(runner in loop.refused for runner in loop.runners):
                    self._ask_again(loop)
                    raise
                first = None
                continue
            self._hub.later(max(FIRST, loop.linger), partial(self._stop_if_unwatched, loop, number))
            return

    def restart(self, name: str) -> None:
        """Ends the present run of a loop, and begins a new one if somebody watches."""
        with self._lock:
            loop = self._loops.get(name)
            if loop is None or loop.is_job:
                return
            had_run = bool(loop.number or loop.status)
            stop = self._revoked(loop)
            loop.status = ""
            watched = self._hub.viewers(name) > 0
            if had_run and not watched:
                self._hub.begin(name)
        stop()
        if watched:
            self._try(name)

    def holders(self) -> dict[str, Runner]:
        """Who runs what."""
        with self._lock:
            return {name: loop.holder for name, loop in self._loops.items() if loop.holder is not None}

    def offered(self) -> Iterable[str]:
        """The loops that somebody offers."""
        with self._lock:
            return [name for name, loop in self._loops.items() if loop.runners]

    def is_void(self, name: str) -> bool:
        """Whether what a channel shows is of a run that is over, and its next viewer will begin another."""
        with self._lock:
            loop = self._loops.get(name)
            return loop is not None and bool(loop.runners) and not self._stands(loop)

    # How they come and go

    def _holds(self, name: str, number: int) -> bool:
        loop = self._loops.get(name)
        return loop is not None and number > 0 and loop.number == number

    def _stands(self, loop: _Loop) -> bool:
        """Whether what the channel shows is what a viewer is to see: its run goes on, or has ended not long ago."""
        if loop.number:
            return True
        s = self._hub.settings
        keep = {"done": s.loop_retention, "failed": s.failed_retention}.get(loop.status, 0.0)
        return self._hub.clock() - loop.ended < keep

    def _free(self, loop: _Loop) -> None:
        if loop.holder is not None:
            self._held[loop.holder] -= 1
        loop.number, loop.holder = 0, None

    def _over(self, loop: _Loop, status: str, message: str) -> None:
        """It has ended; under the lock."""
        self._free(loop)
        loop.status, loop.message, loop.ended = status, message, self._hub.clock()
        self._hub.finish(loop.name, status, message)
        if loop.is_job:
            self._hub.later(self._hub.settings.loop_retention, partial(self._forget, loop))
            over = [job for job in self._loops.values() if job.is_job and not job.number]
            if len(over) > _OVER_MOST:
                self._drop(min(over, key=lambda job: job.ended))

    def _forget(self, job: _Loop) -> None:
        """A job that has ended long ago is not remembered any more."""
        with self._lock:
            known = self._loops.get(job.name) is job and not job.number
            if not known or self._hub.clock() - job.ended < self._hub.settings.loop_retention * 0.999:
                return
            if self._hub.viewers(job.name):  # of a page that follows something else as well
                self._hub.later(_WATCHED, partial(self._forget, job))
            else:
                self._drop(job)

    def _drop(self, job: _Loop) -> None:
        del self._loops[job.name]
        self._hub.unwatch(self._hub.log, job.name)
        self._hub.drop(job.name)

    def _refused(self, loop: _Loop, number: int) -> None:
        with self._lock:
            if loop.number != number or loop.holder is None:
                return
            if loop.holder not in loop.refused:
                loop.refused.append(loop.holder)
            self._free(loop)
            loop.begun = True

    def _revoked(self, loop: _Loop) -> Callable[[], None]:
        """Ends a lease; what is returned tells its holder, and is to be called without the lock."""
        holder, number = loop.holder, loop.number
        self._free(loop)
        if holder is None:
            return lambda: None
        return lambda: holder.stop(loop.name, number)

    def _try(self, name: str) -> None:
        try:
            self.want(name)
        except LoopError:
            pass  # they are asked again; and who has no room says so itself

    def _ask_again(self, loop: _Loop) -> None:
        if loop.asking or not loop.runners:
            return
        loop.asking = True
        if self._full.count() and len(loop.runners) > 1:
            logger.warning(
                "afterload: no process has room for the loop %r (max_loops); they are asked again", loop.name
            )

        def again() -> None:
            with self._lock:
                loop.asking = False
                loop.refused.clear()
            if self._hub.viewers(loop.name):
                self._try(loop.name)

        self._hub.later(_AGAIN, again)

    def _watched(self, name: str, count: int) -> None:
        loop = self._loops[name]
        more, loop.viewers = count > loop.viewers, count
        if more:
            self._try(name)
        elif not count and loop.number:
            number = loop.number
            self._hub.later(loop.linger, lambda: self._stop_if_unwatched(loop, number))

    def _stop_if_unwatched(self, loop: _Loop, number: int) -> None:
        with self._lock:
            if loop.number != number or self._hub.viewers(loop.name):
                return
            since = self._hub.clock() - self._hub.left_at(self._hub.log, loop.name)
            if since < loop.linger * 0.999:
                return
            stop = self._revoked(loop)
        stop()
