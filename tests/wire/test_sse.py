"""The event stream: what is encoded arrives, however it is split; each block is as docs/wire.md says."""

from __future__ import annotations

import doctest
import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

import afterload as al
from afterload.blocks import Hello, dumps
from afterload.errors import WireError
from afterload.log import End, Message, Patches, Refresh, Reset, Snapshot, Step
from afterload.patch import EFFECTS, STATE, Patch
from afterload.position import Position
from afterload.wire import sse
from afterload.wire.sse import Decoder, Event, encode

texts = st.text(st.characters(exclude_categories=["Cs"]))
fields = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"))


def decode(*chunks: bytes) -> list[Event]:
    decoder = Decoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def one(data: bytes) -> Event:
    (event,) = decode(data)
    return event


def lines(event: Event) -> list[Any]:
    return [json.loads(line) for line in event.data.split("\n")]


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(sse).failed == 0


# Decoding: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation


def m(data: str, id: str = "", retry: int | None = None) -> Event:
    return Event("message", data, id, retry)


DECODED: list[tuple[str, bytes, list[Event]]] = [
    ("nothing", b"", []),
    ("one line", b"data: hello\n\n", [m("hello")]),
    ("the standard's first example", b"data: YHOO\ndata: +2\ndata: 10\n\n", [m("YHOO\n+2\n10")]),
    (
        "the standard's second example",
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [m("first event", "1"), m("second event"), m(" third event")],
    ),
    (
        "the standard's third example",
        b"data\n\ndata\ndata\n\ndata:",
        [m(""), m("\n")],
    ),
    ("the standard's fourth example", b"data:test\n\ndata: test\n\n", [m("test")] * 2),
    ("a cut event is dropped", b"data: a\n\ndata: b\n", [m("a")]),
    ("CRLF", b"event: x\r\ndata: a\r\ndata: b\r\n\r\n", [Event("x", "a\nb")]),
    ("CR", b"event: x\rdata: a\rdata: b\r\r", [Event("x", "a\nb")]),
    ("all three line ends", b"data: a\r\ndata: b\rdata: c\n\r\n", [m("a\nb\nc")]),
    ("CRLF and LF are two line ends", b"data: a\r\n\ndata: b\r\n\r\n", [m("a"), m("b")]),
    ("LF and CR are two line ends", b"data: a\n\rdata: b\n\r", [m("a"), m("b")]),
    ("a BOM in front", b"\xef\xbb\xbfdata: a\n\n", [m("a")]),
    ("only one BOM", b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [m("b")]),
    ("a BOM later on is text", b"data: \xef\xbb\xbfa\n\n", [m("\ufeffa")]),
    ("comments", b": a\n:\n:data: x\ndata: a\n\n", [m("a")]),
    ("no data, no event", b"event: x\nid: 1\n\ndata: a\n\n", [m("a", "1")]),
    ("empty data is data", b"data:\n\n", [m("")]),
    ("an empty type is message", b"event: x\nevent:\ndata: a\n\n", [m("a")]),
    ("the type is of one event", b"event: x\ndata: a\n\ndata: b\n\n", [Event("x", "a"), m("b")]),
    ("the id stays", b"id: 1\ndata: a\n\ndata: b\n\n", [m("a", "1"), m("b", "1")]),
    ("an empty id is one", b"id: 1\ndata: a\n\nid:\ndata: b\n\n", [m("a", "1"), m("b")]),
    ("an id with NUL is none", b"id: 1\nid: 2\x003\ndata: a\n\n", [m("a", "1")]),
    ("NUL in data is text", b"data: \x00\n\n", [m("\0")]),
    ("one blank is taken off", b"data:  a \nevent:\tx\n\n", [Event("\tx", " a ")]),
    ("names are exact", b"Data: a\n data: b\ndata : c\ndatas: d\ndata: e\n\n", [m("e")]),
    ("a value has colons", b"data: a:b: c\n\n", [m("a:b: c")]),
    ("retry", b"retry: 1500\ndata: a\n\ndata: b\n\n", [m("a", "", 1500), m("b")]),
    ("retry with leading zeros", b"retry: 007\ndata: a\n\n", [m("a", "", 7)]),
    *(
        (f"retry of {bad!r} is none", b"retry: " + bad + b"\ndata: a\n\n", [m("a")])
        for bad in [b"", b"-1", b"+1", b"1.5", b"1e3", b" 1", b"1 ", b"x", "\u0661".encode(), b"9" * 5000]
    ),
    (
        "only CR and LF end a line",
        "data: a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g\n\n".encode(),
        [m("a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g")],
    ),
    ("text of any length", "data: é€🙂\n\n".encode(), [m("é€🙂")]),
    ("what is no UTF-8", b"data: a\xffb\xc3\n\n", [m("a\ufffdb\ufffd")]),
    ("half a character", b"data: \xf0\x9f\ndata: \x98\x80\n\n", [m("\ufffd\n\ufffd\ufffd")]),
    ("a surrogate in UTF-8 is none", b"data: \xed\xa0\x80\n\n", [m("\ufffd" * 3)]),
]  # fmt: skip
STREAMS = pytest.mark.parametrize(
    ("stream", "expected"), [c[1:] for c in DECODED], ids=[c[0] for c in DECODED]
)


@STREAMS
def test_a_stream_read_whole(stream: bytes, expected: list[Event]) -> None:
    assert decode(stream) == expected


@STREAMS
def test_a_stream_read_byte_by_byte(stream: bytes, expected: list[Event]) -> None:
    assert decode(*(stream[i : i + 1] for i in range(len(stream)))) == expected


@STREAMS
def test_a_stream_split_anywhere(stream: bytes, expected: list[Event]) -> None:
    for i in range(len(stream) + 1):
        assert decode(stream[:i], stream[i:]) == expected
        assert decode(stream[:i], b"", stream[i:]) == expected


@STREAMS
def test_a_stream_with_an_unfinished_event_behind(stream: bytes, expected: list[Event]) -> None:
    assert decode(stream + b"\n\n", b"id: later\ndata: cut off\n")[: len(expected)] == expected


bits = st.sampled_from(
    [b"data", b"id", b"event", b"retry", b":", b" ", b"\n", b"\r", b"\r\n", b"1", b"a", b"\0", b"\xff",
     b"\xc3", b"\xa9", b"\xef\xbb\xbf", "\u2028".encode()]
)  # fmt: skip


@given(st.lists(bits, max_size=30).map(b"".join) | st.binary(max_size=60), st.data())
def test_any_bytes_give_the_same_events_however_they_are_split(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole, parts = Decoder(), Decoder()
    events = whole.feed(stream)
    assert [event for chunk in chunks for event in parts.feed(chunk)] == events
    assert (parts.id, parts.retry) == (whole.id, whole.retry)
    assert decode(*(stream[i : i + 1] for i in range(len(stream)))) == events
    assert events == by_the_book(stream)


def by_the_book(stream: bytes) -> list[Event]:
    """The standard's algorithm, word by word, for a stream that is there as a whole."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events = []
    data, kind, last_id, retry = "", "", "", None
    for line in text.split("\n")[:-1]:
        if line == "":
            if data != "":
                events.append(Event(kind or "message", data.removesuffix("\n"), last_id, retry))
            data, kind, retry = "", "", None
        elif line.startswith(":"):
            pass
        else:
            field, colon, value = line.partition(":")
            if colon and value.startswith(" "):
                value = value[1:]
            match field:
                case "event":
                    kind = value
                case "data":
                    data += value + "\n"
                case "id" if "\0" not in value:
                    last_id = value
                case "retry" if value and set(value) <= set("0123456789") and len(value) < 16:
                    retry = int(value)
    return events


def test_an_id_counts_when_its_event_is_complete() -> None:
    """A cut in the middle of an event: the next connect asks for that event again."""
    decoder = Decoder()
    decoder.feed(b"id: e.1\ndata: a\n\nid: e.2\ndata: b\n")
    assert decoder.id == "e.1"
    decoder.feed(b"\n")
    assert decoder.id == "e.2"


def test_what_a_block_without_data_asks_for_is_not_lost() -> None:
    decoder = Decoder()
    assert decoder.feed(b"retry: 700\nid: e.3\n\n") == []
    assert (decoder.retry, decoder.id) == (700, "e.3")
    decoder.feed(b"retry: 900\n")
    assert decoder.retry == 700


def test_a_long_line_in_small_pieces_costs_no_more_than_its_length() -> None:
    """Stands for a big snapshot over a slow line; joining at every piece takes minutes for this one."""
    decoder = Decoder()
    started = time.process_time()
    decoder.feed(b"data: ")
    for _ in range(200_000):
        decoder.feed(b"0123456789")
    (event,) = decoder.feed(b"\n\n")
    assert len(event.data) == 2_000_000
    assert time.process_time() - started < 10


# Encoding


@given(texts, st.none() | fields.filter(bool), st.none() | fields, st.none() | st.integers(0, 10**15 - 1))
def test_what_is_encoded_arrives(data: str, event: str | None, id: str | None, retry: int | None) -> None:
    block = encode(data, event=event, id=id, retry=retry)
    arrived = data.replace("\r\n", "\n").replace("\r", "\n")
    assert decode(block) == [Event(event or "message", arrived, id or "", retry)]
    assert decode(block + block) == 2 * [Event(event or "message", arrived, id or "", retry)]
    assert decode(b"data: x\n\n" + block)[1:] == [Event(event or "message", arrived, id or "", retry)]


@pytest.mark.parametrize(
    ("arguments", "block"),
    [
        ({"data": "a"}, b"data: a\n\n"),
        ({"data": ""}, b"data: \n\n"),
        ({"data": None}, b"\n"),
        ({"data": None, "id": "1"}, b"id: 1\n\n"),
        ({"data": "a\r\nb\rc\nd\n"}, b"data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"),
        ({"data": " a"}, b"data:  a\n\n"),
        ({"data": "a\u2028b\x0c\x85"}, "data: a\u2028b\x0c\x85\n\n".encode()),
        ({"data": "a", "event": "e", "id": "i", "retry": 5}, b"event: e\nid: i\nretry: 5\ndata: a\n\n"),
        ({"data": "a\ud800b\udfff"}, "data: a\ufffdb\ufffd\n\n".encode()),
    ],
)
def test_a_block_is_these_bytes(arguments: dict[str, Any], block: bytes) -> None:
    assert encode(**arguments) == block


@pytest.mark.parametrize("bad", ["\n", "\r", "\0", "a\nid: forged", "a\rdata: forged\r\r", "\r\n\r\n"])
def test_an_event_or_id_that_would_begin_a_line_of_its_own_is_refused(bad: str) -> None:
    """Stands for the injection of blocks by whoever chooses a channel's or an event's name."""
    for field in ("event", "id"):
        with pytest.raises(WireError) as caught:
            encode("a", **{field: bad})  # type: ignore[arg-type]
        assert (caught.value.field, caught.value.value) == (field, bad)
        assert str(caught.value).isprintable()
    for block in (sse.ping, sse.message):
        with pytest.raises(WireError):
            block("x", bad) if block is sse.message else block(bad)


def test_a_negative_retry_is_refused() -> None:
    with pytest.raises(WireError):
        encode("a", retry=-1)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


@given(values)
def test_json_comes_back_from_one_line_that_ends_no_script(value: Any) -> None:
    text = dumps(value)
    assert json.loads(text) == value
    assert not set(text) & set("<\r\n\0\u2028\u2029")


def test_json_is_compact_and_not_longer_than_its_text() -> None:
    assert dumps({"ü": [1, "日本"]}) == '{"ü":[1,"日本"]}'
    assert dumps("<\u2028\u2029") == '"\\u003c\\u2028\\u2029"'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"x", {(1,): 2}])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(WireError):
        dumps(value)


# The blocks


def test_hello_repeats_the_position_that_the_viewer_had() -> None:
    event = one(
        sse.hello(
            Hello(
                position="e1.7~", resumed=True, heartbeat=20.0, channels=["a", "b"], into="#data", retry=2500
            )
        )
    )
    assert (event.event, event.id, event.retry) == ("hello", "e1.7~", 2500)
    assert json.loads(event.data) == {
        "v": 1, "resumed": True, "heartbeat": 20.0, "channels": ["a", "b"], "into": "#data"
    }  # fmt: skip


def test_hello_says_into_only_if_the_page_did() -> None:
    event = one(sse.hello(Hello(position="0", resumed=False, heartbeat=20, channels=("~",))))
    assert (event.id, event.retry) == ("0", 3000)
    assert json.loads(event.data) == {"v": 1, "resumed": False, "heartbeat": 20, "channels": ["~"]}


@pytest.mark.parametrize("retry", [0, -1, 1, 499])
def test_no_browser_is_told_to_reconnect_at_once(retry: int) -> None:
    """Stands for the request storm of ``retry: 0``: Chromium and WebKit send hundreds a second."""
    assert (
        one(sse.hello(Hello(position="0", resumed=False, heartbeat=20, channels=[], retry=retry))).retry
        == 500
    )
    bye = one(sse.bye(retry))
    assert (bye.event, bye.retry, json.loads(bye.data)) == ("bye", 500, {"retry": 500})


def test_a_plain_string_is_what_onmessage_gets() -> None:
    assert one(sse.message("12:00 \u2028 <b>", "e.1")) == Event("message", "12:00 \u2028 <b>", "e.1")
    assert one(sse.message("a\nb")) == Event("message", "a\nb")


def test_patches_are_a_line_for_each_channel() -> None:
    event = one(
        sse.patch(
            [
                ("orders", 12, [al.text("#count", 3), al.append("#log", "a\nb", keep=5)], None),
                ("clock", 7, [al.title("<\u2028>")], 4),
                ("run", 2, [], 0),
            ],
            "e.9",
        )
    )
    assert (event.event, event.id) == ("patch", "e.9")
    assert lines(event) == [
        ["orders", 12, [["text", "#count", "3"], ["append", "#log", "a\nb", {"keep": 5}]]],
        ["clock", 7, [["title", "", "<\u2028>"]], 4],
        ["run", 2, [], 0],
    ]


def test_a_block_without_an_id_makes_no_promise() -> None:
    for block in (
        sse.patch([("a", 1, [al.reload()], None)]),
        sse.snapshot([("a", 1, [al.title("x")], None)]),
        sse.message("x"),
        sse.reset("a"),
        sse.refresh(),
        sse.end("a", "done", ""),
        sse.bye(1000),
    ):
        assert b"id:" not in block
        assert decode(b"id: e.1\n\n" + block)[0].id == "e.1"


@pytest.mark.parametrize(
    ("block", "event", "data", "id"),
    [
        (sse.reset("a\n<b>"), "reset", {"channel": "a\n<b>"}, ""),
        (sse.reset("~", "k.1"), "reset", {"channel": "~"}, "k.1"),
        (sse.refresh(), "refresh", {}, ""),
        (sse.ping("e.4"), "ping", {}, "e.4"),
        (sse.end("a", "done"), "end", {"channel": "a", "status": "done", "message": ""}, ""),
        (sse.end("a", "lost", "", "e.5"), "end", {"channel": "a", "status": "lost", "message": ""}, "e.5"),
    ],
)  # fmt: skip
def test_the_small_blocks(block: bytes, event: str, data: dict[str, Any], id: str) -> None:
    found = one(block)
    assert (found.event, json.loads(found.data), found.id) == (event, data, id)


patch_strategy = st.one_of(
    st.builds(al.text, st.just("#a"), texts),
    st.builds(al.append, st.just("#a"), texts, keep=st.none() | st.integers(1, 9)),
    st.builds(al.attr, st.just("#a"), st.just("title"), st.none() | texts),
    st.builds(al.dispatch, st.just("x"), values),
)
line_strategy = st.tuples(
    texts, st.integers(1, 10**9), st.lists(patch_strategy, max_size=3), st.none() | st.integers(0, 10**9)
)


@given(st.lists(line_strategy, min_size=1, max_size=3))
def test_any_patches_of_any_channels_arrive(given_lines: list[sse.Line]) -> None:
    expected = [
        [channel, seq, [patch.wire() for patch in patches], *([] if since is None else [since])]
        for channel, seq, patches, since in given_lines
    ]
    for block in (sse.patch(given_lines, "e.1"), sse.snapshot(given_lines, "e.1")):
        assert lines(one(block)) == json.loads(json.dumps(expected))


@given(st.text(st.characters() | st.characters(categories=["Cs"])))
def test_a_channel_or_message_of_any_text_stops_no_stream(text: str) -> None:
    """Stands for a failure's message that holds undecodable bytes: others' blocks come after it."""
    for block in (
        sse.end(text, "failed", text),
        sse.reset(text),
        sse.message(text, "e.1"),
        sse.patch([(text, 1, [al.reload()], None)]),
        sse.hello(Hello(position="0", resumed=False, heartbeat=1, channels=[text], into="#" + text)),
    ):
        assert [e.event for e in decode(block, sse.ping("e.2"))][1:] == ["ping"]


# A step of a log's answer


def kinds(blocks: bytes) -> list[tuple[str, str]]:
    return [(event.event, event.id) for event in decode(blocks)]


def seqs(event: Event) -> list[list[Any]]:
    return [line[:2] + line[3:] for line in lines(event)]


A: Iterable[Patch] = (al.text("#a", 1),)
P1, P2 = Patches("a", 3, tuple(A), 2), Patches("b", 9, tuple(A), 5)
S1, S2 = Snapshot("a", 3, tuple(A)), Snapshot("b", 9, tuple(A))


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ((), []),
        ((P1,), [("patch", "e.7")]),
        ((P1, P2), [("patch", "e.7")]),
        ((S1, S2), [("snapshot", "e.7")]),
        ((S1, P1), [("snapshot", ""), ("patch", "e.7")]),
        (
            (Reset("a"), S1, Reset("b"), S2),
            [("reset", ""), ("snapshot", ""), ("reset", ""), ("snapshot", "e.7")],
        ),
        ((Message("x"), Message("y")), [("message", ""), ("message", "e.7")]),
        ((Refresh(),), [("refresh", "e.7")]),
        ((End("a", "done", ""), End("b", "lost", "")), [("end", ""), ("end", "e.7")]),
    ],
)
def test_a_steps_last_block_carries_its_position(
    items: tuple[Any, ...], expected: list[tuple[str, str]]
) -> None:
    assert kinds(sse.step(Step(items, 7), "e")) == expected
    assert kinds(sse.step(Step(items, None), "e")) == [(event, "") for event, _ in expected]


def test_a_step_says_since_when_a_line_covers_more_than_one_entry() -> None:
    assert seqs(one(sse.step(Step((P1, P2), 7), "e"))) == [["a", 3], ["b", 9, 5]]
    assert seqs(one(sse.step(Step((S1, S2), 7), "e"))) == [["a", 3], ["b", 9]]


def test_a_step_says_what_its_items_say() -> None:
    (event,) = decode(sse.step(Step((End("a", "failed", "Sorry."),), 7), "e"))
    assert json.loads(event.data) == {"channel": "a", "status": "failed", "message": "Sorry."}
    (event,) = decode(sse.step(Step((Message("x\ny"),), 7), "e"))
    assert event.data == "x\ny"
    (event,) = decode(sse.step(Step((Reset("a"),), 7), "e"))
    assert json.loads(event.data) == {"channel": "a"}


# docs/wire.md

WIRE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text("utf-8")


def test_the_blocks_in_the_documentation_are_what_is_sent() -> None:
    blocks = re.findall(r"```event-stream\n(.*?)```", WIRE, re.DOTALL)
    found = [one(block.encode()) for block in blocks]
    assert [e.event for e in found] == [
        "hello", "message", "patch", "snapshot", "reset", "refresh", "ping", "end", "bye"
    ]  # fmt: skip
    order = al.append("#log", Markup("<li>new</li>"), keep=500)
    now = al.text("#now", "12:01")
    sent = [
        sse.hello(
            Hello(
                position="Zm9vYmFy.41",
                resumed=True,
                heartbeat=20.0,
                channels=["orders", "clock"],
                into="#data",
                retry=2740,
            )
        ),
        sse.message("12:00", "Zm9vYmFy.42"),
        sse.patch(
            [("orders", 12, [al.text("#count", 3), order], None), ("clock", 907, [now], 899)], "Zm9vYmFy.43"
        ),
        sse.snapshot([("clock", 907, [now], None)], "Zm9vYmFy.43"),
        sse.reset("~"),
        sse.refresh(),
        sse.ping("Zm9vYmFy.47"),
        sse.end("clock", "done", "", "Zm9vYmFy.48"),
        sse.bye(1840),
    ]
    assert blocks == [block.decode() for block in sent]


def test_the_patches_in_the_documentation_are_patches_one_for_each_action() -> None:
    found = [json.loads(text) for text in re.findall(r"^\| `(\[.*\])` \|", WIRE, re.MULTILINE)]
    assert [Patch(*patch).wire() for patch in found] == found
    assert {patch[0] for patch in found} == (STATE | EFFECTS) - {"message"}


def test_the_positions_in_the_documentation_are_positions() -> None:
    found = re.findall(r'(?:data-position="|^id: )([^"\n]+)', WIRE, re.MULTILINE)
    assert len(found) == 7
    assert all(Position.parse(text) for text in found)


def test_the_links_within_the_documentation_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", WIRE, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", WIRE)) <= headings
