"""A patch: one change to one place of a page; and what may be yielded or published as one.

Values are text unless they say that they are markup (``markupsafe.Markup``, or anything with ``__html__``): text
is escaped here, once, so that no value can become an element or run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import escape

from .errors import PatchError

EFFECTS = frozenset({"navigate", "reload", "dispatch"})
STATE = frozenset(
    "text html append prepend append_text value attr class title replace remove before after message".split()
)
_MARKUP = frozenset({"html", "append", "prepend", "replace", "before", "after"})
_NO_TARGET = frozenset({"title", "navigate", "reload", "message", "dispatch"})
_URL_ATTRIBUTES = frozenset(
    "href src action formaction poster data cite background ping manifest xlink:href srcset imagesrcset".split()
)
_NAME = re.compile(r"[A-Za-z_:@][-A-Za-z0-9_:.]*", re.ASCII)
# What browsers take for the scheme: they drop tabs and newlines anywhere, controls and spaces in front.
_IGNORED = re.compile(r"[\x00-\x20]")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.ASCII | re.IGNORECASE)
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Patch:
    """One change to one place of a page.

    It checks itself when made. Use the functions of this module (`text`, `append`, ...) to make one.

    Attributes:
        action: what is done; one of `STATE` or `EFFECTS`.
        target: ``#id``; with the option ``select`` a CSS selector; "" for actions without a target.
        content: text, HTML for the actions that take markup, or another JSON value.
        options: what else the action needs (``name``, ``keep``, ``select``), or None.

    Raises:
        PatchError: action, target, content or options are not of these.
    """

    action: str
    target: str
    content: Any = None
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.action not in STATE and self.action not in EFFECTS:
            known = ", ".join(sorted(STATE | EFFECTS))
            raise PatchError(f"there is no action {self.action!r}; there are: {known}")
        options = self.options or {}
        _check_target(self.action, self.target, options)
        if isinstance(self.content, str):
            _check_text(self.action, self.target, self.content)
        elif self.action != "dispatch" and not (self.content is None or isinstance(self.content, bool)):
            raise PatchError(f"{self.action} of {self.target!r}: the content is a str, not {self.content!r}")
        if self.action == "attr":
            _check_attribute(self.target, options.get("name"), self.content)
        elif self.action == "class":
            name = options.get("name")
            if not isinstance(name, str) or not name or re.search(r"\s", name):
                raise PatchError(f"class of {self.target!r}: a class is a name without spaces, not {name!r}")
        elif self.action == "navigate":
            _check_url("navigate", self.content)
        keep = options.get("keep")
        if keep is not None and (not isinstance(keep, int) or isinstance(keep, bool) or keep < 1):
            raise PatchError(f"{self.action} of {self.target!r}: keep is a number from 1, not {keep!r}")

    def wire(self) -> list[Any]:
        """``[action, target, content]``, and the options where there are any."""
        if self.options:
            return [self.action, self.target, self.content, dict(self.options)]
        return [self.action, self.target, self.content]


def text(target: str, value: Any, *, select: str | None = None) -> Patch:
    """Replaces what an element shows by text; by markup, if the value is markup (as `html`).

    Args:
        target: ``#id``, or a CSS selector with ``select="all"``.
        value: str, number, bool, None (empty) or markup.
        select: "all" to patch every element that the selector matches.

    Raises:
        PatchError: the target is none, or the value is nothing simple.

    Example:
        >>> text("#count", 12)
        Patch(action='text', target='#count', content='12', options=None)
    """
    if hasattr(value, "__html__"):
        return html(target, value, select=select)
    return Patch("text", target, _simple("text", target, value), _options(select))


def html(target: str, value: Any, *, select: str | None = None) -> Patch:
    """Replaces what an element contains by markup. A plain str is text, and escaped. See `text`."""
    return Patch("html", target, _html("html", target, value), _options(select))


def append(target: str, value: Any, *, keep: int | None = None, select: str | None = None) -> Patch:
    """Adds markup, or text, at the end of an element.

    An element that has the id of a child that is there already takes its place at the end.

    Args:
        target: see `text`.
        value: see `html`.
        keep: so many children are left, the newest; give one element with each append.
        select: see `text`.

    Raises:
        PatchError: see `text`; or keep is no number from 1.
    """
    return Patch("append", target, _html("append", target, value), _options(select, keep=keep))


def prepend(target: str, value: Any, *, keep: int | None = None, select: str | None = None) -> Patch:
    """Adds markup, or text, at the start of an element. See `append`."""
    return Patch("prepend", target, _html("prepend", target, value), _options(select, keep=keep))


def append_text(target: str, value: Any, *, select: str | None = None) -> Patch:
    """Adds to the text at the end of an element: for text that comes in parts. See `text`."""
    return Patch("append_text", target, _simple("append_text", target, value), _options(select))


def value(target: str, value: Any, *, select: str | None = None) -> Patch:
    """Sets the value of an input, select, textarea, progress or meter. See `text`."""
    return Patch("value", target, _simple("value", target, value), _options(select))


def attr(target: str, name: str, value: Any, *, select: str | None = None) -> Patch:
    """Sets an attribute; None removes it, True sets it empty, False removes it.

    Raises:
        PatchError: see `text`; or the attribute could run something: ``on...``, ``srcdoc``, or a URL that is
            neither relative nor http(s).
    """
    if value is False:
        value = None
    content = None if value is None else "" if value is True else _simple("attr", target, value)
    return Patch("attr", target, content, _options(select, name=name))


def class_(target: str, name: str, on: bool = True, *, select: str | None = None) -> Patch:
    """Adds a class, or with ``on=False`` takes it away. See `text`."""
    return Patch("class", target, bool(on), _options(select, name=name))


def title(value: Any) -> Patch:
    """Sets the document's title. See `text`."""
    return Patch("title", "", _simple("title", "", value))


def replace(target: str, value: Any, *, select: str | None = None) -> Patch:
    """Puts markup in place of an element. See `html`."""
    return Patch("replace", target, _html("replace", target, value), _options(select))


def remove(target: str, *, select: str | None = None) -> Patch:
    """Removes an element. See `text`."""
    return Patch("remove", target, None, _options(select))


def before(target: str, value: Any, *, select: str | None = None) -> Patch:
    """Puts markup before an element. See `html`."""
    return Patch("before", target, _html("before", target, value), _options(select))


def after(target: str, value: Any, *, select: str | None = None) -> Patch:
    """Puts markup after an element. See `html`."""
    return Patch("after", target, _html("after", target, value), _options(select))


def navigate(url: str) -> Patch:
    """Sends the pages that are open now to another URL, relative or http(s). Not part of the state.

    Raises:
        PatchError: the URL is none of these.
    """
    return Patch("navigate", "", url)


def reload() -> Patch:
    """Has the pages that are open now load again. Not part of the state."""
    return Patch("reload", "")


def dispatch(name: str, detail: Any = None, *, target: str = "") -> Patch:
    """Fires a DOM event on an element, or on the document, of the pages that are open now. Not part of the state.

    Args:
        name: the event's type.
        detail: any JSON value.
        target: ``#id``, or "" for the document.

    Raises:
        PatchError: the detail is no JSON value, or the name is none.
    """
    if not isinstance(name, str) or not name:
        raise PatchError(f"dispatch: an event's name is a str that is not empty, not {name!r}")
    try:
        json.dumps(detail, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise PatchError(f"dispatch of {name!r}: the detail is no JSON value: {error}") from error
    return Patch("dispatch", target, detail, {"name": name})


def message(text: str) -> Patch:
    """A plain string, as a loop that yields strings makes it: `onmessage` of a page written by hand."""
    return Patch("message", "", text)


def patches(*things: Any) -> tuple[Patch, ...]:
    """What may be yielded or published, as patches.

    Args:
        *things: a patch; a dict of target to value (see `text`); a plain str (see `message`); a list or tuple
            of these; None (nothing).

    Raises:
        PatchError: something is none of these; a value of a dict is nothing simple (the message names its key).

    Example:
        >>> patches({"#count": 12, "#name": "<b>"})[1].content
        '<b>'
    """
    found: list[Patch] = []
    for thing in things:
        if isinstance(thing, Patch):
            found.append(thing)
        elif isinstance(thing, Mapping):
            found += [text(target, value) for target, value in thing.items()]
        elif hasattr(thing, "__html__"):
            raise PatchError(
                f"markup needs a target: {{'#id': markup}} or html('#id', markup), not {str(thing)[:80]!r} alone"
            )
        elif isinstance(thing, str):
            found.append(message(thing))
        elif isinstance(thing, list | tuple):
            found += patches(*thing)
        elif thing is not None:
            raise PatchError(
                "a patch, a dict of '#id' to value, a str, or a list of these is wanted, "
                f"not {type(thing).__name__}: {_short(thing)}"
            )
    return tuple(found)


def _options(select: str | None, **options: Any) -> dict[str, Any] | None:
    found = {name: value for name, value in options.items() if value is not None}
    if select is not None:
        if select != "all":
            raise PatchError(f'select is "all" or left out, not {select!r}')
        found["select"] = select
    return found or None


def _simple(action: str, target: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)  # a plain str also of a subclass
    if isinstance(value, Mapping | list | tuple | set | frozenset | bytes | bytearray | memoryview):
        raise PatchError(
            f"{action} of {target!r}: a {type(value).__name__} is no text: {_short(value)}; "
            "give a str, a number or markup"
        )
    return str(value)


def _html(action: str, target: str, value: Any) -> str:
    if hasattr(value, "__html__"):
        return str(value.__html__())
    return str(escape(_simple(action, target, value)))


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _check_target(action: str, target: Any, options: Mapping[str, Any]) -> None:
    if not isinstance(target, str):
        raise PatchError(f"{action}: a target is a str such as '#id', not {_short(target)}")
    if not target and action in _NO_TARGET:
        return
    if action in _NO_TARGET and action != "dispatch":
        raise PatchError(f"{action} takes no target, and was given {target!r}")
    _check_text(action, "", target)
    if options.get("select") == "all":
        if not target.strip():
            raise PatchError(f"{action}: the selector is empty")
    elif not target.startswith("#") or len(target) < 2 or re.search(r"\s", target):
        raise PatchError(
            f"{action}: a target is '#' and an element's id, not {_short(target)}; "
            'for a CSS selector say select="all"'
        )


def _check_text(action: str, target: str, content: str) -> None:
    found = _SURROGATE.search(content)
    if found is not None:
        raise PatchError(
            f"{action} of {target!r}: the text has a lone surrogate ({found[0]!r} at {found.start()}), which is "
            "no Unicode text; decode bytes with errors='replace'"
        )


def _check_attribute(target: str, name: Any, content: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PatchError(f"attr of {target!r}: {name!r} is no attribute's name")
    low = name.lower()
    if low.startswith("on") or low == "srcdoc":
        raise PatchError(f"attr of {target!r}: {name!r} would run script, and is refused")
    if low in _URL_ATTRIBUTES and isinstance(content, str):
        if low.endswith("srcset"):
            for candidate in content.split(","):
                _check_url(f"attr {name} of {target!r}", candidate)
        else:
            _check_url(f"attr {name} of {target!r}", content)


def _check_url(where: str, url: Any) -> None:
    if not isinstance(url, str):
        raise PatchError(f"{where}: a URL is a str, not {_short(url)}")
    scheme = _SCHEME.match(_IGNORED.sub("", url))
    if scheme is not None and scheme[1].lower() not in ("http", "https"):
        raise PatchError(f"{where}: a URL is relative, http or https, not {_short(url)}")
