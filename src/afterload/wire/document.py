r"""The HTML document: a response that goes on updating the page it is (docs/wire.md#the-document).

Behind the first part of the page each block is an element ``<af-p p='["patch",["~",1,[["text","#n","1"]]]]'></af-p>``.
One script, written before the first of them, defines that element: it removes itself and applies what it says. So no
value is ever inside a script, no block needs a nonce, the document does not grow by what was applied, and the same
bytes are right for every viewer.

A document has no positions: it cannot be resumed, only loaded again. That it has come whole is said by its last
block, ``complete``; one without was cut.

What stands beside the blocks for browsers that run no scripts is said in `afterload.noscript`.
"""

from __future__ import annotations

import importlib.resources
import re
from functools import cache

from markupsafe import Markup, escape

from .. import blocks
from ..blocks import Hello, dumps, utf8
from ..log import Step

# Without these, WebKit paints nothing of a small page before its end: it waits for 512 bytes of body, and for
# an image of more than 32 x 32 pixels or 200 characters. The script takes it out of the flow (by way of the
# CSSOM: a style attribute would be against a strict Content-Security-Policy).
_PADDING = '<svg data-af aria-hidden="true" width="33" height="33"></svg>'
# In JSON these are inside of strings only, where an escape means the same.
_QUOTED = str.maketrans({"&": "\\u0026", "'": "\\u0027", ">": "\\u003e"})
_END_TAGS = re.compile(r"\s*(</body\s*>\s*)?(</html\s*>\s*)?\Z", re.IGNORECASE)
NAME = "document"
# Of a line that was reset a browser may say nothing, so it is silence that tells.
HEARTBEAT = 5.0
LASTS = False
ONCE = False
ENDING = b""
COMPLETE = "<af-p p='[\"complete\",{}]'></af-p>"


def hello(hello: Hello) -> bytes:
    """The first block; a document has no use for a position or a delay."""
    return _block("hello", [hello.line()])


def step(step: Step, epoch: str = "") -> bytes:
    r"""A step of a log's answer.

    Example:
        >>> from afterload import text
        >>> from afterload.log import Patches
        >>> print(step(Step((Patches("~", 1, [text("#name", "Tom & 'Ann'")], 0),), 1)).decode())
        <af-p p='["patch",["~",1,[["text","#name","Tom \u0026 \u0027Ann\u0027"]]]]'></af-p>
    """
    return b"".join(
        _block(event, [dumps(lines[0])] if event == "message" else lines)
        for event, lines in blocks.of_step(step)
    )


def ping(id: str) -> bytes:
    """A heartbeat."""
    return _block("ping", ["{}"])


def bye(retry: int) -> bytes:
    """The server goes away, or has no room; the document ends with it, and is not complete."""
    return _block("bye", [dumps(blocks.bye(retry))])


def closed(rest: str, closing: str = "") -> str:
    """The rest of a page behind its updates, with `closing` and the mark that it is complete.

    Behind the mark there is nothing but end tags that a browser supplies where they are missing.
    """
    end = _END_TAGS.search(rest)
    assert end is not None
    return rest[: end.start()] + closing + COMPLETE + end[0]


def opening(nonce: str | None = None) -> Markup:
    """What is written once, where the updates begin: the script, and what some browsers need to paint.

    Args:
        nonce: for a Content-Security-Policy.
    """
    attribute = f' nonce="{escape(nonce)}"' if nonce else ""
    return Markup(f"{_PADDING}<script{attribute}>{_script()}</script>")  # noqa: S704 - no value from outside


@cache
def _script() -> str:
    script = importlib.resources.files("afterload").joinpath("static/document.js").read_text("utf-8")
    return script.strip()


def _block(event: str, lines: list[str]) -> bytes:
    said = f'["{event}",{",".join(lines)}]'
    return utf8(f"<af-p p='{said.translate(_QUOTED)}'></af-p>")
