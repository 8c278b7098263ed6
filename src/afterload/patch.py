"""A patch: one change to one place of a page; and what may be yielded or published as one.

Two promises are kept here, once, so that nothing behind has to look again:

- **A value cannot run.** Values are text unless they say that they are markup (``markupsafe.Markup``, or
  anything with ``__html__``); where an action takes markup, text is escaped. Attributes and URLs that run
  script are refused.
- **A patch that exists can be sent.** It checks itself when made, in the thread of whoever made it, where the
  error names the value and the traceback the line. Its content is a JSON value of its own: what a program
  does afterwards to a list or dict that it gave changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .errors import PatchError
from .values import refused, short, to_html, to_text, unescaped


class _Form(NamedTuple):
    """What the patches of one action look like."""

    content: str  # "text", "text?" (or None), "flag", "none" or "json"
    options: frozenset[str] = frozenset({"select"})
    target: str = "one"  # "one", "none" or "any" (one or none)


_ADDS = frozenset({"keep", "select"})
_NAMED = frozenset({"name", "select"})
_NONE: frozenset[str] = frozenset()
_STATE = {
    "text": _Form("text"),
    "html": _Form("text"),
    "append": _Form("text", _ADDS),
    "prepend": _Form("text", _ADDS),
    "append_text": _Form("text"),
    "value": _Form("text"),
    "attr": _Form("text?", _NAMED),
    "class": _Form("flag", _NAMED),
    "title": _Form("text", _NONE, "none"),
    "replace": _Form("text"),
    "remove": _Form("none"),
    "before": _Form("text"),
    "after": _Form("text"),
    "message": _Form("text", _NONE, "none"),
}
_EFFECTS = {
    "navigate": _Form("text", _NONE, "none"),
    "reload": _Form("none", _NONE, "none"),
    "dispatch": _Form("json", _NAMED, "any"),
}
_FORMS = _STATE | _EFFECTS
STATE = frozenset(_STATE)
EFFECTS = frozenset(_EFFECTS)

_URL_ATTRIBUTES = frozenset(
    "href src action formaction poster data cite background ping manifest xlink:href srcset imagesrcset "
    # of SVG's <set> and <animate>, which can give an element its href
    "to from by values".split()
)
_LIST = re.compile(r"[\s,]+")
_SEPARATORS = {"srcset": _LIST, "imagesrcset": _LIST, "ping": _LIST, "values": re.compile(";")}
_ENUMERATED = frozenset({"contenteditable", "draggable", "spellcheck"})
# What setAttribute takes in every browser.
_ATTRIBUTE = re.compile(r"[A-Za-z_:][-A-Za-z0-9_:.]*", re.ASCII)
# https://url.spec.whatwg.org/#concept-basic-url-parser: what is stripped in front, what is dropped anywhere
_C0_AND_SPACE = "".join(map(chr, range(0x21)))
_DROPPED = str.maketrans("", "", "\t\n\r")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.ASCII | re.IGNORECASE)
_SPACE = re.compile(r"\s")
_MOST = 2**53 - 1  # what a number of JavaScript holds


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
        try:
            form = _FORMS[self.action]
        except (KeyError, TypeError):
            known = ", ".join(sorted(_FORMS))
            why = f"there is no action {short(self.action)}; there are: {known}"
            raise PatchError(why, value=self.action) from None
        if self.options is not None:
            object.__setattr__(self, "options", _checked_options(self, form))
        _check_target(self, form)
        content = self.content
        if isinstance(content, str) and form.content != "json":
            if form.content not in ("text", "text?"):
                raise _error(self, f"takes no text, and was given {short(content)}")
            if type(content) is not str:
                # Markup would escape what it is joined with
                content = str.__str__(content)
                object.__setattr__(self, "content", content)
            if not content.isascii():
                _check_text(self, content, "text")
        elif form.content == "json":
            object.__setattr__(self, "content", _own_json(self))
        elif not (
            (content is None and form.content in ("text?", "none"))
            or (isinstance(content, bool) and form.content == "flag")
        ):
            want = {"flag": "True or False", "none": "None"}.get(form.content, "a str")
            raise _error(self, f"the content is {want}, not {short(content)}")
        if self.action in _CHECKS:
            _CHECKS[self.action](self)

    def wire(self) -> list[Any]:
        """``[action, target, content]``, and the options where there are any."""
        if self.options:
            return [self.action, self.target, self.content, dict(self.options)]
        return [self.action, self.target, self.content]


def text(target: str, value: Any, *, select: str | None = None) -> Patch:
    """Replaces what an element shows by text; by markup, if the value is markup (as `html`).

    Args:
        target: ``#id``, or a CSS selector with ``select="all"``.
        value: anything whose ``str()`` says it (str, number, date, ...), None (empty), or markup.
        select: "all" to patch every element that the selector matches.

    Raises:
        PatchError: the target is none; or the value is a list, a dict, bytes, a generator, a function or an
            object without a text of its own; or its text has a lone surrogate, which is no Unicode text.

    Example:
        >>> text("#count", 12)
        Patch(action='text', target='#count', content='12', options=None)
    """
    if hasattr(value, "__html__"):
        return html(target, value, select=select)
    return Patch("text", target, to_text("text", target, value), _options(select))


def html(target: str, value: Any, *, select: str | None = None) -> Patch:
    """Replaces what an element contains by markup. A plain str is text, and escaped. See `text`.

    Example:
        >>> html("#name", "<b>").content
        '&lt;b&gt;'
        >>> from markupsafe import Markup
        >>> html("#name", Markup("<b>{}</b>").format("<Ann>")).content
        '<b>&lt;Ann&gt;</b>'
    """
    return Patch("html", target, to_html("html", target, value), _options(select))


def append(target: str, value: Any, *, keep: int | None = None, select: str | None = None) -> Patch:
    """Adds markup, or text, at the end of an element.

    An element that has the id of a child that is there already takes its place at the end.

    Args:
        target: see `text`.
        value: see `html`.
        keep: so many children are left, the newest; give one element with each append. Elements and texts
            that are not blank are counted.
        select: see `text`.

    Raises:
        PatchError: see `text`; or keep is no number from 1.
    """
    return Patch("append", target, to_html("append", target, value), _options(select, keep=keep))


def prepend(target: str, value: Any, *, keep: int | None = None, select: str | None = None) -> Patch:
    """Adds markup, or text, at the start of an element. See `append`."""
    return Patch("prepend", target, to_html("prepend", target, value), _options(select, keep=keep))


def append_text(target: str, value: Any, *, select: str | None = None) -> Patch:
    """Adds to the text at the end of an element: for text that comes in parts.

    Raises:
        PatchError: see `text`; or the value is markup, which `append` takes.
    """
    return Patch("append_text", target, to_text("append_text", target, value), _options(select))


def value(target: str, value: Any, *, select: str | None = None) -> Patch:
    """Sets the value of an input, select, textarea, progress or meter. See `text`."""
    return Patch("value", target, unescaped("value", target, value), _options(select))


def attr(target: str, name: str, value: Any, *, select: str | None = None) -> Patch:
    """Sets an attribute; None removes it.

    Args:
        target: see `text`.
        name: of the attribute.
        value: see `text`; of markup the entities are resolved, as in a template. True sets the attribute
            empty and False removes it; where HTML wants the words (``aria-``, ``data-``, draggable, ...) they
            are "true" and "false".
        select: see `text`.

    Raises:
        PatchError: see `text`; or the attribute could run something: ``on...``, ``srcdoc``, or a URL that is
            neither relative nor http(s).

    Example:
        >>> attr("#next", "href", "/page/2").wire()
        ['attr', '#next', '/page/2', {'name': 'href'}]
        >>> attr("#send", "disabled", False).wire()
        ['attr', '#send', None, {'name': 'disabled'}]
    """
    if isinstance(value, bool):
        low = str(name).lower()
        if low in _ENUMERATED or low.startswith(("aria-", "data-")):
            value = str(value).lower()
        else:
            value = "" if value else None
    content = None if value is None else unescaped("attr", target, value)
    return Patch("attr", target, content, _options(select, name=name))


def class_(target: str, name: str, on: bool = True, *, select: str | None = None) -> Patch:
    """Adds a class, or with ``on=False`` takes it away. See `text`.

    Raises:
        PatchError: see `text`; or the name is empty or has a space.
    """
    return Patch("class", target, bool(on), _options(select, name=name))


def title(value: Any) -> Patch:
    """Sets the document's title. See `text`."""
    return Patch("title", "", unescaped("title", "", value))


def replace(target: str, value: Any, *, select: str | None = None) -> Patch:
    """Puts markup in place of an element. See `html`."""
    return Patch("replace", target, to_html("replace", target, value), _options(select))


def remove(target: str, *, select: str | None = None) -> Patch:
    """Removes an element. See `text`."""
    return Patch("remove", target, None, _options(select))


def before(target: str, value: Any, *, select: str | None = None) -> Patch:
    """Puts markup before an element. See `html`."""
    return Patch("before", target, to_html("before", target, value), _options(select))


def after(target: str, value: Any, *, select: str | None = None) -> Patch:
    """Puts markup after an element. See `html`."""
    return Patch("after", target, to_html("after", target, value), _options(select))


def navigate(url: str) -> Patch:
    """Sends the pages that are open now to another URL, relative or http(s). Not part of the state.

    Raises:
        PatchError: the URL is none of these, or empty.
    """
    return Patch("navigate", "", url)


def reload() -> Patch:
    """Has the pages that are open now load again. Not part of the state."""
    return Patch("reload", "")


def dispatch(name: str, detail: Any = None, *, target: str | None = None, select: str | None = None) -> Patch:
    """Fires a DOM event on an element, or the document, of the pages open now. Not part of the state.

    Args:
        name: the event's type.
        detail: any JSON value; the event's ``detail``.
        target: see `text`; None is the document.
        select: see `text`.

    Raises:
        PatchError: see `text`; or the detail is no JSON value, or the name is none.

    Example:
        >>> dispatch("sold", {"id": 7}).wire()
        ['dispatch', '', {'id': 7}, {'name': 'sold'}]
    """
    return Patch("dispatch", target or "", detail, _options(select, name=name))


def message(text: Any) -> Patch:
    """A plain string, as a loop that yields strings makes it: `onmessage` of a page written by hand.

    Raises:
        PatchError: see `text`; or it is markup, which needs a target.
    """
    return Patch("message", "", to_text("message", "", text))


def patches(*things: Any) -> tuple[Patch, ...]:
    """What may be yielded or published, as patches.

    Args:
        *things: a patch; a dict of target to value (see `text`); a plain str (see `message`); a list or tuple
            of these; None (nothing).

    Raises:
        PatchError: something is none of these; or a dict's value is none that `text` takes (the error names
            its key).

    Example:
        >>> [p.wire() for p in patches({"#count": 12}, [append("#log", "<3"), None], "done")]
        [['text', '#count', '12'], ['append', '#log', '&lt;3'], ['message', '', 'done']]
    """
    found: list[Patch] = []
    for thing in things:
        if isinstance(thing, Patch):
            found.append(thing)
        elif isinstance(thing, Mapping):
            found += [text(target, value) for target, value in thing.items()]
        elif hasattr(thing, "__html__"):
            raise PatchError(
                f"markup needs a target: {{'#id': markup}} or html('#id', markup), not {short(thing)} alone",
                value=thing,
            )
        elif isinstance(thing, str):
            found.append(message(thing))
        elif isinstance(thing, list | tuple):
            found += patches(*thing)
        elif thing is not None:
            raise PatchError(
                "a patch, a dict of '#id' to value, a str, or a list of these is wanted, "
                f"not {type(thing).__name__}: {short(thing)}",
                value=thing,
            )
    return tuple(found)


def _options(select: str | None, **options: Any) -> dict[str, Any] | None:
    if select is not None:
        options["select"] = select
    return {name: value for name, value in options.items() if value is not None or name == "name"} or None


# What a patch checks


def _error(patch: Patch, why: str) -> PatchError:
    return refused(patch.action, patch.target, patch.content, why)


def _check_text(patch: Patch, text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _error(
            patch,
            f"the {what} has a lone surrogate ({text[error.start]!r} at {error.start}), which is no Unicode "
            "text; decode bytes with errors='replace'",
        ) from error


def _check_target(patch: Patch, form: _Form) -> None:
    target = patch.target
    if not isinstance(target, str):
        raise _error(patch, f"a target is a str such as '#id', not {short(target)}")
    if form.target != "one" and not target:
        return
    if form.target == "none":
        raise _error(patch, "this action takes no target")
    if not target.isascii():
        _check_text(patch, target, "target")
    if patch.options is not None and "select" in patch.options:
        if not target.strip():
            raise _error(patch, f"{short(target)} is no CSS selector")
    elif not target.startswith("#") or len(target) < 2 or _SPACE.search(target):
        why = "a target is '#' and an element's id, without spaces, not "
        raise _error(patch, f'{why}{short(target)}; for a CSS selector say select="all"')


def _checked_options(patch: Patch, form: _Form) -> dict[str, Any] | None:
    """The options, as a dict of its own."""
    if not isinstance(patch.options, Mapping):
        raise _error(patch, f"the options are a dict, not {short(patch.options)}")
    options = dict(patch.options)
    for name, value in options.items():
        if name not in form.options:
            known = ", ".join(sorted(form.options)) or "none"
            raise _error(patch, f"there is no option {short(name)}; there are: {known}")
        if name == "select" and value != "all":
            raise _error(patch, f'select is "all" or left out, not {short(value)}')
        if name == "keep" and not (type(value) is int and 1 <= value <= _MOST):
            raise _error(patch, f"keep is a number from 1, not {short(value)}")
    return options or None


def _own_json(patch: Patch) -> Any:
    """The content, as what arrives at the page: a JSON value that nobody else holds."""
    try:
        encoded = json.dumps(patch.content, ensure_ascii=False, allow_nan=False)
        encoded.encode()
        return json.loads(encoded)
    except (TypeError, ValueError, RecursionError) as error:
        raise _error(patch, f"the detail is no JSON value: {error}: {short(patch.content)}") from error


def _name(patch: Patch) -> Any:
    return None if patch.options is None else patch.options.get("name")


def _check_attribute(patch: Patch) -> None:
    name = _name(patch)
    if not isinstance(name, str) or not _ATTRIBUTE.fullmatch(name):
        raise _error(patch, f"{short(name)} is no attribute's name")
    low = name.lower()
    if low.startswith("on") or low == "srcdoc":
        raise _error(patch, f"{name!r} would run script, and is refused")
    if low in _URL_ATTRIBUTES and patch.content is not None:
        separator = _SEPARATORS.get(low)
        for url in separator.split(patch.content) if separator else (patch.content,):
            _check_url(patch, url, f" in {name!r}")


def _check_class(patch: Patch) -> None:
    name = _name(patch)
    if not isinstance(name, str) or not name or _SPACE.search(name):
        raise _error(patch, f"a class is a name without spaces, not {short(name)}")
    _check_text(patch, name, "name")


def _check_dispatch(patch: Patch) -> None:
    name = _name(patch)
    if not isinstance(name, str) or not name:
        raise _error(patch, f"an event's name is a str that is not empty, not {short(name)}")
    _check_text(patch, name, "name")


def _check_navigate(patch: Patch) -> None:
    if not patch.content.strip():
        raise _error(patch, "the URL is empty; to load the page again use reload()")
    _check_url(patch, patch.content, "")


def _check_url(patch: Patch, url: str, where: str) -> None:
    scheme = _SCHEME.match(url.translate(_DROPPED).lstrip(_C0_AND_SPACE))
    if scheme is not None and scheme[1].lower() not in ("http", "https"):
        raise _error(patch, f"a URL{where} is relative, http or https, not {short(url)}")


_CHECKS: dict[str, Callable[[Patch], None]] = {
    "attr": _check_attribute,
    "class": _check_class,
    "dispatch": _check_dispatch,
    "navigate": _check_navigate,
}
