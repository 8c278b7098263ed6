"""What a channel has brought to a page, as content for the template that the page is made from.

A page is served at a position, `at`, that was taken before anything was read for it; the state is read a moment later.
What was added in between comes to the page by its stream as well, so that it must not be painted, or a row would stand
there twice. What was *set* in between may be: it is set again. So of each element

- content that was set after `at` is shown with all that was added to it;
- else the content, or what the page has there itself (the default), and what was added to it up to `at`.

Patches of elements inside of that content (a row that was removed, a name in it that was changed) are applied to it as
text: the markup stays as it is but where it is patched. What is painted is balanced, so that it cannot run out of its
element: what has no end gets one, an end without a beginning is left out; scripts, which no patch runs, are too.

Whether a page shows *all* that is up to `at`, so that nothing of it needs to be sent, is known when it is made, as
`Paint.is_whole`: each patch was painted, or is sent in any case (`State.fresh`), or is for something that the page has
not got. A patch that looks at the page itself, `remove` of something that the template made, cannot be painted.

Pure, as the state is. tests/test_paint.py holds it to the document model, at every seam.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape, unescape
from typing import Any, TypeGuard

from markupsafe import Markup
from markupsafe import escape as escaped

from .errors import LoopError
from .patch import Patch
from .state import VOID, Held, State, ids_in
from .values import short

_TOKEN = re.compile(
    r"<!--(?:-?>|.*?--!?>)|<(?P<end>/?)(?P<tag>[a-z][^\s/>]*+)(?P<rest>(?:[^>\"']|\"[^\"]*\"|'[^']*')*+)>",
    re.DOTALL | re.IGNORECASE,
)
_ATTRIBUTE = re.compile(r"""([^\s"'<>/=]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'=<>`]+)))?""")
# A tag that ends itself, and no value that ends so.
_CLOSED = re.compile(r"""(?:^|[\s"'/]|[\s/][^\s"'<>/=]+)/$""")
_NO_TOKEN = re.compile(r"<(?=[a-z/!?])", re.IGNORECASE)
_RAW = frozenset("iframe noembed noframes noscript script style textarea title xmp".split())
# Of a document, not of a piece of one; or never shown.
_LEFT_OUT = frozenset("body frame frameset head html plaintext script".split())
# In these "/>" ends an element, and in those within them it means nothing again.
_FOREIGN = frozenset({"math", "svg"})
_HTML_AGAIN = frozenset("annotation-xml desc foreignobject mi mn mo ms mtext title".split())
# What a tag ends without a word, if it is open just then.
_ENDS = {
    "dd": {"dd", "dt"}, "dt": {"dd", "dt"}, "li": {"li"}, "option": {"option"}, "p": {"p"},
    "td": {"td", "th"}, "th": {"td", "th"}, "tr": {"td", "th", "tr"},
}  # fmt: skip
_DEEPEST = 200  # elements in one another
_CONTENT = frozenset({"text", "html", "append", "prepend", "append_text"})
_MARKUP = frozenset({"html", "append", "prepend", "replace", "before", "after"})


@dataclass(slots=True)
class _Element:
    """An element of some markup.

    Attributes:
        tag: its name, in lower case.
        begin: its tag, as it was written.
        id: "" for none.
        nodes: what is in it: elements, and texts and comments as they were written.
        end: its end tag; "" where it has none.
    """

    tag: str
    begin: str
    id: str
    nodes: list[_Node]
    end: str


_Node = str | _Element


class Paint(Mapping[str, Any]):
    """What a channel has brought: of each target that it has given content, what the element is to show.

    Text is a `str`, which a template escapes; markup is `Markup`. See `afterload.live.Live.state`.

    Args:
        channel: its name.
        parts: of its state, as `State.parts` gives them.
        at: the position of the page that it is for; None for all there is.

    Example:
        >>> from afterload import append, text
        >>> paint = Paint("orders", [(1, text("#count", 2)), (2, append("#rows", Markup("<li>tea</li>")))], at=None)
        >>> paint["#count"], paint["#rows"]
        ('2', Markup('<li>tea</li>'))
        >>> paint.get("#total", 0)
        0
    """

    def __init__(self, channel: str, parts: Iterable[tuple[int, Patch]], at: int | None) -> None:
        self.channel = channel
        state = State()
        newest = 0
        for offset, patch in parts:
            state.apply(patch, offset)
            newest = max(newest, offset)
        self._at = newest if at is None else at
        self._held = state.held(self._at)
        self._touched = False
        self._painted: set[int] = set()
        self._of: dict[str, list[int]] = defaultdict(list)
        brought: set[str] = set()
        self._bringing: set[int] = set()
        self._looks = False  # a patch looks at the page as it was then
        newer_looks = False
        for i, held in enumerate(self._held):
            self._of[held.patch.target].append(i)
            if held.patch.action in _MARKUP and (ids := ids_in(held.patch.content)):
                brought |= ids
                self._bringing.add(i)
            if _looks(held.patch):
                self._looks |= held.parts[0][0] <= self._at
                newer_looks |= held.parts[-1][0] > self._at
        self._inner = [i for i, held in enumerate(self._held) if held.patch.target[1:] in brought]
        # A selector between `at` and now might match what is shown too early.
        self._most = self._at if newer_looks else newest

    def __getitem__(self, target: str) -> Any:
        shown = self._shown(target, "")
        if shown is None:
            raise KeyError(target)
        return shown

    def get(self, target: str, default: Any = "") -> Any:
        """What an element is to show.

        Args:
            target: its ``#id``.
            default: what it would show else. It is what is returned if the channel has brought nothing there; and what
                it has added (`append`) is added to it.

        Example:
            >>> from afterload import append
            >>> paint = Paint("log", [(1, append("#log", Markup("<li>one</li>"), keep=2))], at=None)
            >>> paint.get("#log", Markup("<li>nothing yet</li>"))
            Markup('<li>nothing yet</li><li>one</li>')
        """
        shown = self._shown(target, default)
        return default if shown is None else shown

    def value(self, target: str, default: Any = "") -> Any:
        """The value that was set by `afterload.value`, or the default."""
        return self._cell("value", target, None, default)

    def attr(self, target: str, name: str, default: Any = None) -> Any:
        """The attribute that was set by `afterload.attr`, or the default; None if it was taken away."""
        return self._cell("attr", target, name, default)

    def has_class(self, target: str, name: str, default: bool = False) -> bool:
        """Whether the class was set by `afterload.class_`; the default if neither that nor the opposite was."""
        return bool(self._cell("class", target, name, default))

    def title(self, default: Any = "") -> Any:
        """The title that was set by `afterload.title`, or the default."""
        return self._cell("title", "", None, default)

    def __contains__(self, target: object) -> bool:
        return target in set(self)

    def __iter__(self) -> Iterator[str]:
        return iter(
            dict.fromkeys(
                held.patch.target
                for held in self._held
                if held.patch.action in _CONTENT and not _looks(held.patch) and self._is_shown(held, self._at)
            )
        )

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<state of {self.channel!r}: {', '.join(self)}>"

    # What the page that it was painted in is told

    @property
    def is_touched(self) -> bool:
        """Whether anything of the channel was shown."""
        return self._touched

    @property
    def looks(self) -> bool:
        """Whether a patch up to `at` has looked at the page as it was then, by a selector or a change of an id."""
        return self._looks

    def unpainted(self, ids: Collection[str]) -> list[str]:
        """Targets of what was not shown, and would not be sent, on a page that has elements of these ids."""
        return list(
            dict.fromkeys(
                held.patch.target or held.patch.action
                for i, held in enumerate(self._held)
                if held.parts[0][0] <= self._at
                and not held.again
                and i not in self._painted
                and (_looks(held.patch) or not held.patch.target or held.patch.target[1:] in ids)
            )
        )

    # How

    def _cell(self, action: str, target: str, name: str | None, default: Any) -> Any:
        if action != "title":
            _check(target)
        for i in reversed(self._of.get(target, ())):
            held = self._held[i]
            of = (held.patch.options or {}).get("name")
            if held.patch.action == action and of == name and not _looks(held.patch):
                if held.parts[0][0] > self._most:
                    return default
                self._touched = True
                self._painted.add(i)
                return held.patch.content
        return default

    def _is_shown(self, held: Held, limit: int) -> bool:
        sets = held.patch.action in ("text", "html")
        return held.parts[0][0] <= (self._most if sets else limit)

    def _shown(self, target: str, default: Any) -> Any:
        """The content of an element; None if it is the default."""
        _check(target)
        own = self._of.get(target, [])
        if not any(self._held[i].patch.action in _CONTENT for i in own) and not hasattr(default, "__html__"):
            return None
        content = _Content(default)
        known = ids_in(str(content.default))
        limit = self._at
        touched = False
        inner = {i for name in known for i in self._of.get(f"#{name}", ())}
        if not self._bringing.isdisjoint({*own, *inner}):
            inner.update(self._inner)
        for i in sorted({*own, *inner}):
            held = self._held[i]
            patch = held.patch
            if _looks(patch):
                continue
            if patch.target == target and patch.action in ("text", "html") and held.parts[0][0] <= self._most:
                limit = self._most if held.parts[0][0] > self._at else limit
            text = [part for offset, part in held.parts if offset <= limit]
            if not text:
                continue
            if patch.action == "append_text":
                patch = Patch("append_text", patch.target, "".join(text))
            if patch.target == target:
                if patch.action not in _CONTENT:
                    continue
                content.add(patch)
            elif patch.target[1:] not in known or not content.patch(patch):
                continue
            touched = True
            if i in self._bringing:
                known |= ids_in(patch.content)
            if content.is_odd:
                continue  # a browser may make something else of it
            self._painted.add(i)
        if not touched:
            return None
        self._touched = True
        return content.shown()


class _Content:
    """The content of one element while patches are applied to it, as the client does.

    Attributes:
        default: what it shows without any, as markup.
        is_odd: a browser may make something else of some of its markup.
    """

    def __init__(self, default: Any) -> None:
        self.default = escaped("" if default is None else default)
        self.is_odd = False
        self._ids: set[str] = set()  # of all that was ever in it
        # The first element of each id, and what it is one of; None until it is looked for again.
        self._places: dict[str, tuple[_Element, list[_Node]]] | None = None
        self._text: str | None = None
        if not hasattr(default, "__html__"):
            self._text = "" if default is None else str(default)
        self._nodes = self._parsed(str(self.default))

    def shown(self) -> Any:
        """What a template is given: a `str` as long as it is nothing but text."""
        return Markup(_joined(self._nodes)) if self._text is None else self._text  # noqa: S704 - the patches' own

    def add(self, patch: Patch) -> None:
        """A patch of the element itself."""
        if patch.action == "text":
            self._text = patch.content
        elif patch.action == "append_text" and self._text is not None:
            self._text += patch.content
        else:
            self._text = None
        self._change(self._nodes, patch)

    def patch(self, patch: Patch) -> bool:
        """A patch of an element inside of it; whether it is there, and could be patched."""
        found = self._find(patch.target[1:])
        if found is None:
            return False
        element, around = found
        if patch.action in ("attr", "class"):
            element.begin = _tag(element, patch)
        elif patch.action in ("remove", "replace", "before", "after"):
            at = next(i for i, node in enumerate(around) if node is element)
            new = [] if patch.action == "remove" else self._parsed(patch.content)
            around[at + (patch.action == "after") : at + (patch.action != "before")] = new
            self._places = None
        elif patch.action in _CONTENT and element.end and element.tag not in _RAW:
            self._change(element.nodes, patch)
        else:
            return False
        self._text = None
        return True

    def _parsed(self, html: str) -> list[_Node]:
        nodes, odd = _parsed(html)
        self.is_odd |= odd
        ids = ids_in(html)
        if not self._ids.isdisjoint(ids):
            self._places = None  # which of them is the first?
        self._ids |= ids
        return nodes

    def _find(self, name: str) -> tuple[_Element, list[_Node]] | None:
        if self._places is None:
            self._places = {}
            self._came(self._nodes, self._nodes)
        return self._places.get(name)

    def _came(self, new: Iterable[_Node], around: list[_Node]) -> None:
        """These are there now; notes where, so that many patches do not each look through all there is."""
        if self._places is None:
            return
        left = [(node, around) for node in new][::-1]
        while left:
            node, around = left.pop()
            if isinstance(node, _Element):
                if node.id:
                    self._places.setdefault(node.id, (node, around))
                left += [(inner, node.nodes) for inner in reversed(node.nodes)]

    def _goes(self, node: _Node) -> _Node:
        if isinstance(node, _Element):
            self._places = None
        return node

    def _change(self, nodes: list[_Node], patch: Patch) -> None:
        match patch.action:
            case "text" | "html":
                for node in nodes:
                    self._goes(node)
                nodes[:] = _texts(patch.content) if patch.action == "text" else self._parsed(patch.content)
                self._came(nodes, nodes)
            case "append_text":
                if nodes and _is_text(nodes[-1]):
                    nodes[-1] = f"{nodes[-1]}{escape(patch.content, quote=False)}"
                else:
                    nodes += _texts(patch.content)
            case _:
                self._insert(nodes, patch)

    def _insert(self, nodes: list[_Node], patch: Patch) -> None:
        may_be_there = not self._ids.isdisjoint(ids_in(patch.content))
        new = self._parsed(patch.content)
        if may_be_there:
            names = {node.id for node in new if isinstance(node, _Element)} - {""}
            nodes[:] = [node for node in nodes if not (isinstance(node, _Element) and node.id in names)]
        at = len(nodes) if patch.action == "append" else 0
        nodes[at:at] = new
        self._came(new, nodes)
        keep = (patch.options or {}).get("keep")
        if keep is None:
            return
        end = 0 if patch.action == "append" else -1
        count = sum(map(_counts, nodes))
        while nodes and (count > keep or not _counts(nodes[end])):
            count -= _counts(self._goes(nodes.pop(end)))


def _counts(node: _Node) -> bool:
    """As `keep` counts."""
    return isinstance(node, _Element) or (_is_text(node) and bool(unescape(node).strip()))


def _is_text(node: _Node) -> TypeGuard[str]:
    return isinstance(node, str) and not node.startswith("<!--")


def _texts(text: str) -> list[_Node]:
    return [escape(text, quote=False)] if text else []


def _joined(nodes: Iterable[_Node]) -> str:
    """Their markup. Between two texts there is a comment: in a page that was there before they are two nodes."""
    found: list[str] = []
    was_text = False
    # No recursion: elements may be nested more deeply than Python's stack is.
    opened: list[tuple[Iterator[_Node], str]] = [(iter(nodes), "")]
    while opened:
        for node in opened[-1][0]:
            if isinstance(node, _Element):
                found.append(node.begin)
                opened.append((iter(node.nodes), node.end))
                was_text = False
                break
            is_text = _is_text(node)
            if is_text and was_text:
                found.append("<!---->")
            found.append(node)
            was_text = is_text
        else:
            found.append(opened.pop()[1])
            was_text = False
    return "".join(found)


def _parsed(html: str) -> tuple[list[_Node], bool]:
    """The nodes of some markup, balanced; and whether a browser might make something else of it."""
    top: list[_Node] = []
    opened: list[_Element] = []
    odd = False
    at = 0

    def end_before(tag: str) -> None:
        while opened and opened[-1].tag in _ENDS.get(tag, ()):
            opened.pop()

    def add(node: _Node) -> None:
        (opened[-1].nodes if opened else top).append(node)

    def add_text(text: str) -> None:
        nonlocal odd
        safe = _NO_TOKEN.sub("&lt;", text)
        odd |= safe != text
        if safe:
            add(safe)

    while token := _TOKEN.search(html, at):
        add_text(html[at : token.start()])
        at = token.end()
        tag = (token["tag"] or "").lower()
        if not token["end"]:
            end_before(tag)
        if not tag:
            add(token[0])
        elif token["end"]:
            if not any(element.tag == tag for element in opened):
                odd = True
                continue
            while opened.pop().tag != tag:
                odd = True
        elif tag in _RAW:
            end = re.compile(rf"</{tag}(?=[\s/>])[^>]*>", re.IGNORECASE).search(html, at)
            odd |= end is None or tag in _LEFT_OUT
            inner = html[at : end.start() if end else len(html)]
            at = end.end() if end else len(html)
            if tag not in _LEFT_OUT:
                add(_Element(tag, token[0], _id(token["rest"]), [inner] if inner else [], f"</{tag}>"))
        elif tag in _LEFT_OUT or len(opened) >= _DEEPEST:
            odd = True
        else:
            is_void = tag in VOID
            is_closed = _CLOSED.search(token["rest"]) is not None and _is_foreign(tag, opened)
            begin = f"{token[0][:-2]}>" if is_closed else token[0]
            element = _Element(tag, begin, _id(token["rest"]), [], "" if is_void else f"</{tag}>")
            add(element)
            if not (is_void or is_closed):
                opened.append(element)
    add_text(html[at:])
    return top, odd or bool(opened)


def _is_foreign(tag: str, opened: list[_Element]) -> bool:
    """Whether it is an element of SVG or MathML, as far as its markup says."""
    within = next((e.tag for e in reversed(opened) if e.tag in _FOREIGN or e.tag in _HTML_AGAIN), "")
    return tag in _FOREIGN or within in _FOREIGN


def _attributes(rest: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, *values in _ATTRIBUTE.findall(rest):
        found.setdefault(name.lower(), unescape("".join(values)))
    return found


def _id(rest: str) -> str:
    return _attributes(rest).get("id", "") if "id" in rest.lower() else ""


def _tag(element: _Element, patch: Patch) -> str:
    """An element's tag with an attribute or a class changed."""
    token = _TOKEN.match(element.begin)
    assert token is not None  # it was found by that
    attributes = _attributes(token["rest"])
    name = patch.options["name"].lower() if patch.options and patch.action == "attr" else "class"
    if patch.action == "class" and patch.options:
        names = [n for n in attributes.get("class", "").split() if n != patch.options["name"]]
        content = " ".join(names + [patch.options["name"]] * bool(patch.content))
    else:
        content = patch.content
    attributes.pop(name, None)
    if content is not None:
        attributes[name] = content
    written = "".join(f' {n}="{escape(v)}"' for n, v in attributes.items())
    # What stands in an SVG element of the page's own is not known to be foreign here.
    return f"<{element.tag}{written}{'/' if _CLOSED.search(token['rest']) else ''}>"


def _check(target: object) -> None:
    if not isinstance(target, str) or not re.fullmatch(r"#\S+", target):
        raise LoopError(f'a state is asked for targets such as "#count", not for {short(target)}')


def _looks(patch: Patch) -> bool:
    options = patch.options or {}
    return bool(options.get("select")) or (patch.action == "attr" and options["name"].lower() == "id")
