"""The poller: an event loop over `selectors` that many threads may hand work to.

It knows sockets, timers and commands, and nothing of viewers. `run_once` is one turn; a runner
(`afterload.hub.thread`) turns it for ever, a test by hand.
"""

from __future__ import annotations

import heapq
import logging
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import ParamSpec

logger = logging.getLogger("afterload.hub")

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
TICK = 1.0
_LONGEST = 3600.0  # of one wait; epoll takes no more than 24 days

Handler = Callable[[int], None]
P = ParamSpec("P")


class Poller:
    """Waits for sockets, timers and commands, and serves them one after the other.

    Args:
        clock: monotonic seconds.

    Attributes:
        on_work: called, in any thread, when there is something to do: a runner starts its thread then.
        each_turn: run at the end of every turn.
        busy: whether `each_turn` has something to do, so that the next turn must not wait.
        each_tick: run about once a second while `watching` says that there is a reason.
        watching: see `each_tick`.
        closed: see `close`.
        errors: failures of handlers, commands and timers. Each was logged, and none stops the poller.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.on_work: Callable[[], None] = _nothing
        self.each_turn: Callable[[], None] = _nothing
        self.each_tick: Callable[[], None] = _nothing
        self.busy: Callable[[], bool] = _no
        self.watching: Callable[[], bool] = _no
        self.errors = 0
        self.closed = False
        self._commands: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer = 0
        self._next_tick = 0.0
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = socket.socketpair()
        for end in (self._wake_out, self._wake_in):
            end.setblocking(False)
        self._selector.register(self._wake_in, READ, self._woken)
        self._asleep = False

    # Called from any thread

    def call(self, command: Callable[[], None]) -> None:
        """Runs a command in the poller's thread."""
        self._commands.append(command)
        self.wake()

    def later(self, delay: float, command: Callable[[], None]) -> None:
        """Runs a command in the poller's thread, `delay` seconds from now."""
        due = self.clock() + delay
        self.call(lambda: self.at(due, command))

    def wake(self) -> None:
        """Has the poller look for work now."""
        self.on_work()
        if self._asleep:
            self._asleep = False  # who wakes it does so for all who come meanwhile
            try:
                self._wake_out.send(b"\0")
            except OSError:
                pass  # full: it is about to wake anyway; closed: there is nobody to wake

    # Called in the poller's thread

    def register(self, sock: socket.socket, handler: Handler) -> None:
        """Calls the handler with what the socket is ready for; at first, for reading."""
        self._selector.register(sock, READ, handler)

    def want(self, sock: socket.socket, mask: int) -> None:
        """What a registered socket is waited for from now on."""
        self._selector.modify(sock, mask, self._selector.get_key(sock).data)

    def unregister(self, sock: socket.socket) -> None:
        """Forgets a socket."""
        self._selector.unregister(sock)

    def at(self, due: float, command: Callable[[], None]) -> None:
        """Runs a command at a clock time."""
        self._timer += 1  # equal times keep their order, and commands are never compared
        heapq.heappush(self._timers, (due, self._timer, command))

    def run_once(self, timeout: float | None = None) -> None:
        """One turn: waits at most `timeout` seconds for something to do, and does it."""
        for key, mask in self._select(timeout):
            self.safely(key.data, mask)
        for _ in range(len(self._commands)):
            if self._commands:  # one of them may have closed it
                self.safely(self._commands.popleft())
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            self.safely(heapq.heappop(self._timers)[2])
        self.safely(self.each_turn)
        if self.clock() >= self._next_tick:
            self._next_tick = self.clock() + TICK
            self.safely(self.each_tick)

    def safely(self, action: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Runs something of which a failure is a bug: it is logged whole, and the poller goes on."""
        try:
            action(*args, **kwargs)
        except Exception:
            self.errors += 1
            logger.exception("afterload: an error inside the hub; it goes on")

    def close(self) -> None:
        """Closes what the poller itself has opened, and forgets what it was to do."""
        self.closed = True
        self._commands.clear()
        self._timers.clear()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def _select(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        # Whoever adds work looks at `_asleep` afterwards; here it is set before work is looked for.
        self._asleep = True
        if self._commands or self.busy():
            timeout = 0.0
        else:
            now = self.clock()
            timeout = _least(timeout, _LONGEST)
            if self._timers:
                timeout = _least(timeout, self._timers[0][0] - now)
            if self.watching():
                timeout = _least(timeout, self._next_tick - now)
        try:
            return self._selector.select(timeout)
        finally:
            self._asleep = False

    def _woken(self, mask: int) -> None:
        try:
            self._wake_in.recv(4096)
        except BlockingIOError:
            pass


def _nothing() -> None:
    pass


def _no() -> bool:
    return False


def _least(a: float | None, b: float) -> float:
    return max(0.0, b if a is None else min(a, b))
