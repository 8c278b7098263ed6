"""``afterload hub`` as a process: whose hub it is, how it ends, and what it says."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from afterload.hub import process
from afterload.hub.client import Client
from afterload.hub.poller import Poller
from afterload.settings import Settings
from tests.cli.hubs import Hub, afterload, is_there, new_namespace, running

pytestmark = pytest.mark.server

APP = """
from flask import Flask
from afterload.flask import Live

app = Flask(__name__)
app.config["AFTERLOAD_NAMESPACE"] = "{}"
Live(app)


def create_app():
    return app
"""


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_it_is_the_hub_until_it_is_told_to_end(tmp_path: Path, sig: signal.Signals) -> None:
    namespace = new_namespace()
    with running(tmp_path / "log", "--namespace", namespace) as hub:
        assert is_there(namespace)
        hub.process.send_signal(sig)
        assert hub.process.wait(20) == 0
        assert not is_there(namespace)
        said = rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d INFO afterload: the hub of namespace '{namespace}' is process \d+\n"
        assert re.fullmatch(said, hub.log())


def test_it_tells_systemd_that_it_is_ready(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        with running(
            tmp_path / "log", "--namespace", new_namespace(), NOTIFY_SOCKET=str(tmp_path / "notify")
        ):
            assert systemd.recv(100) == b"READY=1"


def test_the_namespace_may_come_from_the_environment(tmp_path: Path) -> None:
    namespace = new_namespace()
    with running(tmp_path / "log", AFTERLOAD_NAMESPACE=namespace):
        assert is_there(namespace)


@pytest.mark.parametrize("app", ["shop:app", "shop:create_app()", "shop"])
def test_the_namespace_may_come_from_an_app(tmp_path: Path, app: str) -> None:
    namespace = new_namespace()
    (tmp_path / "shop.py").write_text(APP.format(namespace))
    with running(tmp_path / "log", "--app", app, cwd=tmp_path):
        assert is_there(namespace)


def test_it_ends_when_nobody_has_been_there_for_as_long_as_is_said(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "log", "--namespace", new_namespace(), "--idle", "0.1")
    assert hub.process.wait(20) == 0
    assert "no process of the app has been here for 0.1 s: the hub ends" in hub.log()


def test_what_is_said_by_hand_holds_when_an_app_has_come(tmp_path: Path) -> None:
    namespace, poller = new_namespace(), Poller()
    owner: Any = None
    with running(tmp_path / "log", "--namespace", namespace, "--idle", "6") as hub:
        client = Client.find(namespace, Settings(hub_idle=300), "a", poller, owner, lambda gone: None)
        assert client is not None
        client.release()
        poller.close()
        assert hub.process.wait(40) == 0
        assert "no process of the app has been here for 6 s: the hub ends" in hub.log()


def test_a_hub_that_an_app_has_started_makes_way_for_it(tmp_path: Path) -> None:
    namespace = new_namespace()
    assert process.start(namespace, 50.0)
    with running(tmp_path / "log", "--namespace", namespace) as hub:
        said = afterload("status", "--namespace", namespace).stdout
        assert f"process {hub.process.pid} " in said


def test_a_second_one_waits_for_the_place_of_the_first(tmp_path: Path) -> None:
    namespace = new_namespace()
    with running(tmp_path / "first", "--namespace", namespace) as first:
        second = Hub(tmp_path / "second", "--namespace", namespace)
        try:
            second.wait("this one waits for its place")
            assert first.end() == 0
            second.wait()
            assert is_there(namespace)
        finally:
            assert second.end() == 0


def test_a_second_one_that_waits_ends_when_it_is_told_to(tmp_path: Path) -> None:
    namespace = new_namespace()
    with running(tmp_path / "first", "--namespace", namespace):
        assert Hub(tmp_path / "second", "--namespace", namespace).wait("waits for its place").end() == 0
        assert is_there(namespace)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hub"], "whose hub? Say --namespace NAME, --app MODULE:APP, or set $AFTERLOAD_NAMESPACE"),
        (["hub", "--namespace", ""], "a namespace is 1 to 64 of A-Z a-z 0-9 . _ -, not ''"),
        (["hub", "--namespace", "a/b"], "a namespace is 1 to 64 of A-Z a-z 0-9 . _ -, not 'a/b'"),
        (["hub", "--namespace", "a" * 65], "a namespace is 1 to 64 of A-Z a-z 0-9 . _ -"),
        (
            ["hub", "--namespace", "a", "--app", "b:c"],
            "argument --app: not allowed with argument --namespace",
        ),
        (["hub", "--namespace", "a", "--idle", "0"], "seconds are a number from 0.1 to 604800, not '0'"),
        (["hub", "--namespace", "a", "--idle", "nan"], "seconds are a number from 0.1 to 604800, not 'nan'"),
        (
            ["hub", "--namespace", "a", "--idle", "long"],
            "seconds are a number from 0.1 to 604800, not 'long'",
        ),
        (["hub", "--app", "nowhere:app"], "there is no module 'nowhere' here"),
        (["hub", "--app", "nowhere.at.all:app"], "there is no module 'nowhere.at.all' here"),
        (["hub", "--app", "shop.py:app"], "there is no module 'shop.py' here"),
        (["hub", "--app", ".shop:app"], "there is no module '.shop' here"),
        (["hub", "--app", ":app"], "there is no module '' here"),
        (["hub", "--app", "shop:nothing"], "the module 'shop' has no 'nothing'"),
        (["hub", "--app", "shop:Flask"], "'shop:Flask' is no Flask app with a Live"),
        (["status", "--app", "tests:app"], "the module 'tests' has no 'app'"),
    ],
)
def test_a_wrong_command_line_is_explained(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "shop.py").write_text(APP.format("shop"))
    (tmp_path / "tests.py").write_text("")
    done = afterload(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_name_in_the_environment_is_explained() -> None:
    done = afterload("hub", AFTERLOAD_NAMESPACE="a b")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "afterload hub: $AFTERLOAD_NAMESPACE: a namespace is 1 to 64 of A-Z a-z 0-9 . _ -, not 'a b'\n"
    )


def test_an_app_under_test_has_no_hub(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP.format("shop") + "\n\napp.testing = True\n")
    done = afterload("status", "--app", "shop:app", cwd=tmp_path)
    assert done.returncode == 2
    assert "meets nobody: it is under test" in done.stderr


def test_what_is_wrong_in_an_app_is_shown_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import not_installed\n")
    done = afterload("hub", "--app", "shop:app", cwd=tmp_path)
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'not_installed'" in done.stderr


def test_the_commands_need_no_flask(tmp_path: Path) -> None:
    (tmp_path / "flask.py").write_text("raise ImportError('there is none')\n")
    namespace, here = new_namespace(), str(tmp_path)
    with running(tmp_path / "log", "--namespace", namespace, PYTHONPATH=here):
        said = afterload("publish", "c", "#x", "y", "--namespace", namespace, PYTHONPATH=here)
        assert (said.returncode, said.stderr) == (0, "")
        said = afterload("status", "--namespace", namespace, PYTHONPATH=here)
        assert (said.returncode, said.stderr) == (0, "")
