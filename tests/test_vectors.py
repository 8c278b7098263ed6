"""The vectors in tests/vectors, which the browser's client is held to as well (client/test, tests/browser).

A vector is a case written down once for both sides: where Python and JavaScript could differ, they are
compared with the same expectation, not with each other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from afterload.patch import Patch
from afterload.wire.sse import Decoder
from tests.document import Document, Element

VECTORS = Path(__file__).parent / "vectors"


def vectors(name: str) -> Any:
    """A parameter for each vector, named as it is."""
    found = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    return pytest.mark.parametrize("vector", found, ids=[vector["name"] for vector in found])


def merged(element: Element) -> Element:
    """The same with neighbouring texts as one, as they are after parsing."""
    children: list[Any] = []
    for child in element.children:
        if isinstance(child, Element):
            children.append(merged(child))
        elif children and isinstance(children[-1], str):
            children[-1] += child
        else:
            children.append(child)
    element.children = children
    return element


@vectors("sse")
def test_the_decoder_gives_the_events_of_the_vectors(vector: dict[str, Any]) -> None:
    stream = vector["stream"].encode("latin-1")
    for pieces in ([stream], [stream[i : i + 1] for i in range(len(stream))]):
        decoder = Decoder()
        events = [e for piece in pieces for e in decoder.feed(piece)]
        assert [[e.event, e.data, e.id, e.retry] for e in events] == vector["events"]


@vectors("patches")
def test_the_document_model_does_what_the_vectors_say(vector: dict[str, Any]) -> None:
    document = Document(vector["before"], "served")
    for wire in vector["steps"]:
        document.apply(Patch(*wire))
    expected = Document(vector["after"], vector.get("title", "served"))
    for element, _ in expected.body.walk():
        element.value = vector.get("values", {}).get(f"#{element.id}")
    merged(document.body)
    assert document.serialize() == expected.serialize()
