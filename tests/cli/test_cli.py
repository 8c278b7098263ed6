"""The command line: what it says, and with which exit status."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest

from afterload.cli import main


def test_the_version_is_the_one_that_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"afterload {version('afterload')}\n"


def test_alone_it_shows_its_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: afterload" in err
    assert "serve the demo pages" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "invalid choice: 'nope'"),
        (["--nope"], "unrecognized arguments: --nope"),
        (["demo", "--nope"], "unrecognized arguments: --nope"),
        (["demo", "extra"], "unrecognized arguments: extra"),
        (["demo", "--port"], "argument --port: expected one argument"),
        (["demo", "--port", "http"], "argument --port: a port is a number from 0 to 65535, not 'http'"),
        (["demo", "--port", "80.0"], "a port is a number from 0 to 65535, not '80.0'"),
        (["demo", "--port", ""], "a port is a number from 0 to 65535, not ''"),
        (["demo", "--port", "65536"], "a port is a number from 0 to 65535, not '65536'"),
        (["demo", "--port=-1"], "a port is a number from 0 to 65535, not '-1'"),
        (["demo", "--port", "9" * 5000], "a port is a number from 0 to 65535, not '999"),
        (["demo", "--port", "²"], "a port is a number from 0 to 65535, not '²'"),
        (
            ["run"],
            "[options] [--] COMMAND [ARG]...\nafterload run: error: the following arguments are required: COMMAND\n",
        ),
        (["run", "--lines", "0", "true"], "lines are a number from 1 to 100000, not '0'"),
        (["demo", "--port", "٣"], "a port is a number from 0 to 65535, not '٣'"),
    ],
)
def test_a_wrong_command_line_is_explained(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: afterload")
    assert said in err


def test_the_help_of_the_demo_says_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--host HOST address to listen on (default: 127.0.0.1)" in shown
    assert "(default: 23423)" in shown


def test_without_flask_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find: Any = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "flask" else find(name, *args)
    )
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "afterload demo needs Flask: pip install 'afterload[flask]'\n"


@pytest.mark.parametrize("command", [["-m", "afterload.cli"], ["-m", "afterload.cli.__main__"]])
def test_it_can_be_run_as_a_module(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command, "--version"], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout == f"afterload {version('afterload')}\n"


def test_help_imports_no_framework() -> None:
    code = "import sys; from afterload.cli import main; main([]); print('flask' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert done.stdout == "False\n"
