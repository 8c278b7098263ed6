"""Every line of docs/guarantees.md names the command that checks it; here it is checked that there is such a check."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.docs.markdown import ROOT

GUARANTEES = ROOT / "docs" / "guarantees.md"
COMMANDS = sorted(set(re.findall(r"`(\./dev (?:test|soak) [^`]+)`", GUARANTEES.read_text())))


def test_there_is_a_command_behind_each_interruption() -> None:
    section = GUARANTEES.read_text().partition("## At each interruption")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    assert [row for row in rows if "`./dev " not in row] == []


@pytest.fixture(scope="module")
def tests() -> list[str]:
    """All tests, each as its file and its name. They are read and not collected, which takes pytest a while."""
    return [
        f"{path.relative_to(ROOT)}::{name}"
        for path in sorted(ROOT.glob("tests/**/test_*.py"))
        for name in re.findall(r"^ *(?:def |class |)((?:test_|Test)\w+)", path.read_text(), re.MULTILINE)
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_runs_some_tests(command: str, tests: list[str]) -> None:
    _, verb, *arguments = shlex.split(command)
    if verb == "soak":
        tests = [test for test in tests if test.startswith("tests/soak/")]
        names = arguments
    else:
        parts = [argument for argument in arguments if argument.startswith("tests/")]
        for part in parts:
            assert [test for test in tests if test.startswith(part)], part
        tests = [test for test in tests if test.startswith(tuple(parts))]
        names = [
            word for word in arguments[len(parts) :] for word in word.split() if word not in ("-k", "or")
        ]
    assert [name for name in names if not any(name in test for test in tests)] == []
