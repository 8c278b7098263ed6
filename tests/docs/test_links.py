"""What the documents refer to is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, anchors, documents, links, name, prose

EXTERNAL = re.compile(r"https?://")


@pytest.mark.parametrize("path", documents(), ids=name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    broken = []
    for link in links(path):
        if EXTERNAL.match(link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or not target.is_relative_to(ROOT):
            broken.append(f"{link}: no such file")
        elif anchor and (target.suffix != ".md" or anchor not in anchors(target)):
            broken.append(f"{link}: no such heading")
    assert broken == []


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        path = todo.pop()
        if path in reached:
            continue
        reached.add(path)
        files = (link.partition("#")[0] for link in links(path) if not EXTERNAL.match(link))
        todo += [(path.parent / file).resolve() for file in files if file.endswith(".md")]
    assert {name(path) for path in documents()} - {name(path) for path in reached} == set()


@pytest.mark.parametrize("path", documents(), ids=name)
def test_every_row_of_a_table_has_as_many_cells_as_its_head(path: Path) -> None:
    cells, wrong = 0, []
    for line in prose(path).splitlines():
        if not line.startswith("|"):
            cells = 0
            continue
        # A bar inside code divides cells too, unless it is escaped.
        count = len(re.findall(r"(?<!\\)\|", line)) - 1
        cells = cells or count
        if count != cells:
            wrong.append(line)
    assert wrong == []


def test_every_verb_that_is_named_is_one_of_dev() -> None:
    usage = subprocess.run(["./dev", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    verbs = set(re.findall(r"^  (\w+)", usage, re.M))
    named = {verb for path in documents() for verb in re.findall(r"\./dev (\w+)", path.read_text())}
    assert named - verbs == set()
    assert {"demo", "test"} <= named


@pytest.mark.parametrize("command", ["demo", "hub", "publish", "run", "status"])
def test_every_option_of_a_command_is_shown_and_no_other(command: str) -> None:
    run = [sys.executable, "-m", "afterload.cli", command, "--help"]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    shown = re.findall(rf"`afterload {command} (\S[^`]+)`", prose(ROOT / "docs/reference/commands.md"))
    [usage] = shown
    option = r"--\w[\w-]*"
    assert set(re.findall(option, usage)) == set(re.findall(rf"^  (?:-\w, )?({option})", said, re.M)) - {
        "--help"
    }


def test_every_command_is_in_the_table_of_commands() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "afterload.cli", "--help"], capture_output=True, text=True, check=True
    ).stdout
    commands = set(re.findall(r"^    (\w+) ", said, re.M))
    table = prose(ROOT / "docs/reference/commands.md").partition("The first three")[0]
    assert set(re.findall(r"`afterload (\w+)`\]", table)) == commands


def test_the_readme_has_the_place_where_figures_are_pasted() -> None:
    between = re.findall(
        r"<!-- benchmarks -->\n(.+?)\n<!-- /benchmarks -->", (ROOT / "README.md").read_text(), re.S
    )
    assert len(between) == 1
    assert between[0].strip()
