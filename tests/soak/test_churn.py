"""Connections that come and go by the ten thousand leave nothing behind: no descriptor, thread, loop or memory."""

from __future__ import annotations

import json
import random
import socket
import struct
import time
import urllib.request

import pytest

from tests.servers.process import Server, Servers, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

ROUNDS, EACH = 5, 4000
RESET = struct.pack("ii", 1, 0)  # close with a reset instead of a FIN


def cost(server: Server) -> dict[str, int]:
    with urllib.request.urlopen(server.url + "/cost", timeout=10) as response:
        found: dict[str, int] = json.load(response)
        return found


def visit(server: Server, path: str, chance: random.Random) -> bytes:
    """Asks for a stream, and goes away at some point: before, within or after the first bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
        if chance.random() < 0.5:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
        depth = chance.random()
        if depth < 0.3:
            return b""
        if depth < 0.5:
            return line.recv(chance.randint(1, 200))
        got = b""
        while b"event: hello" not in got or not got.endswith(b"\n\n"):
            data = line.recv(4096)
            if not data:
                break
            got += data
        return got


def settled(server: Server) -> dict[str, int]:
    def nobody() -> bool:
        now = cost(server)
        return now["viewers"] == 0 and now["loops"] == 0 and now["groups"] == 0

    wait_until(nobody, 60, "the last viewers and loops to be gone")
    return cost(server)


@pytest.mark.parametrize("worker_class", ["gthread", "sync"])
def test_churn_leaves_nothing_behind(servers: Servers, worker_class: str) -> None:
    server = servers.gunicorn("tests.soak.app:app", worker_class=worker_class)
    chance = random.Random(1)
    costs = []
    began = time.monotonic()
    for _ in range(ROUNDS):
        for i in range(EACH):
            kind = chance.random()
            path = "/private" if kind < 0.05 else "/shared" if kind < 0.5 else f"/named/user-{i % 50}"
            got = visit(server, path, chance)
            assert got == b"" or got.startswith(b"HTTP/1.1 200 OK\r\n"[: len(got)]), got[:200]
        costs.append(settled(server))
    print(f"{ROUNDS * EACH} visits in {time.monotonic() - began:.0f} s; {costs}")
    # the first round fills what is filled once: caches, the threads of the pool, the allocator's arenas
    first, last = costs[0], costs[-1]
    assert last["fds"] <= first["fds"] + 2
    assert last["threads"] <= first["threads"]
    assert last["watched"] <= first["watched"]
    assert last["errors"] == 0
    assert last["resident"] < first["resident"] * 1.15 + 2000, costs


def test_a_reused_descriptor_never_brings_another_viewers_bytes(servers: Servers) -> None:
    """Each viewer follows a channel with a secret of its own, and they replace each other in the same descriptors."""
    server = servers.gunicorn("tests.soak.app:app")
    chance = random.Random(2)
    lines: list[tuple[str, socket.socket, bytes]] = []

    def close(index: int) -> None:
        name, line, got = lines.pop(index)
        line.setblocking(False)
        try:
            while data := line.recv(65536):
                got += data
        except OSError:
            pass
        line.close()
        secrets = {word for word in got.decode().replace('"', " ").split() if word.startswith("secret-")}
        assert secrets <= {f"secret-{name}"}, (name, secrets)

    for i in range(10_000):
        name = f"v{i}"
        line = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        line.sendall(f"GET /named/{name} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
        got = line.recv(4096)
        lines.append((name, line, got))
        if i % 3 == 0:
            about = chance.choice(lines)[0]
            request = urllib.request.Request(
                f"{server.url}/publish/{about}", data=f"secret-{about}".encode(), method="POST"
            )
            urllib.request.urlopen(request, timeout=10).close()
        if len(lines) > 40:
            close(chance.randrange(len(lines)))
    while lines:
        close(0)
    assert settled(server)["errors"] == 0
