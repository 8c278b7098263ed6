"""A TCP proxy with faults: what networks, proxies and dying servers do to a connection, exactly and at will.

One thread and one selector serve all lines (`afterload.testing.line`).

A port that was given back while connections are refused may be given to somebody else; to the very client that tries to
reach it, even, which then talks to itself. So a second socket keeps the port, and never listens.
"""

from __future__ import annotations

import selectors
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from ..errors import LoopError, SettingError
from .fault import Fault, Plan, checked_plan
from .line import Line, Lines

_PATIENCE = 10.0  # seconds for the proxy's own thread
# Two sockets on one port, of which one never listens.
_SHARED = (
    socket.SO_REUSEADDR if sys.platform == "linux" else getattr(socket, "SO_REUSEPORT", socket.SO_REUSEADDR)
)

T = TypeVar("T")


class FaultProxy:
    r"""A TCP proxy on loopback, in front of a server, that spoils connections byte by byte.

    It listens from its making until `close`, or until the end of its ``with`` block. All methods may be called from any
    thread; what they change is in force when they return. Bytes are never left out or changed: for the server and its
    client what comes through is right, late, or cut.

    Args:
        to: the server: its port on 127.0.0.1, or its host and port.
        plan: the faults. A `Fault` for all connections; a list by their number, from 0, of which those beyond
            have none; or a function from that number to a `Fault` or None, called in the proxy's thread.
        port: to listen on; by default one that is free.

    Attributes:
        port: it listens on, on 127.0.0.1.
        connections: how many have come.

    Raises:
        SettingError: `plan` or `to` are none of these.
        OSError: the port is taken.

    Example:
        >>> server = socket.create_server(("127.0.0.1", 0))
        >>> with FaultProxy(server.getsockname()[1], Fault(cut=5)) as proxy:
        ...     client = socket.create_connection(("127.0.0.1", proxy.port))
        ...     held, _ = server.accept()
        ...     held.sendall(b"hello, world")
        ...     client.makefile("rb").read()
        b'hello'
        >>> proxy.cuts, proxy.bytes_answered
        (1, 5)
        >>> for sock in (server, client, held):
        ...     sock.close()
    """

    def __init__(self, to: int | tuple[str, int], plan: Plan = None, *, port: int = 0) -> None:
        host, number = ("127.0.0.1", to) if isinstance(to, int) else _checked_address(to)
        if not 0 < number < 65_536:
            raise SettingError(f"the port of a server is a number from 1 to 65535, not {number!r}")
        family, _, _, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        self._plan = checked_plan(plan)
        self.connections = 0
        self._place = _bound(port)
        self.port: int = self._place.getsockname()[1]
        self._listener: socket.socket | None = None
        self._lines = Lines(family, address)
        self._selector = self._lines.selector
        self._commands: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._over = False
        self._failure: Exception | None = None
        self._wake_out, self._wake_in = socket.socketpair()
        for end in (self._wake_out, self._wake_in):
            end.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="afterload-fault-proxy", daemon=True)
        self._listen()
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens, as ``http://127.0.0.1:PORT``, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """How many connections are open now, those that are being cut left out."""
        return sum(line.is_open for line in list(self._lines.there))

    @property
    def cuts(self) -> int:
        """How many connections it has cut, by a fault or by `cut`."""
        return self._lines.cuts

    @property
    def bytes_asked(self) -> int:
        """Bytes of requests that were passed on."""
        return self._lines.asked

    @property
    def bytes_answered(self) -> int:
        """Bytes of answers that were passed on, heads included."""
        return self._lines.answered

    @property
    def plan(self) -> Plan:
        """The faults of connections that are to come. It may be set; those that are there keep theirs."""
        return self._plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        plan = checked_plan(plan)
        self._do(lambda: setattr(self, "_plan", plan))

    def switch(self, fault: Fault | None = None) -> None:
        """Gives all connections this fault, those that are open and those to come; None is none.

        What was kept back goes on from where it was. A cut that would be in the past comes at once.

        Raises:
            SettingError: it is no `Fault`.
        """
        if not isinstance(fault, Fault | None):
            raise SettingError(f"a fault is a Fault or None, not {fault!r}")

        def command() -> None:
            self._plan = fault
            for line in list(self._lines.there):
                line.switch(fault or Fault())

        self._do(command)

    def cut(self, *, reset: bool = False) -> int:
        """Cuts all connections that are open now; new ones are as `plan` says.

        Args:
            reset: by RST, as a process that was killed or a firewall may, and not by FIN.

        Returns:
            How many there were.
        """

        def command() -> int:
            lines = [line for line in self._lines.there if line.is_open]
            for line in lines:
                line.cut(reset)
            return len(lines)

        return self._do(command)

    @property
    def refusing(self) -> bool:
        """Whether connections are refused, as where no server listens. It may be set; open ones go on."""
        return self._listener is None

    @refusing.setter
    def refusing(self, refusing: bool) -> None:
        if type(refusing) is not bool:
            raise SettingError(f"refusing is True or False, not {refusing!r}")

        def command() -> None:
            if refusing and self._listener is not None:
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = None
            elif not refusing and self._listener is None:
                self._listen()

        self._do(command)

    def close(self) -> None:
        """Ends it, and all connections with it. A second time does nothing.

        Raises:
            Exception: what the function that was given as a plan has raised.
        """
        if self._over:
            return
        self._over = True
        self._wake()
        self._thread.join(_PATIENCE)
        for line in list(self._lines.there):
            line.close()
        for sock in (self._place, self._listener, self._wake_in, self._wake_out):
            if sock is not None:
                sock.close()
        self._selector.close()
        self._raise_failure()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> None:
        listener = _bound(self.port)
        listener.listen(1024)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)

    def _wake(self) -> None:
        try:
            self._wake_out.send(b"\0")
        except OSError:
            pass  # full: it is about to wake anyway

    def _do(self, command: Callable[[], T]) -> T:
        """Runs it in the proxy's thread, and returns what it returns."""
        if self._over:
            raise LoopError("the proxy has been closed")
        self._raise_failure()
        done: Future[T] = Future()
        self._commands.append((command, done))
        self._wake()
        return done.result(_PATIENCE)

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    # In its own thread

    def _run(self) -> None:
        while not self._over:
            for key, mask in self._selector.select(self._lines.wait()):
                if isinstance(key.data, Line):
                    key.data.ready(key.fileobj, mask)
                elif key.fileobj is self._wake_in:
                    self._wake_in.recv(4096)
                elif key.fileobj is self._listener:  # it may be closed since
                    self._accept()
            while self._commands:
                command, done = self._commands.popleft()
                try:
                    done.set_result(command())
                except Exception as error:  # noqa: BLE001 - raised where it was asked for
                    done.set_exception(error)
            self._lines.look_after()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # gone before it was here
        number = self.connections
        self.connections += 1
        try:
            fault = self._fault_of(number)
        except Exception as error:  # noqa: BLE001 - raised by the next method, or at the end
            self._failure = error
            client.close()
            return
        Line(self._lines, client, fault or Fault()).flow()

    def _fault_of(self, number: int) -> Fault | None:
        plan = self._plan
        if isinstance(plan, Fault | None):
            return plan
        if not callable(plan):
            return plan[number] if number < len(plan) else None
        fault = plan(number)
        if not isinstance(fault, Fault | None):
            raise SettingError(f"a plan returned no Fault and not None, but {fault!r}")
        return fault


def _checked_address(to: Any) -> tuple[str, int]:
    match to:
        case (str(host), int(port)):
            return host, port
    raise SettingError(f"a server is its port, or its host and port, not {to!r}")


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SHARED, 1)
        sock.bind(("127.0.0.1", port))
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
