"""``afterload demo`` as a process: where it listens, and how it ends."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.process import Servers

pytestmark = pytest.mark.server

UP = "afterload demo: http"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs it where it cannot come up."""
    return subprocess.run(
        [sys.executable, "-m", "afterload.cli", "demo", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_in_use_is_said_and_not_a_traceback(taken: int) -> None:
    done = demo("--port", str(taken))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"afterload demo: cannot listen on 127.0.0.1:{taken}: the port is in use; choose another with --port\n"
    )


@pytest.mark.parametrize("host", ["a..b", "x" * 70, "203.0.113.7", "1:2:3"])
def test_a_host_that_is_not_here_is_said_and_not_a_traceback(host: str) -> None:
    done = demo("--host", host, "--port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    shown = f"[{host}]" if ":" in host else host
    assert done.stderr.startswith(f"afterload demo: cannot listen on {shown}:0: ")
    assert done.stderr.count("\n") == 1
    assert "while attempting" not in done.stderr


def test_a_free_port_is_printed(tmp_path: Path) -> None:
    # 0 is not the port it listens on, so its own line is what says where it is
    command = [sys.executable, "-m", "afterload.cli", "demo", "--port", "0", "--data", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            port = int(line.split(":")[3].split("/")[0])
            assert line == f"afterload demo: http://127.0.0.1:{port}/   (Ctrl-C ends it)\n"
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            connection.close()
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_it_listens_on_an_ipv6_address_and_prints_it_as_a_url(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "afterload.cli", "demo", "--host", "::1", "--port", "0"]
    with subprocess.Popen([*command, "--data", str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("afterload demo: http://[::1]:")
            port = int(line.split("]:")[1].split("/")[0])
            connection = http.client.HTTPConnection("::1", port, timeout=20)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            connection.close()
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_with_viewers_connected_and_tells_them(
    servers: Servers, tmp_path: Path, sig: signal.Signals
) -> None:
    server = servers.module("afterload.cli", "demo", "--port", "{port}", "--data", str(tmp_path), ready=UP)
    viewers = []
    for url in ("/spinner", "/clock", "/orders"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("GET", url, headers={"Accept": "text/event-stream"})
        response = connection.getresponse()
        assert response.status == 200
        viewers.append((connection, response))
    for _, response in viewers:
        assert response.read1(10).startswith(b"event: ")
    server.stop(timeout=20, sig=sig)
    assert server.exit_code == 0
    for connection, response in viewers:
        assert b"event: bye\n" in response.read()
        connection.close()
    assert "Traceback" not in server.log()
