"""The apps of the documents: each section of one is a step, which adds files to those of the steps before."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tests.docs.markdown import Fence, documents, fences

_numbers = itertools.count()


@dataclass(frozen=True)
class Step:
    """A section that shows files.

    Attributes:
        file: The document.
        section: Its heading.
        files: What is in the reader's folder after it: name -> text.
        new: The files that this section shows.
    """

    file: str
    section: str
    files: dict[str, str]
    new: tuple[Fence, ...]

    @property
    def modules(self) -> list[str]:
        """The apps that it shows."""
        return [f.title for f in self.new if f.language == "python" and not f.title.startswith("test_")]

    @property
    def tests(self) -> list[str]:
        """The tests that it shows."""
        return [f.title for f in self.new if f.title.startswith("test_")]

    @property
    def templates(self) -> set[str]:
        """The templates that it shows, by the names that an app has for them."""
        return {f.title.removeprefix("templates/") for f in self.new if f.language == "html"}

    def write(self, folder: Path) -> Path:
        """Puts the files into a folder, as a reader would have them after this step."""
        for title, text in self.files.items():
            path = folder / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder


def steps() -> list[Step]:
    """Those of all documents."""
    return list(_steps())


def step(file: str, section: str) -> Step:
    """One of them."""
    [found] = [step for step in steps() if (step.file, step.section) == (file, section)]
    return found


def _steps() -> Iterator[Step]:
    for path in documents():
        files: dict[str, str] = {}
        shown = [fence for fence in fences(path) if fence.title and not fence.title.startswith("examples/")]
        for section, of_section in itertools.groupby(shown, lambda fence: fence.section):
            new = tuple(of_section)
            files = files | {fence.title: fence.text for fence in new}
            yield Step(new[0].file, section, files, new)


def load(path: Path) -> ModuleType:
    """Imports a module of a reader's folder, under a name of its own."""
    name = f"snippet_{next(_numbers)}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Flask looks here for the folder of its templates
    spec.loader.exec_module(module)
    return module
