"""How what comes from a page is written into a terminal and a pipe."""

from __future__ import annotations

import json
from typing import Any

import pytest
from markupsafe import Markup

from afterload.cli.lines import contents, for_people, for_programs
from afterload.cli.wires import Block
from afterload.patch import (
    Patch,
    after,
    append,
    append_text,
    attr,
    before,
    class_,
    dispatch,
    html,
    navigate,
    prepend,
    reload,
    remove,
    replace,
    text,
    title,
    value,
)  # fmt: skip

HOSTILE = "a\x1b[2J\x07\x9b\r\u202eb"


def of(*patches: Patch, event: str = "patch") -> Block:
    return Block(event, "e.1", [["a", 1, [patch.wire() for patch in patches]]])


@pytest.mark.parametrize(
    ("patch", "line", "shown"),
    [
        (text("#a", 12), "#a: 12", "12\n"),
        (text("#a", ""), "#a:", "\n"),
        (text(".a b", "x", select="all"), ".a b: x", "x\n"),
        (text("#a", "1\n2"), "#a: 1\\n2", "1\n2\n"),
        (text("#a", "1 < 2"), "#a: 1 < 2", "1 < 2\n"),
        (text("#a", "5\u202f000\u00a0km"), "#a: 5\u202f000\u00a0km", "5\u202f000\u00a0km\n"),
        (html("#a", "1 < 2"), "#a: 1 < 2", "1 < 2\n"),
        (html("#a", Markup("<p>one</p><p>two <b>thr</b>ee</p>")), "#a: one two three", "one two three\n"),
        (html("#a", Markup("x<style>p{}</style><script>y</script><template>z</template>")), "#a: x", "x\n"),
        (html("#a", Markup("<img src=x alt=Cat><br>a&nbsp;b")), "#a: Cat a b", "Cat a b\n"),
        (append("#a", Markup("<li id=x>soup")), "#a: soup", "soup\n"),
        (prepend("#a", "soup"), "#a: soup", "soup\n"),
        (append_text("#a", "so"), "#a: so", "so"),
        (value("#a", "x"), "#a: x", "x\n"),
        (attr("#a", "href", "/next"), "#a href: /next", ""),
        (attr("#a", "href", None), "#a href", ""),
        (class_("#a", "on", True), "#a class: +on", ""),
        (class_("#a", "on", False), "#a class: -on", ""),
        (title("x"), "title: x", ""),
        (replace("#a", Markup("<p id=a>x</p>")), "#a replace: x", "x\n"),
        (before("#a", Markup("<p>x</p>")), "#a before: x", "x\n"),
        (after("#a", Markup("<p>x</p>")), "#a after: x", "x\n"),
        (remove("#a"), "#a remove", ""),
        (navigate("/next"), "navigate: /next", ""),
        (reload(), "reload", ""),
        (dispatch("sold", {"id": 7}), 'dispatch sold: {"id": 7}', ""),
        (dispatch("sold", "é", target="#a"), '#a dispatch sold: "é"', ""),
    ],
)
def test_each_action_has_its_line(patch: Patch, line: str, shown: str) -> None:
    assert list(for_people(of(patch), True)) == [(line, "\n")]
    assert "".join(map("".join, contents(of(patch), True))) == shown


@pytest.mark.parametrize("event", ["patch", "snapshot"])
def test_each_patch_of_a_block_has_a_line(event: str) -> None:
    block = Block(event, "e.1", [["a", 1, [text("#a", 1).wire(), text("#b", 2).wire()], 0], ["b", 1, []]])
    assert [line for line, _ in for_people(block, False)] == ["#a: 1", "#b: 2"]


def test_plain_strings_are_as_they_are() -> None:
    block = Block("message", "", ["one\n two\x1b[m"])
    for write in (for_people, contents):
        assert list(write(block, False)) == [("one\n two\x1b[m", "\n")]


def test_no_control_character_comes_raw_to_a_terminal() -> None:
    safe = "a\\x1b[2J\\x07\\x9b\\r\\u202eb"
    for write in (for_people, contents):
        assert list(write(Block("message", "", [HOSTILE]), True)) == [(safe, "\n")]
    assert list(for_people(of(text("#a", HOSTILE)), True)) == [(f"#a: {safe}", "\n")]
    assert list(contents(of(text("#a", HOSTILE)), True)) == [(safe, "\n")]
    assert list(for_people(of(append("#a", Markup("<b>\x1b[2J</b>"))), True)) == [("#a: \\x1b[2J", "\n")]
    assert next(for_people(of(dispatch("x", HOSTILE)), True))[0].isprintable()


def test_no_content_begins_a_line_of_its_own() -> None:
    # Not in a pipe either, where it could be taken for what another target shows.
    assert list(for_people(of(text("#a", "1\n#b: 2")), False)) == [("#a: 1\\n#b: 2", "\n")]
    assert list(for_people(of(dispatch("x\n#b: 2", 1)), False)) == [("dispatch x\\n#b: 2: 1", "\n")]


def test_scripts_that_need_joiners_keep_them() -> None:
    said = "می‌خواهم 👩‍🍳"
    assert list(for_people(Block("message", "", [said]), True)) == [(said, "\n")]


# For programs


def records(block: Block) -> list[dict[str, Any]]:
    pieces = list(for_programs(block, True))
    assert {end for _, end in pieces} <= {"\n"}
    assert all(line.isascii() and line.isprintable() for line, _ in pieces)
    return [json.loads(line) for line, _ in pieces]


def test_patches_are_whole_and_the_last_has_the_position() -> None:
    hostile, row = text("#a", HOSTILE + "\x7f"), append("#b", "x", keep=2)
    block = Block("patch", "e.7", [["a", 3, [hostile.wire()], 1], ["b", 1, [row.wire()]]])
    assert records(block) == [
        {"event": "patch", "channel": "a", "action": "text", "target": "#a", "content": HOSTILE + "\x7f"},
        {"event": "patch", "channel": "b", "action": "append", "target": "#b", "content": "x", "keep": 2}
        | {"id": "e.7"},
    ]


def test_a_snapshot_says_that_it_begins_even_if_it_is_empty() -> None:
    block = Block("snapshot", "e.7", [["a", 3, [text("#a", 1).wire()]], ["b", 0, []]])
    assert records(block) == [
        {"event": "snapshot", "channel": "a"},
        {"event": "patch", "channel": "a", "action": "text", "target": "#a", "content": "1"},
        {"event": "snapshot", "channel": "b", "id": "e.7"},
    ]


@pytest.mark.parametrize(
    ("block", "record"),
    [
        (Block("message", "e.1", ["x"]), {"event": "message", "text": "x", "id": "e.1"}),
        (Block("message", "", ["x"]), {"event": "message", "text": "x"}),
        (Block("reset", "", [{"channel": "a"}]), {"event": "reset", "channel": "a"}),
        (Block("refresh", "", [{}]), {"event": "refresh"}),
        (
            Block("end", "e.2", [{"channel": "a", "status": "done", "message": ""}]),
            {"event": "end", "channel": "a", "status": "done", "message": "", "id": "e.2"},
        ),
    ],
)
def test_what_else_a_page_would_act_on_is_there(block: Block, record: dict[str, Any]) -> None:
    assert records(block) == [record]
    if block.event != "message":
        assert [*for_people(block, True), *contents(block, True)] == []


@pytest.mark.parametrize("event", ["hello", "ping", "bye", "new"])
def test_what_is_between_client_and_server_is_not_shown(event: str) -> None:
    for write in (for_people, contents, for_programs):
        assert list(write(Block(event, "e.1", [{}]), True)) == []
