"""The head of the shared log: seen by all processes as its hub has set it, without asking."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from afterload.hub import head as module
from afterload.hub.head import SharedHead
from tests.hub.door import descriptors


@pytest.fixture(params=["memfd", "by ctypes", "a file without a name", "the same elsewhere"])
def memory(request, monkeypatch, tmp_path):
    """Each way in which a system may give it."""
    if request.param != "memfd":
        monkeypatch.delattr(os, "memfd_create")
    if request.param not in ("memfd", "by ctypes"):
        monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    if request.param == "the same elsewhere":
        monkeypatch.setattr(module, "_SHM", str(tmp_path / "none"))
    return request.param


@pytest.mark.usefixtures("memory")
def test_what_is_set_is_seen_by_who_was_given_the_descriptor():
    before = descriptors()
    ours = SharedHead()
    theirs = SharedHead(os.dup(ours.descriptor))
    assert not os.get_inheritable(ours.descriptor)
    assert (ours.get(), theirs.get()) == (0, 0)
    for number in (1, 2, 2**40, 2**63 - 1, 7):
        ours.set(number)
        assert (ours.get(), theirs.get()) == (number, number)
    theirs.close()
    ours.close()
    del ours, theirs
    assert descriptors() == before


READER = """
import sys
from afterload.hub.head import SharedHead
head = SharedHead(int(sys.argv[1]))
for line in sys.stdin:
    print(head.get(), flush=True)
"""


@pytest.mark.usefixtures("memory")
def test_another_process_sees_it_too():
    ours = SharedHead()
    command = [sys.executable, "-c", READER, str(ours.descriptor)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[ours.descriptor]
    ) as reader:
        for number in (5, 6):
            ours.set(number)
            reader.stdin.write("\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == f"{number}\n"
    ours.close()


def test_who_was_given_it_cannot_change_it():
    ours = SharedHead()
    theirs = SharedHead(os.dup(ours.descriptor))
    with pytest.raises(TypeError):
        theirs.set(5)
    theirs.close()
    ours.close()


def test_once_it_is_closed_it_is_what_it_was_last():
    """A request may be asking at this moment."""
    ours = SharedHead()
    theirs = SharedHead(os.dup(ours.descriptor))
    ours.set(5)
    theirs.close()
    ours.set(6)
    assert theirs.get() == 5
    ours.close()
    ours.set(7)  # by a thread that has not noticed yet
    assert ours.get() == 7


def test_a_descriptor_that_is_too_small_or_no_memory_is_refused_and_closed():
    """To read behind the end of a mapped file ends the process."""
    before = descriptors()
    read, write = os.pipe()
    with pytest.raises(OSError, match="too small"):
        SharedHead(os.memfd_create("small"))
    with pytest.raises(OSError):
        SharedHead(read)
    os.close(write)
    assert descriptors() == before
