"""What a program may give as a value, and the text or the markup it becomes.

The rule is that of a template: ``str()`` of anything that has something to say, markup where it says that it
is markup (``markupsafe.Markup``, or anything with ``__html__``), and nothing for None. But what a template
would show as ``[1, 2]`` or ``<generator object ...>`` is an error here, as nobody looks at every page that
follows a loop.
"""

from __future__ import annotations

import html
import reprlib
import types
from collections import UserString
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence, Set, ValuesView
from typing import Any

from markupsafe import escape

from .errors import PatchError

# str() of these is never what somebody wants to read.
_NO_TEXT = (
    Mapping, Set, Sequence, ValuesView, Iterator, AsyncIterator, Awaitable, bytearray, type,
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType,
)  # fmt: skip
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


def to_text(action: str, target: str, value: Any) -> str:
    """A value as text.

    Raises:
        PatchError: it has none, or is markup.
    """
    kind: Any = type(value)
    if kind is str:
        return str(value)
    if value is None:
        return ""
    if hasattr(value, "__html__"):
        takes = "html('#id', markup)" if action == "message" else "append()"
        raise refused(action, target, value, f"{short(value)} is markup, which {takes} takes")
    if kind is not int and kind is not float and not isinstance(value, str | UserString):
        mute = kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__
        if mute or isinstance(value, _NO_TEXT):
            why = f"a {kind.__name__} is no text: {short(value)}; give a str, a number or markup"
            raise refused(action, target, value, why)
    try:
        return str(value)
    except Exception as error:  # whatever a foreign __str__ raises: say for which value
        raise refused(action, target, value, f"str() of a {kind.__name__} failed: {error!r}") from error


def to_html(action: str, target: str, value: Any) -> str:
    """A value as HTML: escaped, unless it is markup.

    Raises:
        PatchError: it has no text.
    """
    if not hasattr(value, "__html__"):
        return str(escape(to_text(action, target, value)))
    try:
        return str(value.__html__())
    except Exception as error:
        why = f"__html__() of a {type(value).__name__} failed: {error!r}"
        raise refused(action, target, value, why) from error


def unescaped(action: str, target: str, value: Any) -> str:
    """A value as text, where a template may put markup but entities are all that means something in it.

    Raises:
        PatchError: it has no text.

    Example:
        >>> from markupsafe import Markup
        >>> unescaped("title", "", Markup("Tom &amp; Ann")), unescaped("title", "", "Tom &amp; Ann")
        ('Tom & Ann', 'Tom &amp; Ann')
    """
    if hasattr(value, "__html__"):
        return html.unescape(to_html(action, target, value))
    return to_text(action, target, value)


def short(value: Any) -> str:
    """A value for an error message: on one line, at most about 80 characters, whatever it is."""
    try:
        return _repr.repr(value)
    except Exception:  # noqa: BLE001 - a broken __repr__, or an int that is too long to be shown
        return f"<{type(value).__name__}>"


def refused(action: str, target: str, value: Any, why: str) -> PatchError:
    """The error that says which patch was refused, and why."""
    of = f" of {short(target)}" if target else ""
    return PatchError(f"{action}{of}: {why}", action=action, target=target, value=value)
