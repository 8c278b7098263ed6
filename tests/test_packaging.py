"""The wheel, not the source tree, is what users get."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import afterload

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "afterload"

#: A name that is added here is a promise to keep; one that goes is a breaking change for CHANGELOG.md.
PUBLIC = {
    "AfterloadError",
    "HubError",
    "JobError",
    "LoopError",
    "Patch",
    "PatchError",
    "PositionError",
    "SettingError",
    "WireError",
    "after",
    "append",
    "append_text",
    "attr",
    "before",
    "class_",
    "dispatch",
    "html",
    "message",
    "navigate",
    "prepend",
    "reload",
    "remove",
    "replace",
    "text",
    "title",
    "value",
}

FRAMEWORKS = ("asgiref", "click", "django", "flask", "gevent", "gunicorn", "jinja2", "starlette", "werkzeug")


def run(*command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pip(python: Path, verb: str, *arguments: object) -> str:
    """This environment's own pip, at work in another: quicker, and ensurepip need not be there."""
    own = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    return run(*own, "--python", python, verb, *arguments)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory)
    [built] = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the wheel and what it requires; no extras."""
    directory = tmp_path_factory.mktemp("clean")
    venv.create(directory, with_pip=False, symlinks=True)
    python = directory / "bin" / "python"
    pip(python, "install", "-q", wheel)
    return python


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    expected = {
        f"afterload/{path.relative_to(PACKAGE).as_posix()}"
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert held == expected


def test_the_wheel_holds_what_is_not_python(wheel):
    held = contents(wheel)
    assert {"afterload/py.typed", "afterload/static/afterload.js", "afterload/static/document.js"} <= held
    assert any("/templates/" in name and name.endswith(".html") for name in held)  # the demo's
    assert any(name.endswith("/licenses/LICENSE") for name in held)


def test_the_clean_install_brings_markupsafe_alone(clean_python):
    listed = json.loads(pip(clean_python, "list", "--format", "json"))
    assert {entry["name"].lower() for entry in listed} == {"afterload", "markupsafe"}


def test_importing_afterload_imports_no_framework(clean_python):
    # Both where none is installed, and here, where all of them are.
    code = "import sys, afterload; print(*{name.partition('.')[0] for name in sys.modules})"
    for python in (clean_python, sys.executable):
        loaded = set(run(python, "-I", "-c", code).split())
        assert "afterload" in loaded
        assert not loaded & set(FRAMEWORKS)


def test_every_public_name_is_there_and_no_other():
    assert set(afterload.__all__) == PUBLIC
    assert sorted(afterload.__all__) == sorted(set(afterload.__all__))
    assert all(hasattr(afterload, name) for name in PUBLIC)


def test_the_version_is_the_one_of_the_project(clean_python):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    code = "from importlib.metadata import version; print(version('afterload'))"
    assert run(clean_python, "-I", "-c", code).strip() == project["version"]


def test_the_command_is_installed_and_says_what_it_lacks(clean_python):
    command = clean_python.with_name("afterload")
    assert "demo" in run(command, "--help")
    done = subprocess.run([command, "demo"], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "pip install 'afterload[flask]'" in done.stderr
    assert "Traceback" not in done.stderr
