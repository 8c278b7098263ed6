"""What is deployed in the how-tos is shown, and what is shown is run."""

from __future__ import annotations

from pathlib import Path

from tests.docs.markdown import EXAMPLES, ROOT, all_fences

HERE = Path(__file__).parent
HOW_TOS = {"several-workers", "nginx", "systemd", "container", "zero-drop-deploy", "from-outside"}


def test_every_file_that_is_deployed_is_shown() -> None:
    shown = {fence.title for fence in all_fences("python", "ini", "nginx", "dockerfile")}
    files = {path.relative_to(ROOT).as_posix() for path in (EXAMPLES / "deploy").iterdir() if path.is_file()}
    assert files - shown == set()


def test_every_how_to_has_its_tests() -> None:
    tests = {path.stem.removeprefix("test_").replace("_", "-") for path in HERE.glob("test_*.py")}
    assert tests - {"how-tos"} == HOW_TOS
    assert all((ROOT / "docs" / "how-to" / f"{name}.md").is_file() for name in HOW_TOS)
