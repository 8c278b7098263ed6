"""What viewers and entries are in messages: all of them come back equal, and nonsense is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from afterload import patch
from afterload.errors import PatchError
from afterload.hub import messages
from afterload.hub.messages import REFUSED
from afterload.hub.viewer import Follow
from afterload.log import End, Log, Message, Patches, Piece, Refresh, Reset, Snapshot, Step
from afterload.noscript import Shown
from afterload.wire import document, poll, sse

EACH = (
    patch.text("#a", 'ü <b> \u2028 \0 \\ "'),
    patch.text(".row", 1, select="all"),
    patch.html("#a", Markup("<b>1</b>")),
    patch.append("#a", Markup("<li>1"), keep=5),
    patch.prepend("#a", Markup("<li>1"), keep=5, select="all"),
    patch.append_text("#a", "more"),
    patch.value("#a", "typed"),
    patch.attr("#a", "title", "t"),
    patch.attr("#a", "hidden", None),
    patch.attr("#a", "disabled", True),
    patch.class_("#a", "on", on=False),
    patch.title("t"),
    patch.replace("#a", Markup("<p id=a>")),
    patch.remove("#a"),
    patch.before("#a", Markup("<p>")),
    patch.after("#a", Markup("<p>")),
    patch.navigate("/there?a=1#b"),
    patch.reload(),
    patch.dispatch("news", {"a": [1, 2.5, None, True, "x"]}, target="#a"),
    patch.message("plain"),
)


def through(value: Any) -> Any:
    """As JSON has it on the way."""
    return json.loads(json.dumps(value))


def test_these_are_all_the_actions():
    assert {one.action for one in EACH} == set(patch._FORMS)


@pytest.mark.parametrize("one", EACH, ids=lambda one: one.action)
def test_a_patch_of_every_action_comes_back_equal(one):
    assert messages.patches(through(messages.entry([one]))) == (one,)


def test_an_entry_comes_back_equal():
    assert messages.patches(through(messages.entry(EACH))) == EACH


ITEMS = (
    Patches("news", 3, list(EACH), 2),
    Snapshot("news", 3, list(EACH)),
    Snapshot("empty", 0, []),
    Message("a\nplain ü"),
    Reset("news"),
    Refresh(),
    End("news", "failed", "Something went wrong."),
)


def test_every_item_of_an_answer_comes_back_equal():
    steps = (Step(ITEMS, 7), Step((), None), *[Step((item,), i) for i, item in enumerate(ITEMS)])
    assert messages.steps(through(messages.of_steps(steps))) == steps


def test_a_piece_of_a_text_stays_in_its_process():
    with pytest.raises(TypeError, match="Piece is of one process only"):
        messages.of_steps([Step((Piece(b"x"),), 0)])


HTML = '<p id="a">1</p><progress id="bar" max="3" value="1"></progress><p>'


def followers() -> list[Follow]:
    shown = Shown(HTML, "#a", None, True, lambda: 0.0).shared()
    return [
        Follow(None, ("news",)),
        Follow(
            None, ("a", "ü"), position="e.7~", foreign=True, into="#a", hold=False,
            head="HTTP/1.1 200 OK\r\nX-Name: \xfc\r\n\r\n".encode("latin-1"), address="192.0.2.1", sent=17,
        ),
        Follow(None, ("a",), wire=document, opening=b"<!doctype html>\xff", ending=b"</html>"),
        Follow(None, ("a",), wire=document, opening=b"<p>", shown=shown),
        Follow(None, ("a",), wire=poll, wait=2.5, owner="ü-7", asked=1234.5),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(5))
def test_what_a_viewer_asks_for_comes_back_equal(number):
    asked = followers()[number]
    assert messages.follow(through(messages.of_follow(asked)), lambda: 0.0, 50) == asked


def test_viewers_of_pages_made_alike_are_still_sent_the_same_parts():
    """Else each would cost its own group, and its own encoding."""
    first, second = [
        messages.follow(through(messages.of_follow(followers()[3])), lambda: 0.0, 50) for _ in range(2)
    ]
    log = Log("e")
    assert first.within(log).key == second.within(log).key
    assert hash(first.within(log).key) == hash(second.within(log).key)


def test_a_viewer_that_went_through_a_message_sends_the_same_bytes():
    shown = Shown(HTML, "#a", None, True, lambda: 0.0).shared()
    other = Shown.of(through(shown.form()), lambda: 0.0)
    steps = [Step((Snapshot("news", 1, [patch.text("#a", "2")]),), 1)]
    assert shown.part(steps, now=True) == other.part(steps, now=True) != b""


def test_a_viewer_follows_no_more_channels_than_it_may():
    names = tuple(f"n{i}" for i in range(51))
    with pytest.raises(ValueError, match="a viewer follows 1 to 50 channels, by name"):
        messages.follow(messages.of_follow(Follow(None, names)), lambda: 0.0, 50)
    assert messages.follow(messages.of_follow(Follow(None, names[1:])), lambda: 0.0, 50).names == names[1:]


GOOD = through(messages.of_follow(followers()[3]))


@pytest.mark.parametrize(
    "change",
    [
        {"names": []}, {"names": [1]}, {"names": None}, {"names": 3}, {"names": [["a"]]},
        {"head": 3}, {"head": "\u20ac"}, {"head": None}, {"wire": "telepathy"}, {"wire": []},
        {"opening": "é"}, {"opening": "a"}, {"opening": 3}, {"ending": "a"}, {"sent": "many"}, {"sent": None},
        {"shown": 3}, {"shown": {}}, {"shown": {"into": None, "again": True, "places": [1]}},
        {"shown": {"into": None, "again": True, "places": [["a", "p", None, 0, 0]]}},
    ],
    ids=str,
)  # fmt: skip
def test_a_viewer_that_is_none_is_refused(change):
    with pytest.raises(REFUSED):
        messages.follow({**GOOD, **change}, lambda: 0.0, 50)


@pytest.mark.parametrize(
    "missing", "names position foreign into hold head address wire sent wait owner asked".split()
)
def test_a_viewer_of_whom_something_is_missing_is_refused(missing):
    with pytest.raises(REFUSED):
        messages.follow({name: value for name, value in GOOD.items() if name != missing}, lambda: 0.0, 50)


@pytest.mark.parametrize(
    "said", [None, 3, "text", [], [1], [[]], [["text"]], [["text", "#a", "b", {}, 1]], {"a": 1}]
)
def test_an_entry_that_is_none_is_refused(said):
    with pytest.raises(REFUSED):
        messages.patches(said)


@pytest.mark.parametrize(
    "said",
    [
        ["burn", "#a", "x"],
        ["text", "a", "x"],
        ["text", "#a", ["x"]],
        ["attr", "#a", "alert(1)", {"name": "onclick"}],
        ["attr", "#a", "javascript:alert(1)", {"name": "href"}],
        ["navigate", "", "javascript:alert(1)"],
        ["text", "#a", "\ud800"],
    ],
    ids=str,
)
def test_a_patch_that_no_program_could_make_is_refused_as_in_a_program(said):
    with pytest.raises(PatchError):
        messages.patches([said])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(JSON)
def test_any_value_is_an_entry_or_refused(said: Any) -> None:
    try:
        assert messages.patches(said)
    except REFUSED:
        pass


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_any_value_in_any_place_makes_a_viewer_or_is_refused(name: str, value: Any) -> None:
    try:
        follow = messages.follow({**GOOD, name: value}, lambda: 0.0, 50)
    except REFUSED:
        return
    assert 1 <= len(follow.names) <= 50
    assert follow.wire in (sse, document)


@given(
    st.lists(
        st.sampled_from(["patches", "snapshot", "message", "reset", "refresh", "end"]) | JSON, max_size=6
    )
)
def test_any_value_is_an_item_or_refused(item: list[Any]) -> None:
    try:
        messages.steps([[[item], 1]])
    except REFUSED:
        pass
