"""The examples in docstrings run, in every module, and there is none that only looks like one."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import afterload
from afterload.live import Live

PACKAGE = Path(afterload.__file__).parent
MODULES = [
    module.name
    for module in pkgutil.walk_packages(afterload.__path__, "afterload.")
    if not module.name.endswith("__main__")  # importing it is running it
]


@pytest.mark.parametrize("name", ["afterload", *MODULES])
def test_docstrings_are_as_shown(name: str) -> None:
    module = importlib.import_module(name)
    finder, runner, shown = doctest.DocTestFinder(), doctest.DocTestRunner(), []
    for case in finder.find(module):
        runner.run(case, out=shown.append, clear_globs=False)
        for made in case.globs.values():
            if isinstance(made, Live):
                made.close()
    assert not runner.failures, "".join(shown)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_what_is_called_an_example_in_a_docstring_is_one_that_runs(path: Path) -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, documented) and "Example:" in (text := ast.get_docstring(node) or ""):
            assert ">>> " in text.partition("Example:")[2], getattr(node, "name", "the module's docstring")
