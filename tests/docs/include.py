"""``python -m tests.docs.include``: puts the examples' files into the documents that show them."""

from __future__ import annotations

import re

from tests.docs.markdown import ROOT, documents

_EXAMPLE = re.compile(r'^(```\w+ title="(examples/[^"]+)"\n)(.*?)(^```$)', re.M | re.S)


def included(source: str) -> str:
    """A document with its examples as their files are now."""
    return _EXAMPLE.sub(lambda match: match[1] + (ROOT / match[2]).read_text() + match[4], source)


def main() -> None:
    for path in documents():
        source = path.read_text()
        if (new := included(source)) != source:
            path.write_text(new)
            print(f"changed {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
