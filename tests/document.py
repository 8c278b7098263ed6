"""A small document, patched by the rules that the browser's client follows (docs/wire.md).

It is the oracle of the property tests: whatever is merged, compacted, resumed or healed has to leave the same
document as every patch applied in order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from html import escape
from html.parser import HTMLParser
from typing import Any, Union

from afterload.patch import Patch

Node = Union[str, "Element"]
VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())


class Element:
    def __init__(self, tag: str, attributes: dict[str, str] | None = None) -> None:
        self.tag = tag
        self.attributes = dict(attributes or {})
        self.children: list[Node] = []
        self.value: str | None = None

    @property
    def id(self) -> str | None:
        return self.attributes.get("id")

    def walk(self) -> Iterator[tuple[Element, Element]]:
        """Every element below, with its parent."""
        for child in list(self.children):
            if isinstance(child, Element):
                yield child, self
                yield from child.walk()

    def serialize(self) -> str:
        attributes = "".join(f' {k}="{escape(v)}"' for k, v in sorted(self.attributes.items()))
        value = "" if self.value is None else f" value:{self.value!r}"
        inner = "|".join(c if isinstance(c, str) else c.serialize() for c in self.children)
        return f"<{self.tag}{attributes}{value}>{inner}</{self.tag}>"


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("root")
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {k: v or "" for k, v in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        for i in range(len(self.open) - 1, 0, -1):
            if self.open[i].tag == tag:
                del self.open[i:]
                return

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(html: str) -> list[Node]:
    parser = _Parser()
    parser.feed(html)
    parser.close()
    return parser.root.children


class Document:
    """A page: its body's nodes and its title."""

    def __init__(self, html: str, title: str = "") -> None:
        self.body = Element("body")
        self.body.children = parse(html)
        self.title = title

    def clone(self) -> Document:
        return copy.deepcopy(self)

    def serialize(self) -> str:
        return f"{self.title}: {self.body.serialize()}"

    def find(self, patch: Patch) -> list[tuple[Element, Element]]:
        """The elements that a patch is for, with their parents. Of selectors only ``.class`` is known."""
        everything = self.body.walk()
        if (patch.options or {}).get("select") == "all":
            name = patch.target.removeprefix(".")
            return [(e, p) for e, p in everything if name in e.attributes.get("class", "").split()]
        for element, parent in everything:
            if element.id == patch.target[1:]:
                return [(element, parent)]
        return []

    def apply(self, patch: Patch) -> None:
        if patch.action in ("message", "navigate", "reload", "dispatch"):
            return
        if patch.action == "title":
            self.title = str(patch.content)
            return
        for element, parent in self.find(patch):
            self._apply(patch, element, parent)

    def _apply(self, patch: Patch, element: Element, parent: Element) -> None:
        options: dict[str, Any] = dict(patch.options or {})
        content = patch.content
        match patch.action:
            case "text":
                element.children = [content] if content else []
            case "html":
                element.children = parse(content)
            case "append" | "prepend":
                self._add(patch.action, element, parse(content), options.get("keep"))
            case "append_text":
                if not content:
                    return
                if element.children and isinstance(element.children[-1], str):
                    element.children[-1] += content
                else:
                    element.children.append(content)
            case "value":
                element.value = content
            case "attr":
                if content is None:
                    element.attributes.pop(options["name"], None)
                else:
                    element.attributes[options["name"]] = content
            case "class":
                names = [n for n in element.attributes.get("class", "").split() if n != options["name"]]
                if content:
                    names.append(options["name"])
                element.attributes["class"] = " ".join(sorted(names))
            case "remove":
                parent.children.remove(element)
            case "replace" | "before" | "after":
                at = next(i for i, c in enumerate(parent.children) if c is element)
                end = at + 1 if patch.action == "replace" else at if patch.action == "before" else at + 1
                start = at if patch.action in ("replace", "before") else at + 1
                parent.children[start:end] = parse(content)
            case other:
                raise AssertionError(other)

    def _add(self, action: str, element: Element, nodes: list[Node], keep: int | None) -> None:
        ids = {n.id for n in nodes if isinstance(n, Element) and n.id}
        element.children = [
            c for c in element.children if not (isinstance(c, Element) and c.id and c.id in ids)
        ]
        if action == "append":
            element.children += nodes
        else:
            element.children[:0] = nodes
        if keep is None:
            return
        end = 0 if action == "append" else -1
        while sum(map(_counted, element.children)) > keep or (
            element.children and not _counted(element.children[end])
        ):
            del element.children[end]


def _counted(node: Node) -> bool:
    return isinstance(node, Element) or bool(node.strip())
