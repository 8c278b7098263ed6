"""docs/how-to/from-outside.md: cron's line, the scripts, and the command, beside a running app."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.deploy.pod import Pod, Sandbox
from tests.deploy.shop import APP, Page, make_shop, service, wait_app
from tests.deploy.systemd import USER
from tests.docs.markdown import ROOT, fences

HOW_TO = ROOT / "docs" / "how-to" / "from-outside.md"
CRON = {"SHELL": "/bin/sh", "PATH": "/usr/bin:/bin", "HOME": "/home/shop", "LOGNAME": USER}


def shown(section: str, language: str = "sh") -> str:
    [text] = [f.text.strip() for f in fences(HOW_TO) if (f.section, f.language) == (section, language)]
    return text


@pytest.fixture
def pod(make_pod: Callable[..., Pod]) -> Pod:
    return make_pod(APP)


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """What the app has."""
    shop = make_shop(tmp_path / "shop", "gunicorn.conf.py", "jobs.py", "sensor.py")
    return service("shop.service", shop, tmp_path).sandbox()


def started(pod: Pod, sandbox: Sandbox, *arguments: str) -> Page:
    """The app, and a page that is open."""
    wait_app(pod, pod.start(replace(sandbox, command=[*sandbox.command, *arguments])))
    return Page(pod)


def by_shell(sandbox: Sandbox, line: str, **env: str) -> Sandbox:
    path = f"/srv/shop/venv/bin:{sandbox.env['PATH']}"
    return replace(sandbox, command=["/bin/sh", "-c", line], env={**sandbox.env, "PATH": path, **env})


@pytest.mark.parametrize("workers", ["4", "1"])
def test_the_command_publishes(workers: str, pod: Pod, sandbox: Sandbox) -> None:
    page = started(pod, sandbox, "--workers", workers)
    done = pod.run(by_shell(sandbox, shown("From the shell")))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"[A-Za-z0-9._~-]+\n", done.stdout)
    page.raw.until(b'["text","#notice","Closed at six today"]')
    page.raw.until(f"id: {done.stdout.strip()}".encode())


def test_cron_publishes(pod: Pod, sandbox: Sandbox) -> None:
    page = started(pod, sandbox)
    when, user, line = re.fullmatch(r"((?:\S+ +){5})(\S+) +(.+)", shown("From the shell", "text")).groups()
    assert len(when.split()) == 5
    assert user == USER
    done = pod.run(replace(sandbox, command=["/bin/sh", "-c", line], env=CRON, folder="/"))
    assert (done.returncode, done.stderr) == (0, "")
    page.raw.until(b'["text","#notice","Last orders"]')


@pytest.mark.parametrize("workers", ["4", "1"])
def test_a_script_publishes(workers: str, pod: Pod, sandbox: Sandbox) -> None:
    page = started(pod, sandbox, "--workers", workers)
    done = pod.run(by_shell(sandbox, shown("From a script")))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    page.raw.until(b'["text","#notice","The kitchen is closed."]')


def test_the_command_says_that_it_finds_no_hub(pod: Pod, sandbox: Sandbox) -> None:
    done = pod.run(by_shell(sandbox, shown("From the shell")))
    assert (done.returncode, done.stdout) == (1, "")
    assert "no hub" in done.stderr
    assert "'shop'" in done.stderr


def test_a_script_that_finds_no_hub_has_nothing_to_do(pod: Pod, sandbox: Sandbox) -> None:
    done = pod.run(by_shell(sandbox, shown("From a script")))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_process_that_goes_on_publishes_before_and_after_a_restart(pod: Pod, sandbox: Sandbox) -> None:
    sensor = pod.start(replace(sandbox, command=["/srv/shop/venv/bin/python", "sensor.py"]))
    app = wait_app(pod, pod.start(sandbox))
    Page(pod).raw.until(b'"#degrees"')
    assert app.stop() == 0  # and its hub with it
    wait_app(pod, pod.start(sandbox))
    Page(pod).raw.until(b'"#degrees"')
    assert not sensor.over


def test_another_user_is_told_so(pod: Pod, sandbox: Sandbox) -> None:
    started(pod, sandbox)
    for line in (shown("From the shell"), shown("From a script")):
        done = pod.run(replace(by_shell(sandbox, line), uid=sandbox.uid + 1))
        assert done.returncode != 0
        assert f"is of user {sandbox.uid}, and this process is of user {sandbox.uid + 1}" in done.stderr
