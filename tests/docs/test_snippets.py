"""Every block of code in the documents is run, or is marked as a fragment and at least compiles."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jinja2
import pytest
from flask import template_rendered
from markupsafe import Markup

from afterload import Patch, append, attr, text, value
from afterload.flask import Live
from afterload.testing import Block, follow
from tests.docs.apps import Step, load, step, steps
from tests.docs.include import included
from tests.docs.markdown import EXAMPLES, FOREIGN, ROOT, Fence, all_fences, documents, fences, links, name

PYTHON = all_fences("python")
HTML = all_fences("html", "jinja")
RUN = [f for f in PYTHON if not f.title and not f.fragment and f.file not in FOREIGN]
STEPS = [found for found in steps() if found.modules]
TESTED = [found for found in steps() if found.tests]


def where(thing: Fence | Step) -> str:
    return thing.where if isinstance(thing, Fence) else f"{thing.file}: {thing.section}"


@pytest.mark.parametrize("fence", PYTHON, ids=where)
def test_python_compiles(fence: Fence) -> None:
    compile(fence.text, fence.where, "exec")


@pytest.mark.parametrize("fence", RUN, ids=where)
def test_python_that_is_no_file_and_no_fragment_runs(
    fence: Fence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "snippet"}
    exec(compile(fence.text, fence.where, "exec"), names)
    for made in names.values():
        if isinstance(made, Live):
            made.close()


@pytest.mark.parametrize("fence", HTML, ids=where)
def test_html_is_a_template(fence: Fence) -> None:
    jinja2.Environment(autoescape=True).parse(fence.text)


@pytest.mark.parametrize("path", [path for path in documents() if fences(path)], ids=name)
def test_console_sessions_are_as_shown(path: Path) -> None:
    session = "\n".join(fence.text for fence in fences(path) if fence.language == "pycon")
    parsed = doctest.DocTestParser().get_doctest(session, {}, name(path), str(path), 0)
    runner = doctest.DocTestRunner()
    shown: list[str] = []
    runner.run(parsed, out=shown.append)
    assert not runner.failures, "".join(shown)


def test_every_block_says_in_which_language_it_is() -> None:
    known = {"python", "pycon", "html", "sh", "js", "css", "text", "ini", "nginx", "yaml", "dockerfile"}
    assert {f.where: f.language for f in _own() if f.language not in known} == {}


def test_only_files_have_titles_and_fragments_have_none() -> None:
    wrong = [f.where for f in _own() if (f.fragment and f.title) or f.title != f.title.strip()]
    assert wrong == []
    assert [f.where for f in _own() if f.language == "html" and not f.title] == []


def _own() -> list[Fence]:
    return [f for path in documents() if name(path) not in FOREIGN for f in fences(path)]


# The examples


@pytest.mark.parametrize("path", documents(), ids=name)
def test_an_example_in_a_document_is_the_file(path: Path) -> None:
    source = path.read_text()
    assert source == included(source), "run: python -m tests.docs.include"


def test_every_example_is_shown_in_a_document() -> None:
    shown = {fence.title for fence in all_fences("python", "html")}
    files = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("templates/*")]
    assert {path.relative_to(ROOT).as_posix() for path in files} - shown == set()


def test_every_example_is_in_the_list_of_examples() -> None:
    listed = {link for link in links(EXAMPLES / "README.md") if link.endswith(".py")}
    assert listed == {path.name for path in EXAMPLES.glob("*.py")}


def test_every_example_that_is_named_is_there() -> None:
    named = {m for path in documents() for m in re.findall(r"examples\.(?!py\b)(\w+)", path.read_text())}
    assert named - {path.stem for path in EXAMPLES.glob("*.py")} == set()


# The apps


def _patches(blocks: list[Block]) -> list[Patch]:
    return [patch for block in blocks for patch in block.patches]


def _six_lines(module: ModuleType) -> None:
    client = module.app.test_client()
    assert "nothing received yet" in client.get("/").text
    shown = _patches(follow(client, "/", limit=3))
    assert shown[:3] == [text("#data", "\\ 0"), text("#data", "| 1"), text("#data", "/ 2")]


def _timer(module: ModuleType) -> None:
    assert _patches(follow(module.app.test_client(), "/", limit=2)) == [
        text("#left", "3:00"),
        text("#left", "2:59"),
    ]
    module.live.sleep = lambda seconds: None
    assert [*module.timer()][-2:] == [{"#left": "0:01"}, {"#left": "The egg is done."}]


def _clock(module: ModuleType) -> None:
    blocks = follow(module.app.test_client(), "/", limit=2)
    assert {patch.target for patch in blocks[-1].patches} == {"#time", "#cooks"}


def _orders(module: ModuleType) -> None:
    client = module.app.test_client()
    client.get("/")
    assert client.post("/orders", data={"dish": "<b>soup</b>"}).status_code == 302
    row = Markup('<li id="order-1">&lt;b&gt;soup&lt;/b&gt;</li>')
    assert row in client.get("/").text
    [block] = follow(client, "/", limit=1)
    assert append("#orders", row) in block.patches


def _bread(module: ModuleType) -> None:
    client = module.app.test_client()
    shown = _patches(follow(client, "/"))
    assert shown[0] == attr("#again", "disabled", True)
    assert [value("#bar", 40), text("#minute", 40)] == shown[-4:-2]
    result = [text("#result", "The bread is done."), attr("#again", "disabled", False)]
    assert shown[-2:] == result
    late = follow(client, "/")
    assert (late[0].event, late[-1].event, late[-1].status) == ("snapshot", "end", "done")
    assert set(map(str, result)) < set(map(str, late[0].patches))
    client.post("/again")
    [minute] = [patch for patch in _patches(follow(client, "/", limit=2)) if patch.target == "#minute"][:1]
    assert int(minute.content) < 40


CHECKS: dict[tuple[str, str], Callable[[ModuleType], None]] = {
    ("README.md", "Six lines"): _six_lines,
    ("docs/tutorial.md", "A loop and its page"): _timer,
    ("docs/tutorial.md", "One loop for everybody"): _clock,
    ("docs/tutorial.md", "Orders, from a form into a database"): _orders,
    ("docs/tutorial.md", "Work that ends"): _bread,
}


@pytest.mark.parametrize("shown", STEPS, ids=where)
def test_an_app_in_a_document_does_what_its_text_says(
    shown: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shown.write(tmp_path))
    [file] = shown.modules
    module = load(tmp_path / file)
    # Nobody waits for bread; and no step of a page's own loop is merged with the next on a busy machine.
    monkeypatch.setattr(module.live, "sleep", lambda seconds: Live.sleep(seconds / 4))
    module.live.settings = module.live.settings.updated({"ahead_entries": 1})
    rendered: set[str | None] = set()
    with template_rendered.connected_to(lambda app, template, **_: rendered.add(template.name), module.app):
        assert module.app.test_client().get("/").status_code == 200
    assert rendered == shown.templates
    try:
        CHECKS[shown.file, shown.section](module)
    finally:
        module.live.close()


def test_every_check_is_one_of_an_app_that_is_there() -> None:
    assert {(shown.file, shown.section) for shown in STEPS} == set(CHECKS)


@pytest.mark.parametrize("shown", TESTED, ids=where)
def test_tests_in_a_document_pass(shown: Step, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    shown.write(tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", *shown.tests]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(f.text.count("\ndef test_") for f in shown.new)
    assert f"{count} passed" in done.stdout


def test_the_readme_marks_six_lines() -> None:
    files = step("README.md", "Six lines").files
    marks = re.findall(r"# ([1-9])|\{# ([1-9]) #\}", files["app.py"] + files["templates/index.html"])
    assert [int(a or b) for a, b in marks] == [1, 2, 3, 4, 5, 6]
