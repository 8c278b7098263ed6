"""The content of an element, as markup, while patches are applied to it as the client does.

What is patched is a small tree of it; the rest stays as it was written. It is balanced, so that it cannot run out of
its element: what has no end gets one, an end without a beginning is left out; scripts, which no patch runs, are too.

Pure, as the state is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape, unescape
from typing import Any, TypeGuard

from markupsafe import Markup
from markupsafe import escape as escaped

from .patch import Patch
from .state import VOID, ids_in

# What does not end is all that is left: to look on within it would take the square of the time.
_TOKEN = re.compile(
    r"<(?:!--(?:-?>|.*?(?:--!?>|(?P<comment>\Z)))"
    r"|(?P<end>/?)(?P<tag>[a-z][^\s/>]*+)(?P<rest>(?:[^>\"']|\"[^\"]*\"|'[^']*')*+)(?:>|(?P<open>.*)))",
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
CONTENT = frozenset({"text", "html", "append", "prepend", "append_text"})
BRINGS = frozenset({"html", "append", "prepend", "replace", "before", "after"})


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


class Content:
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
        elif patch.action in CONTENT and element.end and element.tag not in _RAW:
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
        if token["comment"] is not None or token["open"] is not None:
            break
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
            end = re.compile(rf"</{tag}(?=[\s/>])[^>]*(>?)", re.IGNORECASE).search(html, at)
            odd |= end is None or not end[1] or tag in _LEFT_OUT
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
