"""A small document, patched by the rules that the browser's client follows (docs/wire.md).

It is the oracle of the property tests: whatever is merged, compacted, resumed or healed has to leave the same
document as every patch applied in order. tests/test_document.py holds the model to the vectors that the
client is held to, so that the two cannot part.

What it leaves out: comments (but one between two texts keeps them two), and the repairs of a browser's HTML parser (an
``<li>`` that ends the one before, a ``<tbody>`` nobody wrote). Give it markup that needs none.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from html.parser import HTMLParser
from typing import Any, Union

from afterload.patch import EFFECTS, Patch

Node = Union[str, "Element"]
VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())


class Element:
    """An element: its tag, attributes, children, and `value`, the property that a reader's typing changes."""

    def __init__(self, tag: str, attributes: dict[str, str] | None = None) -> None:
        self.tag = tag
        self.attributes = dict(attributes or {})
        self.children: list[Node] = []
        self.value: str | None = None

    @property
    def id(self) -> str | None:
        return self.attributes.get("id") or None

    def clone(self) -> Element:
        other = Element(self.tag, self.attributes)
        other.children = [c if isinstance(c, str) else c.clone() for c in self.children]
        other.value = self.value
        return other

    def walk(self) -> Iterator[tuple[Element, Element]]:
        """Every element below, with its parent, in the order of the document."""
        for child in list(self.children):
            if isinstance(child, Element):
                yield child, self
                yield from child.walk()

    def serialize(self) -> str:
        """All that is in it. ``|`` is between two nodes: text that is two nodes is not the same as one."""
        shown = {
            # the order of classes means nothing, and an empty list is as good as none
            name: " ".join(sorted(set(value.split()))) if name == "class" else value
            for name, value in sorted(self.attributes.items())
        }
        attributes = "".join(
            f' {name}="{escape(value)}"' for name, value in shown.items() if value or name != "class"
        )
        value = "" if self.value is None else f" value:{self.value!r}"
        inner = "|".join(c if isinstance(c, str) else c.serialize() for c in self.children)
        return f"<{self.tag}{attributes}{value}>{inner}</{self.tag}>"


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("root")
        self.open = [self.root]
        self.parted = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {k: v or "" for k, v in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)  # "/>" means nothing on an HTML element

    def handle_endtag(self, tag: str) -> None:
        for i in range(len(self.open) - 1, 0, -1):
            if self.open[i].tag == tag:
                del self.open[i:]
                return

    def handle_data(self, data: str) -> None:
        if self.parted and data:
            self.open[-1].children.append(data)
        else:
            # "a < b" comes in two parts, and is one text
            add_text(self.open[-1], data)
        self.parted = False

    def handle_comment(self, data: str) -> None:
        self.parted = True


def parse(html: str) -> list[Node]:
    """The nodes of a piece of HTML."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    return parser.root.children


def add_text(element: Element, text: str) -> None:
    """Text at the end: of the last node, if that is text."""
    last = element.children[-1] if element.children else None
    if isinstance(last, str):
        element.children[-1] = last + text
    elif text:
        element.children.append(text)


class Document:
    """A page: its body's nodes and its title."""

    def __init__(self, html: str, title: str = "") -> None:
        self.body = Element("body")
        self.body.children = parse(html)
        self.title = title

    def clone(self) -> Document:
        other = Document("", self.title)
        other.body = self.body.clone()
        return other

    def serialize(self) -> str:
        """All that is in it; the same for two documents if and only if a page would be the same."""
        return f"{self.title}: {self.body.serialize()}"

    def find(self, patch: Patch) -> list[tuple[Element, Element]]:
        """The elements that a patch is for, with their parents. Selectors: ``.class``, ``#id``, ``tag``."""
        everything = list(self.body.walk())
        if (patch.options or {}).get("select") == "all":
            return [(element, parent) for element, parent in everything if _matches(element, patch.target)]
        return [(element, parent) for element, parent in everything if element.id == patch.target[1:]][:1]

    def apply(self, patch: Patch) -> None:
        """Does what the client does. A target that is not there is passed over; effects change nothing."""
        if patch.action == "message" or patch.action in EFFECTS:
            return
        if patch.action == "title":
            self.title = str(patch.content)
            return
        for element, parent in self.find(patch):
            _apply(patch, element, parent)


def _matches(element: Element, selector: str) -> bool:
    name = selector[1:]
    if selector.startswith("."):
        return name in element.attributes.get("class", "").split()
    if selector.startswith("#"):
        return element.id == name
    assert selector.isalnum(), f"a selector the model does not know: {selector!r}"
    return element.tag == selector


def _apply(patch: Patch, element: Element, parent: Element) -> None:
    options: dict[str, Any] = dict(patch.options or {})
    content = patch.content
    match patch.action:
        case "text":
            element.children = [content] if content else []
        case "html":
            element.children = parse(content)
        case "append" | "prepend":
            _add(patch.action, element, parse(content), options.get("keep"))
        case "append_text":
            add_text(element, content)
        case "value":
            element.value = content
        case "attr":
            name = options["name"].lower()
            if content is None:
                element.attributes.pop(name, None)
            else:
                element.attributes[name] = content
        case "class":
            names = [n for n in element.attributes.get("class", "").split() if n != options["name"]]
            element.attributes["class"] = " ".join(names + [options["name"]] * bool(content))
        case "remove" | "replace" | "before" | "after":
            # By identity; and one of several may be gone with the one before it.
            at = next((i for i, child in enumerate(parent.children) if child is element), None)
            if at is not None:
                start = at + (patch.action == "after")
                end = at + (patch.action != "before")
                parent.children[start:end] = parse(content or "")
        case other:
            raise AssertionError(f"the model does not know {other!r}")


def _add(action: str, element: Element, nodes: list[Node], keep: int | None) -> None:
    ids = {node.id for node in nodes if isinstance(node, Element)} - {None}
    element.children = [c for c in element.children if not (isinstance(c, Element) and c.id in ids)]
    if action == "append":
        element.children += nodes
    else:
        element.children[:0] = nodes
    if keep is None:
        return
    # From the far end, until no more than `keep` are left; what is not counted has no place there.
    end = 0 if action == "append" else -1
    while element.children and (
        sum(map(_counted, element.children)) > keep or not _counted(element.children[end])
    ):
        del element.children[end]


def _counted(node: Node) -> bool:
    return isinstance(node, Element) or bool(node.strip())
