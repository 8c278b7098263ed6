"""Style sheets that show a text in the place of what an element holds, and bars that are filled."""

from __future__ import annotations

import math
import re

_INLINE = frozenset(
    "a abbr b bdi bdo button cite code data del dfn em i ins kbd label mark meter output progress q s samp small span "
    "strong sub sup time u var".split()
)
# As a grid they would not be what they are: there is a bullet, or a table around them.
_NO_GRID = frozenset("caption dd dt li summary tbody td tfoot th thead tr".split())
# & stands for the element.
ADDS = "&::before,&::after{white-space:pre-line}"
# What it holds is put where there is no room, and a text beside it.
_GRID = (
    "&{display:grid!important;grid-template:auto 0/0 auto!important;grid-auto-rows:0!important;overflow:clip!important}"
    "&>*{display:none!important}&::before{grid-area:1/1/2/3;white-space:pre-line}"
)
_INLINE_GRID = _GRID.replace("grid!", "inline-grid!", 1)
_CELL = "&{font-size:0!important}&>*{display:none!important}&::before{font-size:1rem;white-space:pre-line}"
_BAR = (
    "&{appearance:none!important;height:1em;color:inherit;"
    "background:linear-gradient(90deg,currentColor %.4g%%,#8884 0)!important}"
    "&::-webkit-progress-bar,&::-webkit-progress-value,&::-webkit-meter-bar{background:none!important}"
    "&::-moz-progress-bar,&::-moz-meter-bar{background:none!important}"
)


def frame(tag: str) -> str:
    """What makes room for a text in an element, in the place of all that it holds."""
    return _CELL if tag in _NO_GRID else _INLINE_GRID if tag in _INLINE else _GRID


def content(element: str, before: str, after: str) -> str:
    """The texts of an element."""
    return f'{element}::before{{content:"{quoted(before)}"}}{element}::after{{content:"{quoted(after)}"}}'


def bar(element: str, tag: str, scale: dict[str, str]) -> str:
    """A bar; its scale as its attributes have it."""
    least = _number(scale.get("min"), 0.0) if tag == "meter" else 0.0
    most = _number(scale.get("max"), 1.0)
    value = _number(scale.get("value"), 0.0)
    filled = 100 * (value - least) / (most - least) if most > least else 0.0
    return _BAR.replace("&", element) % max(0.0, min(100.0, filled))


def quoted(text: str) -> str:
    """A text inside of a string of a style sheet that is inside of a page."""
    # The blank belongs to the escape.
    return re.sub(r'[\x00-\x1f\x7f"\\<]', lambda found: f"\\{ord(found[0]):x} ", text)


def _number(text: str | None, otherwise: float) -> float:
    try:
        number = float(text or "")
    except ValueError:
        return otherwise
    return number if math.isfinite(number) else otherwise
