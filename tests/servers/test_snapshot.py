"""Snapshot sources and first paint under gunicorn: with the hub in the worker, and in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.handover.raw import Raw, get, get_json
from tests.servers.process import Server, Servers, wait_until
from tests.soak.cafe import hub_of

WORKERS = pytest.mark.parametrize("workers", [1, 3])
PAGES = 40
POSITION = re.compile(r'data-position="([^"]*)"')


def start(servers: Servers, folder: Path, workers: int) -> Server:
    return servers.gunicorn("tests.servers.stock_app:app", workers=workers, env={"STOCK_FOLDER": str(folder)})


def asked(folder: Path) -> list[str]:
    """The processes whose source was asked."""
    file = folder / "asked"
    return file.read_text().split() if file.exists() else []


def epoch(server: Server) -> str:
    """Of the hub that there is; "" if there is none."""
    found = get(server, "/stats")
    return str(json.loads(found.body)["epoch"]) if found.data.startswith(b"HTTP/1.1 200") else ""


def served(server: Server) -> tuple[str, str]:
    """A painted page and its position."""
    page = get(server, "/painted").body.decode()
    return page, POSITION.findall(page)[0]


def comes_back(server: Server, path: str, position: str, mark: bytes) -> list[str]:
    """The kinds of blocks that a page is sent, up to one with that in it."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": position}
    with Raw(server) as raw:
        raw.ask(path, headers=headers).until(mark)
        assert raw.data.startswith(b"HTTP/1.1 200"), raw.data
        return re.findall(r"^event: (\w+)", raw.body.decode(), re.M)


@WORKERS
def test_pages_that_come_back_to_a_hub_without_memory_are_put_right_with_one_question(
    servers: Servers, tmp_path: Path, workers: int
) -> None:
    server = start(servers, tmp_path, workers)
    get(server, "/add/tea", method="POST")
    page, position = served(server)
    assert "<li id=tea>" in page
    assert len(asked(tmp_path)) == 1
    (tmp_path / "asked").unlink()
    if workers == 1:
        server.restart(kill=True)
    else:
        os.kill(hub_of(get_json(server, "/stats")["namespace"]), signal.SIGKILL)
        wait_until(lambda: epoch(server) not in ("", position.split(".")[0]), 20, "another hub")
    with (tmp_path / "things").open("a") as things:
        things.write("milk\n")  # by somebody who does not publish it
    with ThreadPoolExecutor(PAGES) as pool:
        found = list(pool.map(lambda _: comes_back(server, "/plain", position, b"=milk"), range(PAGES)))
    assert found == [["hello", "reset", "snapshot"]] * PAGES
    # by one at a time in each process, and each looks whether another has asked
    assert 1 <= len(asked(tmp_path)) <= workers


@WORKERS
def test_a_page_is_painted_by_any_worker_and_goes_on_from_there(
    servers: Servers, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "things").write_text("old\n")
    server = start(servers, tmp_path, workers)
    get(server, "/add/tea", method="POST")
    for n in range(10):
        page, position = served(server)
        assert "<li id=old>old</li><li id=tea>tea</li>" in page
        assert [f"<li id=n{i}>" in page for i in range(n + 1)] == [True] * n + [False]
        get(server, f"/add/n{n}", method="POST")
        kinds = comes_back(server, "/painted", position, f"=n{n}".encode())
        assert kinds == ["hello", "patch"]
    assert len(asked(tmp_path)) == 1
