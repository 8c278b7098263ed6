"""docs/how-to/from-a-terminal.md: each command is run, and prints what is shown below it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from afterload.cli import follow, main
from tests.cli.hubs import environment
from tests.docs.markdown import ROOT, Fence, fences, prose, rows
from tests.servers.process import Servers

pytestmark = pytest.mark.server

HOW_TO = ROOT / "docs" / "how-to" / "from-a-terminal.md"
COMMANDS = ROOT / "docs" / "reference" / "commands.md"
#: Which example a section is about.
APPS = {"": "bare", "In a script": "progress", "In a program": "bare"}
LOCAL = "http://127.0.0.1:5000"


def commands() -> Iterator[tuple[Fence, str]]:
    """Each command, and what is shown below it."""
    found = fences(HOW_TO)
    for fence, below in zip(found, [*found[1:], None], strict=True):
        if fence.language == "sh" and LOCAL in fence.text:
            yield fence, below.text if below is not None and below.language == "text" else ""


@pytest.mark.parametrize(("command", "shown"), list(commands()), ids=lambda it: getattr(it, "where", ""))
def test_a_command_prints_what_is_shown(command: Fence, shown: str, servers: Servers) -> None:
    server = servers.werkzeug(f"examples.{APPS[command.section]}:app", cwd=ROOT)
    scripts = Path(sys.executable).parent
    done = subprocess.run(
        ["sh", "-c", command.text.replace(LOCAL, server.url)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
        timeout=50, env=environment(PATH=f"{scripts}{os.pathsep}{os.environ['PATH']}"),
    )  # fmt: skip
    assert done.stdout
    assert re.fullmatch(re.escape(shown).replace("…", ".+") or r".+\n", done.stdout), done.stdout


def test_the_sections_say_which_example_they_are_about() -> None:
    source = HOW_TO.read_text()
    named = re.findall(r"`flask --app examples\.(\w+) run`", source)
    assert named == [APPS[section] for section in APPS]


def test_the_statuses_are_those_of_the_command() -> None:
    table = {row[0]: row[1] for row in rows(COMMANDS)}
    for end, status in follow.ENDS.items():
        assert f"`{end}`" in table[str(status)]
    assert "may not be followed" in table[str(follow.DENIED)]
    assert "gave up" in table[str(follow.GAVE_UP)]
    said = prose(HOW_TO)
    assert f"{follow.DENIED} says that the page may not be followed" in said.replace("\n", " ")
    assert f"{follow.GAVE_UP} that it gave up" in said


def test_every_option_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["follow", "--help"])
    options = set(
        re.findall(r"^  (?:-\w, )?(--\w+)", capsys.readouterr().out.replace("-H 'NAME: VALUE', ", ""), re.M)
    )
    section = COMMANDS.read_text().partition("## afterload follow")[2].partition("\n## ")[0]
    assert len(options) == 10
    assert {option for option in options - {"--help"} if option not in section} == set()
