"""What the benchmarks ask the operating system: processes started and ended by their own pid, CPU, memory."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent


class BenchError(Exception):
    """A benchmark could not be run; the text says why."""


def allow_files() -> int:
    """Raises the limit of open files as far as it goes; returns it. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


class Process:
    """A child that is spoken to by lines, and that ends with its `with` block whatever happens."""

    def __init__(
        self,
        command: list[str],
        *,
        env: dict[str, str] | None = None,
        pass_fds: tuple[int, ...] = (),
        end: signal.Signals = signal.SIGTERM,
        patience: float = 5.0,
    ) -> None:
        self.end, self.patience = end, patience
        self.name = Path(command[0]).name
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self.child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            bufsize=0,
            env={**os.environ, **(env or {})},
            pass_fds=pass_fds,
        )
        self.pid = self.child.pid
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.stdin, self.stdout = self.child.stdin, self.child.stdout
        self._heard = b""

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.stdin.close()
        if self.child.poll() is None:
            self.child.send_signal(self.end)
        try:
            self.child.wait(self.patience)
        except subprocess.TimeoutExpired:
            # its own children first: they would outlive it
            for pid in children(self.pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self.child.kill()
            self.child.wait()
        self.stdout.close()
        self.log.close()

    def said(self) -> str:
        """The end of what it wrote to stderr."""
        self.log.flush()
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), 2000, max(0, size - 2000)).decode(errors="replace")

    def tell(self, line: str) -> None:
        self.stdin.write(f"{line}\n".encode())

    def line(self, timeout: float) -> str:
        """Its next line."""
        while b"\n" not in self._heard:
            if not select.select([self.stdout], [], [], timeout)[0]:
                raise BenchError(f"{self.name} said nothing for {timeout} s; stderr: {self.said()}")
            data = os.read(self.stdout.fileno(), 65_536)
            if not data:
                raise BenchError(f"{self.name} ended with {self.child.wait(5)}; stderr: {self.said()}")
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode().strip()


def compiled(source: str, into: Path) -> str:
    """Compiles one C file of this directory; the path of the program."""
    program = into / Path(source).stem
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BenchError("there is no C compiler (Debian: apt-get install gcc libc6-dev)")
    command = [compiler, "-O2", "-Wall", "-o", str(program), str(HERE / source)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise BenchError(f"{source} does not compile: {error.stderr}") from None
    return str(program)


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def cpu(pid: int) -> float:
    """Seconds of CPU a process has used, user and system, with the threads it no longer has.

    This is the kernel's own sum, to the nanosecond: `/proc/PID/stat` counts in ticks of 10 ms, and the
    `schedstat` of the threads that are there forgets those that are not. The number is that of
    clock_getcpuclockid(3), which Python does not have.
    """
    try:
        return time.clock_gettime_ns(~pid << 3 | 2) / 1e9
    except OSError as error:
        raise BenchError(f"the CPU of process {pid} is not to be had: {error}") from None


def busy() -> float:
    """Seconds of CPU this machine has used since it was started, on all its cores."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    # user, nice, system, idle, iowait, irq, softirq, steal
    ticks = sum(int(ticks) for i, ticks in enumerate(fields) if i not in (3, 4))
    return ticks / os.sysconf("SC_CLK_TCK")


def ours() -> float:
    """Seconds of CPU of this process and of all those it has started and seen the end of."""
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def private_memory(pid: int) -> int:
    """Bytes of memory that are this process's alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return 1024 * (values["Private_Clean"] + values["Private_Dirty"])


def kernel_memory() -> int:
    """Bytes the kernel holds for sockets: their slabs and what is queued in them. Of the whole machine."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    queued = 0
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            queued = int(line.split()[-1]) * resource.getpagesize()
    return int(meminfo["Slab"].split()[0]) * 1024 + queued


@contextlib.contextmanager
def listening() -> Iterator[tuple[int, int]]:
    """A listening socket for a server to inherit, its fd and port: so no port is chosen twice or waited for."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(4096)
        # what asyncio does for a connection it knows to be TCP's; of an inherited socket it does not know
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock.fileno(), sock.getsockname()[1]
