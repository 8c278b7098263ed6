"""Where the processes of a namespace meet: one has the place, others see who, and other users are kept out."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from afterload.errors import HubError
from afterload.hub import rendezvous
from afterload.settings import Settings


@pytest.fixture
def namespace() -> str:
    return f"test-{secrets.token_hex(8)}"


def as_user(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def take(namespace: str) -> socket.socket:
    taken = rendezvous.bind(namespace)
    assert taken is not None
    return taken


# The place


def test_whoever_binds_the_place_has_it_alone_and_it_is_free_when_that_one_goes(namespace):
    with take(namespace):
        assert rendezvous.bind(namespace) is None
    with take(namespace):
        assert rendezvous.bind(namespace) is None


def test_the_place_of_a_process_that_is_killed_is_free(namespace):
    code = (
        "import sys\n"
        "from afterload.hub import rendezvous\n"
        "place = rendezvous.bind(sys.argv[1])\n"
        "print('taken', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, namespace]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "taken\n"
        assert rendezvous.bind(namespace) is None
        holder.kill()
    with take(namespace):
        pass


def test_a_second_place_of_a_namespace_is_another_and_is_listened_at_by_nobody(namespace):
    with take(namespace):
        second = rendezvous.bind(namespace, ":starting")
        assert second is not None
        with second:
            assert rendezvous.bind(namespace, ":starting") is None
            assert second.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0


def test_namespaces_and_users_have_places_of_their_own(namespace, monkeypatch):
    with take(namespace), take(namespace + "-2"):
        as_user(monkeypatch, os.geteuid() + 1)
        with take(namespace):
            pass


def test_the_place_is_not_inherited_and_nobody_waits_at_it(namespace):
    with take(namespace) as place:
        assert not place.get_inheritable()
        assert place.gettimeout() == 0


def test_the_longest_namespace_of_the_greatest_user_has_a_place(monkeypatch):
    as_user(monkeypatch, 2**32 - 2)
    longest = "n" * 64
    assert Settings(namespace=longest).namespace == longest
    with take(longest):
        starting = rendezvous.bind(longest, ":starting")
        assert starting is not None
        starting.close()


# Who is there


def test_where_nobody_is_there_is_no_connection(namespace):
    assert rendezvous.connect(namespace, 5) is None


def test_a_connection_leads_to_who_has_the_place_and_says_which_process_that_is(namespace):
    with take(namespace) as place:
        found = rendezvous.connect(namespace, 5)
        assert found is not None
        with found:
            accepted, _ = place.accept()
            with accepted:
                assert rendezvous.peer(accepted) == (os.getpid(), os.geteuid())
                assert rendezvous.peer(found) == (os.getpid(), os.geteuid())


def test_who_has_the_place_as_another_user_is_not_talked_to(namespace, monkeypatch):
    """Any user may bind the name of any other, and would be handed that one's viewers."""
    with take(namespace):
        monkeypatch.setattr(rendezvous, "peer", lambda sock: (7, os.geteuid() + 1))
        with pytest.raises(HubError, match=f"is held by user {os.geteuid() + 1}") as caught:
            rendezvous.connect(namespace, 5)
    assert caught.value.namespace == namespace


def test_who_takes_nobody_in_is_said_to_be_silent(namespace):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(rendezvous.address(namespace))
    sock.listen(0)
    with sock, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
        first.connect(rendezvous.address(namespace))
        with pytest.raises(HubError, match=f"hub of namespace {namespace!r} does not answer"):
            rendezvous.connect(namespace, 0.05)


def test_more_at_once_than_may_wait_at_the_place_are_all_let_in(namespace):
    """As when all cron jobs and workers of a host begin at the full minute."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(rendezvous.address(namespace))
    sock.listen(0)
    sock.settimeout(20)

    def let_in() -> None:
        for _ in range(30):
            sock.accept()[0].close()

    with sock, ThreadPoolExecutor(31) as pool:
        letting = pool.submit(let_in)
        found = list(pool.map(lambda _: rendezvous.connect(namespace, 20), range(30)))
        letting.result()
    for connection in found:
        assert connection is not None
        connection.close()


def test_a_connection_that_fails_leaves_no_descriptor(namespace, monkeypatch):
    before = len(os.listdir("/proc/self/fd"))
    assert rendezvous.connect(namespace, 5) is None
    with take(namespace):
        assert rendezvous.bind(namespace) is None
        monkeypatch.setattr(rendezvous, "peer", lambda sock: (7, -2))
        with pytest.raises(HubError):
            rendezvous.connect(namespace, 5)
    assert len(os.listdir("/proc/self/fd")) == before


def test_all_hubs_of_the_host_are_seen_and_nothing_else(namespace):
    assert (os.geteuid(), namespace) not in rendezvous.present()
    starting = rendezvous.bind(namespace + "-new", ":starting")
    assert starting is not None
    with take(namespace), take(namespace + "-2"), starting, socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0afterload/{namespace}")
        found = rendezvous.present()
        mine = [name for uid, name in found if uid == os.geteuid() and name.startswith(namespace)]
    assert mine == [namespace, namespace + "-2"]
    assert found == sorted(set(found))


def test_where_the_system_does_not_say_who_is_there_nobody_is(namespace, monkeypatch, tmp_path):
    monkeypatch.setattr(rendezvous, "_TABLE", str(tmp_path / "none"))
    with take(namespace):
        assert rendezvous.present() == []


@pytest.mark.parametrize(
    "line", ["", " ", "00: 1", "x @", "0: 2 0 0 1 01 4 @afterload/x/y", "@afterload//", "@/0/n"]
)
def test_lines_of_another_form_are_passed_over(monkeypatch, tmp_path, line):
    table = tmp_path / "unix"
    good = "0000000000000000: 00000002 00000000 00010000 0001 01 12345 @afterload/0/shop"
    table.write_text(f"Num       RefCount Protocol Flags    Type St Inode Path\n{line}\n{good}\n")
    monkeypatch.setattr(rendezvous, "_TABLE", str(table))
    assert rendezvous.present() == [(0, "shop")]


def test_a_hub_of_another_user_is_told_of_and_ones_own_is_not(namespace, monkeypatch):
    assert rendezvous.others(namespace) == ""
    mine = os.geteuid()
    with take(namespace):
        assert rendezvous.others(namespace) == ""
        as_user(monkeypatch, mine + 1)
        said = rendezvous.others(namespace)
        assert f"the hub of namespace {namespace!r} is of user {mine}" in said
        assert f"this process is of user {mine + 1}: run it as the same user" in said


# The namespace of an app that names none


def test_the_same_code_at_the_same_place_is_one_namespace_whatever_way_leads_there(tmp_path):
    place, link = tmp_path / "place", tmp_path / "link"
    place.mkdir()
    link.symlink_to(place)
    ways = {str(place), str(link), f"{place}/", f"{link}/../place", os.path.relpath(place)}
    assert len({rendezvous.default_namespace("shop", way) for way in ways}) == 1


def test_another_place_or_another_app_is_another_namespace(tmp_path):
    # As release directories are: those name theirs
    names = {
        rendezvous.default_namespace(import_name, str(tmp_path / root))
        for import_name in ("shop", "shop.web", "s")
        for root in ("1", "2", "")
    }
    assert len(names) == 9


@pytest.mark.parametrize(
    "import_name", ["shop", "a.b-c_d", "__main__", "über:app", "x/y", "n" * 300, "a b\n\0"]
)
def test_a_default_namespace_is_one_that_could_be_named_and_says_whose_it_is(import_name):
    name = rendezvous.default_namespace(import_name, "/srv")
    assert Settings(namespace=name).namespace == name
    assert re.fullmatch(r".+-[0-9a-f]{10}", name)
    known = re.sub(r"[^A-Za-z0-9._-]", "_", import_name)[:50]
    assert name.startswith(known + "-")


def test_a_default_namespace_does_not_change(tmp_path):
    """Processes of before and after an upgrade are to meet."""
    assert rendezvous.default_namespace("shop.web", "/srv/shop") == "shop.web-edeabb3ecb"
    assert not Path("/srv/shop").is_symlink()
