"""The head of the shared log, where other processes see it without asking: a page of memory shared by all.

Every request of an app takes the head's position when it begins, before anything is read for its page, so it must not
cost a round trip. A number of eight bytes, aligned, is written and read whole by the processors that Python runs on.
What a hub has confirmed to whoever published it is in what anybody reads afterwards.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile

_SIZE = mmap.PAGESIZE
_MFD_CLOEXEC = 1
_SHM = "/dev/shm"  # noqa: S108 - of a file that has no name


class SharedHead:
    """The head as this process writes or reads it.

    Args:
        descriptor: of the memory, as another process made it; it is closed by this. None makes it.

    Raises:
        OSError: the system has none to give, or it is too small.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._own = descriptor is None
        self.descriptor = _memory() if descriptor is None else descriptor
        try:
            if self._own:
                os.ftruncate(self.descriptor, _SIZE)
            elif os.fstat(self.descriptor).st_size < _SIZE:  # to read behind its end would end the process
                raise OSError("what is to be the head is too small for it")
            access = mmap.ACCESS_WRITE if self._own else mmap.ACCESS_READ
            self._map = mmap.mmap(self.descriptor, _SIZE, access=access)
        except BaseException:
            os.close(self.descriptor)
            raise
        if not self._own:
            os.close(self.descriptor)
        self._number = memoryview(self._map).cast("q")
        self._last = 0

    def set(self, head: int) -> None:
        """What everybody reads from now on."""
        self._number[0] = head

    def get(self) -> int:
        """The head as it is now; as it was last, once it is closed."""
        try:
            return self._number[0]
        except ValueError:
            return self._last

    def close(self) -> None:
        """Lets go of it. Who writes it goes on to: what it writes is seen by nobody new."""
        if self._own:
            os.close(self.descriptor)
        else:
            self._last = self.get()
            self._number.release()
            self._map.close()


def _memory() -> int:
    """A descriptor of a file that is in memory only, or at least has no name."""
    try:
        return os.memfd_create("afterload-head")
    except AttributeError:
        # A Python that was built for an older C library than this host's, as some that are made to run anywhere.
        pass
    try:
        descriptor: int = ctypes.CDLL(None).memfd_create(b"afterload-head", _MFD_CLOEXEC)
        if descriptor >= 0:
            return descriptor
    except AttributeError:
        pass
    with tempfile.TemporaryFile(dir=_SHM if os.access(_SHM, os.W_OK) else None) as file:
        return os.dup(file.fileno())
