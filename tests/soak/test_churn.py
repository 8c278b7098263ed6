"""Connections that come and go by the ten thousand leave nothing behind: no descriptor, thread, loop or memory.

With ``SOAK=0.05`` in the environment a twentieth of it is done. The figures are printed (``-s`` shows them).
"""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import time
import urllib.request

import pytest

from tests.servers.process import HOST, Server, Servers, wait_until
from tests.soak.scale import scaled

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

ROUNDS, EACH = 5, scaled(20_000, least=500)
SECRETS = scaled(100_000, least=2000)
HELD = 40  # viewers with a secret at a time
RESET = struct.pack("ii", 1, 0)  # close with a reset instead of a FIN
WIRES = ("stream", "websocket", "poll")
FIRST = {"stream": b"200 OK", "websocket": b"101 Switching Protocols", "poll": b"200 OK"}


def request(wire: str, path: str, position: str = "0") -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: x"]
    if wire == "websocket":
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        lines += [f"Sec-WebSocket-Protocol: afterload.v1, afterload.position.{position}"]
    else:
        accept = "text/event-stream" if wire == "stream" else "application/json"
        lines += [f"Accept: {accept}", f"Last-Event-ID: {position}"]
    return "\r\n".join([*lines, "", ""]).encode()


def cost(server: Server) -> dict[str, int]:
    with urllib.request.urlopen(server.url + "/cost", timeout=10) as response:
        found: dict[str, int] = json.load(response)
        return found


def visit(server: Server, wire: str, path: str, position: str, chance: random.Random) -> bytes:
    """Asks for what there is, and goes away at some point: before, within or after the first bytes."""
    with socket.create_connection((HOST, server.port), timeout=10) as line:
        if chance.random() < 0.5:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        line.sendall(request(wire, path, position))
        depth = chance.random()
        if depth < 0.3 or (wire == "poll" and position != "0"):  # which is held until there is something new
            return b""
        if depth < 0.5:
            return line.recv(chance.randint(1, 200))
        got = b""
        while b"hello" not in got:
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
    position = publish(server, ["user-0"])
    for _ in range(ROUNDS):
        for i in range(EACH):
            kind = chance.random()
            path = "/private" if kind < 0.05 else "/shared" if kind < 0.5 else f"/named/user-{i % 50}"
            wire = chance.choice(WIRES)
            at = position if path.startswith("/named") and chance.random() < 0.5 else "0"
            got = visit(server, wire, path, at, chance)
            first = b"HTTP/1.1 %b\r\n" % FIRST[wire]
            assert got[: len(first)] == first[: len(got)], got[:200]
        costs.append(settled(server))
    print(f"\n{ROUNDS * EACH} visits in {time.monotonic() - began:.0f} s; {costs}")
    # the first round fills what is filled once: caches, the threads of the pool, the allocator's arenas
    first_costs, last = costs[0], costs[-1]
    assert last["fds"] <= first_costs["fds"] + 2
    assert last["threads"] <= first_costs["threads"]
    assert last["watched"] <= first_costs["watched"]
    assert last["channels"] <= first_costs["channels"]
    assert last["errors"] == 0
    assert last["resident"] < first_costs["resident"] * 1.15 + 2000, costs


def publish(server: Server, names: list[str]) -> str:
    """Publishes the secrets of these; the last position."""
    body = json.dumps(names).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{server.url}/secrets", data=body, headers=headers, method="POST")
    with urllib.request.urlopen(asked, timeout=10) as response:
        return response.read().decode()


class Secretive:
    """A viewer of a channel of its own, and all that it was sent."""

    def __init__(self, server: Server, name: str, wire: str, position: str) -> None:
        self.name = name
        self.wire = wire
        self.line = socket.create_connection((HOST, server.port), timeout=10)
        self.line.sendall(request(wire, f"/named/{name}", position))
        # A poll is held: of that one nothing comes before its secret.
        self.got = b"" if wire == "poll" else self.line.recv(4096)

    def close(self) -> bool:
        """Goes away; whether it has seen its secret. It must have seen no other."""
        self.line.setblocking(False)
        try:
            while data := self.line.recv(65536):
                self.got += data
        except OSError:
            pass
        self.line.close()
        secrets = set(re.findall(rb"secret-([\w-]+)", self.got))
        assert secrets <= {self.name.encode()}, (self.name, secrets)
        names = set(re.findall(rb"viewer-[0-9]+", self.got))
        assert names <= {self.name.encode()}, (self.name, names)
        return bool(secrets)


def test_churn_never_brings_the_bytes_of_another_viewer(servers: Servers) -> None:
    """Each viewer follows a channel with a secret of its own, and they replace each other in the same descriptors."""
    server = servers.gunicorn("tests.soak.app:app")
    chance = random.Random(2)
    held: list[Secretive] = []
    seen = 0
    began = time.monotonic()
    position = publish(server, ["nobody"])
    for i in range(SECRETS):
        held.append(Secretive(server, f"viewer-{i}", WIRES[i % len(WIRES)], position))
        if i % 10 == 0:
            # some of those that are there, and some that have just been
            position = publish(
                server,
                [*{viewer.name for viewer in chance.sample(held, min(20, len(held)))}, f"viewer-{i - 50}"],
            )
        while len(held) > HELD:
            seen += held.pop(chance.randrange(len(held))).close()
    fds = cost(server)["fds"]
    while held:
        seen += held.pop().close()
    print(
        f"\n{SECRETS} viewers in {time.monotonic() - began:.0f} s, of which {seen} saw their secrets; {fds} descriptors"
    )
    assert seen > SECRETS / 2
    assert fds < HELD + 60  # so they were used again and again
    assert settled(server)["errors"] == 0
