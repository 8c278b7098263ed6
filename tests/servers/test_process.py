"""The harness itself: a helper that cannot fail would make every test that rests on it worthless."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path

import pytest

from tests.servers.process import Server, ServerError, accepts, wait_until

APP = """
import os
from flask import Flask
app = Flask(__name__)

@app.get("/")
def index():
    return f"{os.getpid()}"
"""


@pytest.fixture
def app_directory(tmp_path: Path) -> Path:
    (tmp_path / "plain.py").write_text(APP)
    return tmp_path


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_gunicorn_answers_from_its_worker_and_leaves_on_sigterm(servers, app_directory, worker_class):
    server = servers.gunicorn("plain:app", worker_class=worker_class, cwd=app_directory)
    assert int(get(server.url)) in server.children()
    assert server.stop() < 10
    assert server.exit_code == 0
    assert not accepts(server.port)


@pytest.mark.parametrize("reload", [False, True])
def test_werkzeug_answers_with_and_without_its_reloader(servers, app_directory, reload):
    server = servers.werkzeug("plain:app", reload=reload, cwd=app_directory)
    assert (int(get(server.url)) == server.pid) is not reload


def test_a_killed_server_comes_back_on_the_same_port(servers, app_directory):
    server = servers.gunicorn("plain:app", workers=2, cwd=app_directory)
    before, port = get(server.url), server.port
    family = [server.pid, *server.children()]
    server.restart(kill=True)
    assert server.port == port
    assert get(server.url) != before
    for pid in family:
        wait_until(lambda pid=pid: is_gone(pid), 5, f"the end of {pid}")


def is_gone(pid: int) -> bool:
    # An orphan may stay a zombie where nothing reaps it; that is gone enough.
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_the_reloaders_child_does_not_outlive_it(servers, app_directory):
    server = servers.werkzeug("plain:app", reload=True, cwd=app_directory)
    child = int(get(server.url))
    server.stop()
    wait_until(lambda: is_gone(child), 5, "the reloader's child to end")


def test_a_server_that_cannot_start_shows_its_log(servers, tmp_path):
    (tmp_path / "broken.py").write_text("raise RuntimeError('broken on purpose')")
    with pytest.raises(ServerError, match="broken on purpose"):
        servers.gunicorn("broken:app", cwd=tmp_path)


def test_a_server_that_ignores_sigterm_is_killed_and_told_of(servers, tmp_path):
    (tmp_path / "deaf.py").write_text(
        "import signal, socket, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "with socket.create_server(('127.0.0.1', int(sys.argv[1]))) as s:\n"
        "    while True: s.accept()[0].close()\n"
    )
    server = servers.module("deaf", "{port}", cwd=tmp_path)
    pid = server.pid
    with pytest.raises(ServerError, match="SIGTERM"):
        server.stop(timeout=0.3)
    assert server.exit_code == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_waits_for_its_port_instead_of_talking_to_another_server(servers, app_directory):
    first = servers.gunicorn("plain:app", cwd=app_directory)
    second = servers.gunicorn("plain:app", cwd=app_directory)
    assert first.port != second.port
    third = Server("third", ["true"], app_directory / "third.log", port=first.port)
    with pytest.raises(TimeoutError, match=f"port {first.port} to become free"):
        third.start(timeout=0.3)


def test_the_log_can_be_waited_for(servers, app_directory):
    server = servers.gunicorn("plain:app", "--access-logfile", "-", cwd=app_directory)
    get(server.url + "/?seen=1")
    assert server.wait_log(r"GET /\?seen=(\d)")[1] == "1"
    with pytest.raises(ServerError, match="Worker ready"):
        server.wait_log("never written", timeout=0.1)
