"""Reads what the tests need of the documentation: its blocks of code, headings and links."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
#: Written by others by the rules of their own: only compiled, not sorted into run and marked.
FOREIGN = {"CONTRIBUTING.md", "docs/client.md", "docs/wire.md", "docs/benchmarks.md"}

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`\n]*)\n(?P<text>.*?)^(?P=indent)(?P=ticks) *$", re.M | re.S
)
_HEADING = re.compile(r"^(#{1,6}) +(.+?) *$", re.M)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Fence:
    """One block of code.

    Attributes:
        file: The document, relative to the root.
        line: Of its first line of code.
        language: ``python``, ``html``, ….
        title: The file that it is, or "".
        fragment: It is no whole: not to be run.
        section: The heading of the second level that it stands under.
        text: The code.
    """

    file: str
    line: int
    language: str
    title: str
    fragment: bool
    section: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


def documents() -> list[Path]:
    """All of them: what stands at the root and beside the examples, and everything in ``docs``."""
    return sorted([*ROOT.glob("*.md"), *EXAMPLES.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def name(path: Path) -> str:
    """Of a document, as in messages."""
    return path.relative_to(ROOT).as_posix()


def fences(path: Path) -> list[Fence]:
    """The blocks of code of a document, in order."""
    source = path.read_text()
    found = []
    for match in _FENCE.finditer(source):
        language, _, rest = match["info"].strip().partition(" ")
        above = [text for level, text in _HEADING.findall(source[: match.start()]) if level == "##"]
        title = _TITLE.search(rest)
        found.append(
            Fence(
                file=name(path),
                line=source.count("\n", 0, match.start()) + 2,
                language=language,
                title=title[1] if title else "",
                fragment="fragment" in rest.split(),
                section=above[-1] if above else "",
                text=textwrap.dedent(match["text"]),
            )
        )
    return found


def all_fences(*languages: str) -> list[Fence]:
    """The blocks of all documents in these languages."""
    return [fence for path in documents() for fence in fences(path) if fence.language in languages]


def prose(path: Path) -> str:
    """A document without its blocks of code."""
    return _FENCE.sub("", path.read_text())


def headings(path: Path) -> list[str]:
    """The texts of a document's headings."""
    return [text for _, text in _HEADING.findall(prose(path))]


def anchors(path: Path) -> set[str]:
    """What a link to a heading of a document may name: GitHub's way to make anchors."""
    found: set[str] = set()
    for text in headings(path):
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = 0
        unique = slug
        while unique in found:
            number += 1
            unique = f"{slug}-{number}"
        found.add(unique)
    return found


def links(path: Path) -> list[str]:
    """Where a document's links and pictures lead."""
    return _LINK.findall(re.sub(r"`[^`\n]*`", "", prose(path)))


def rows(path: Path) -> list[list[str]]:
    """The cells of all tables of a document, without the heads' rulers."""
    lines = [line for line in prose(path).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if not all(re.fullmatch(r":?-*:?", cell) for cell in row)]
