"""The shop of the how-tos: ``examples/board.py`` as ``/srv/shop/app.py``, and somebody who orders and looks."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from tests.deploy.pod import PATIENCE, Pod, Running
from tests.deploy.systemd import UID, Service
from tests.docs.markdown import EXAMPLES
from tests.handover.raw import Raw
from tests.servers.process import wait_until

APP, TLS = 8000, 443
STREAM = {"Accept": "text/event-stream"}


def make_shop(folder: Path, *configuration: str, app: str = "board") -> Path:
    """The folder that is deployed: an app, its templates, and files of ``examples/deploy``."""
    folder.mkdir()
    (folder / "venv").mkdir()
    shutil.copy(EXAMPLES / f"{app}.py", folder / "app.py")
    shutil.copytree(EXAMPLES / "templates", folder / "templates")
    for name in configuration:
        shutil.copy(EXAMPLES / "deploy" / name, folder)
    return folder


def service(name: str, shop: Path, folder: Path, *, env: dict[str, str] | None = None) -> Service:
    """A unit of ``examples/deploy``."""
    return Service((EXAMPLES / "deploy" / name).read_text(), shop, folder / name, env=env)


class Page:
    """An open page: one connection, that is never made anew unless a test says so."""

    def __init__(self, pod: Pod, port: int = APP, *, position: str = "") -> None:
        headers = STREAM | ({"Last-Event-ID": position} if position else {})
        self.raw = pod.keep(Raw(pod.where(port), tls=port == TLS)).ask("/", headers=headers)
        self.raw.until(b"event: hello")

    @property
    def position(self) -> str:
        """The last it was told."""
        return re.findall(rb"\nid: (\S+)\n", self.raw.data)[-1].decode()

    def orders(self) -> list[str]:
        """What it has been told was ordered, in order."""
        return [thing.decode() for thing in re.findall(rb">(thing-\d+)\\u003c", self.raw.data)]

    def wait_order(self, thing: str) -> None:
        self.raw.until(f">{thing}\\u003c".encode())

    def wait_loop(self) -> str:
        """Wait for a tick of the shared loop that is not here yet; the process that made it."""
        ticks = len(re.findall(rb"of process \d+", self.raw.data))
        while len(found := re.findall(rb"of process (\d+)", self.raw.data)) <= ticks:
            self.raw.until(b"of process", self.raw.data.count(b"of process") + 1)
            self.raw.until(b"\n\n", self.raw.data.count(b"\n\n"))
        return found[-1].decode()


def order(pod: Pod, thing: str, port: int = APP) -> str:
    """Order something, as a browser does; the position that the app got for it."""
    body = urlencode({"station": "bar", "thing": thing}).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(body))}
    with Raw(pod.where(port), tls=port == TLS) as raw:
        raw.ask("/", method="POST", headers=headers | {"Connection": "close"}, behind=body).rest()
    assert b" 303 " in raw.head, raw.data
    [position] = re.findall(rb"\r\nPosition: (\S+)", raw.head, re.IGNORECASE)
    return str(position.decode())


def wait_app(pod: Pod, app: Running) -> Running:
    """Wait until the app answers."""
    wait_until(lambda: app.over or answers(pod), PATIENCE, "an answer of the app")
    assert not app.over, app.log()
    return app


def wait_hub(hub: Running, namespace: str, uid: int = UID) -> Running:
    """Wait until a hub has its place."""
    name = f"@afterload/{uid}/{namespace}\n"
    wait_until(
        lambda: hub.over or name in Path(f"/proc/{hub.pid}/net/unix").read_text(),
        PATIENCE,
        "a hub in its place",
    )
    assert not hub.over, hub.log()
    return hub


def answers(pod: Pod) -> bool:
    """Whether the app begins to answer."""
    try:
        with Raw(pod.where(APP)) as raw:
            return b" 200 " in raw.ask("/").until(b"\r\n")
    except (OSError, AssertionError):
        return False


@contextlib.contextmanager
def replaced(app: Running) -> Iterator[None]:
    """Something that makes gunicorn replace its workers; at the end, none is one of before."""
    old = set(app.workers)
    yield
    wait_until(lambda: app.workers and not old & set(app.workers), PATIENCE, "new workers")


def reload(app: Running) -> None:
    """`kill -HUP`."""
    with replaced(app):
        app.signal(signal.SIGHUP)
