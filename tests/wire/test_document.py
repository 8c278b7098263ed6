"""The document wire: what is written, read back as a browser would."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterload import attr, html, text
from afterload.blocks import Hello
from afterload.log import End, Message, Patches, Piece, Refresh, Reset, Snapshot, Step
from afterload.wire import document
from afterload.wire import text as plain
from afterload.wire.document import COMPLETE, closed, opening

HOSTILE = [
    "</script><img src=x onerror=alert(1)>", "'><img src=x onerror=alert(1)>", '"><b>', "<!--", "-->", "]]>",
    "\u2028\u2029", "{{7*7}}", "javascript:alert(1)", "\0", "&amp;&#39;&lt;", "\\u003c\\", "\r\n\t", "</af-p>",
    "\U0001f600",
]  # fmt: skip


class Reader(HTMLParser):
    """Every element, its attributes, and the text between."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def blocks(data: bytes) -> list[Any]:
    """The blocks, and nothing else is there."""
    read = Reader(data.decode())
    assert read.text == ""
    assert {tag for tag, _ in read.tags} <= {"af-p"}
    assert all(set(attributes) == {"p"} for _, attributes in read.tags)
    return [json.loads(str(attributes["p"])) for _, attributes in read.tags]


def test_each_kind_of_block_says_what_it_says_on_the_event_stream() -> None:
    steps = [
        Step((Patches("a", 3, [text("#n", 1)], 2), Patches("b", 9, [text("#m", 2)], 5)), 7),
        Step((Reset("a"), Snapshot("a", 3, [text("#n", 1)])), None),
        Step((Message("a\nb"),), 8),
        Step((Refresh(),), None),
        Step((End("a", "failed", "Sorry."),), 9),
    ]
    assert blocks(b"".join(document.step(step, "e") for step in steps)) == [
        ["patch", ["a", 3, [["text", "#n", "1"]]], ["b", 9, [["text", "#m", "2"]], 5]],
        ["reset", {"channel": "a"}],
        ["snapshot", ["a", 3, [["text", "#n", "1"]]]],
        ["message", "a\nb"],
        ["refresh", {}],
        ["end", {"channel": "a", "status": "failed", "message": "Sorry."}],
    ]
    assert blocks(document.ping("e.1") + document.bye(1)) == [["ping", {}], ["bye", {"retry": 500}]]


def test_hello_names_the_channels_and_the_place_of_plain_strings() -> None:
    said = document.hello(Hello(position="0", resumed=False, heartbeat=20, channels=("~",), into="#data"))
    [[event, detail]] = blocks(said)
    assert event == "hello"
    assert detail == {"v": 1, "resumed": False, "heartbeat": 20, "channels": ["~"], "into": "#data"}


@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_gets_out_of_its_attribute(value: str) -> None:
    given_patches = [text("#a", value), html("#b", value), attr("#c", "title", value)]
    said = document.step(Step((Patches(value, 1, given_patches, 0), Message(value)), 1), "e")
    assert blocks(said) == [
        ["patch", [value, 1, [patch.wire() for patch in given_patches]]],
        ["message", value.replace("\r\n", "\n").replace("\r", "\n")],
    ]
    for quoted in (b"<script", b"<img", b"<!--", b"&"):
        assert quoted not in said


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_arrives_as_it_is_but_for_the_ends_of_its_lines(value: str) -> None:
    lines = value.replace("\r\n", "\n").replace("\r", "\n")
    assert blocks(document.step(Step((Message(value),), 1), "e")) == [["message", lines]]


@pytest.mark.parametrize(
    ("rest", "end"),
    [
        ("<p>x</p>\n</body>\n</html>\n", "\n</body>\n</html>\n"),
        ("<p>x</p></BODY ></HTML>", "</BODY ></HTML>"),
        ("<p>x</p></html>", "</html>"),
        ("<p>x</p>", ""),
        ("", ""),
        ("</body></html><!-- made by hand -->", ""),
    ],
)
def test_behind_the_mark_are_only_end_tags_that_may_be_missing(rest: str, end: str) -> None:
    whole = closed(rest)
    assert whole == rest[: len(rest) - len(end)] + COMPLETE + end


def test_the_script_stands_in_a_page_and_has_the_nonce() -> None:
    read = Reader(opening('n"1'))
    assert [tag for tag, _ in read.tags] == ["svg", "script"]
    assert read.tags[1][1] == {"nonce": 'n"1'}
    assert "customElements.define" in read.text
    assert "nonce" not in Reader(opening()).tags[1][1]


def test_a_text_is_written_as_it_is() -> None:
    step = Step((Piece(b"<p>"), Piece("é".encode())), 4)
    assert plain.step(step, "e") == "<p>é".encode()
    assert plain.step(Step((End("~", "done", ""),), 3), "e") == b""
    hello = plain.hello(Hello(position="0", resumed=False, heartbeat=1, channels=()))
    assert hello + plain.ping("e.1") + plain.bye(1) == b""
