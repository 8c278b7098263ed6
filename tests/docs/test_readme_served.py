"""The app of the README, pasted into an empty folder, under the two commands that stand below it.

And what of the documents only a browser can judge.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tests.browser.driver import Page
from tests.browser.test_client import EAGER
from tests.docs.apps import step
from tests.docs.markdown import ROOT, all_fences, fences
from tests.servers.process import Server, Servers

pytestmark = pytest.mark.server

[SHELL] = [
    fence.text
    for fence in fences(ROOT / "README.md")
    if (fence.section, fence.language) == ("Six lines", "sh")
]
COMMANDS = [shlex.split(line, comments=True) for line in SHELL.splitlines()]
COUNT = "Number(document.querySelector('#data').textContent.split(' ')[1])"


def serve(servers: Servers, command: list[str], folder: Path) -> Server:
    """As a reader does, but for the port, and a control socket that two test runs would share."""
    tool, *arguments = command
    if tool == "gunicorn":
        arguments += ["--bind", "127.0.0.1:{port}", "--no-control-socket"]
    else:
        arguments += ["--port", "{port}"]
    return servers.command(tool, [sys.executable, "-m", tool, *arguments], cwd=folder)


def test_the_readme_has_one_command_to_develop_and_one_to_serve() -> None:
    assert [command[0] for command in COMMANDS] == ["flask", "gunicorn"]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_the_page_counts_and_is_back_after_the_server_was_killed(
    command: list[str], servers: Servers, page: Page, tmp_path: Path
) -> None:
    server = serve(servers, command, step("README.md", "Six lines").write(tmp_path))
    page.goto(server.url)
    page.wait_for(f"{COUNT} > 5")
    page.wait_for_status("live")
    page.run(EAGER)
    server.kill()
    page.wait_for_status("reconnecting")
    before = page.text("#data")
    server.start()
    page.wait_for_status("live", timeout=20)
    page.wait_for(f"document.querySelector('#data').textContent !== {before!r} && {COUNT} >= 0")


def test_scripts_in_the_documents_are_javascript(page: Page) -> None:
    scripts = {fence.where: fence.text for fence in all_fences("js")}
    assert scripts
    for where, script in scripts.items():
        page.run(
            "try { new Function(arguments[0]) } catch (e) { throw Error(arguments[1] + e) }", script, where
        )
