"""What is shown where scripts do not run: where `<template for>` is known, and by style sheets elsewhere."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from markupsafe import Markup

from afterload import append, append_text, attr, html, prepend, remove, text, value
from afterload.log import End, Item, Message, Patches, Reset, Snapshot, Step
from afterload.noscript import INTERVAL, SERVED_MOST, SLOWER_AFTER, Shown
from afterload.noscript.marks import marked
from afterload.noscript.tidy import ADDED_MOST, MOST, Piece
from afterload.patch import Patch

PAGE = (
    '<!doctype html><html id="top"><title id="t">T</title><body><h1 id="head">old</h1>'
    '<div id="box">in <b id="inner">b</b> it</div><ul id="rows"><li id="r0">zero</li></ul>'
    '<pre id="log">\nfirst\n</pre><table><tr><td id="cell">c</td></tr></table>'
    '<progress id="bar" max="10"></progress><meter id="meter" min="5" max="15"></meter><p id="empty"></p>'
)
BAD = [
    "</script><img src=x onerror=bad()>",
    "<!--",
    "-->",
    "]]>",
    "\u2028",
    "{{7*7}}",
    "\0",
    "</noscript></div><script>bad()</script>",
    "</template></style><script>bad()</script>",
    "<?end><?start name='head'>",
    '"}</style>;\\',
    "\\",
    "javascript:bad()",
]


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shown(clock: Clock) -> Shown:
    return show(clock, into="#head")


def show(clock: Clock, page: str = PAGE, into: str | None = None, nonce: str | None = None) -> Shown:
    return Shown(page, into, nonce, True, clock)


def step(*things: Patch | Item) -> list[Step]:
    patches = tuple(thing for thing in things if isinstance(thing, Patch))
    items = [thing for thing in things if not isinstance(thing, Patch)]
    return [Step((*([Patches("~", 1, patches, 0)] if patches else []), *items), 1)]


class Native:
    """What a browser does that knows `<template for>`, with texts."""

    def __init__(self, shown: Shown) -> None:
        self.html = shown.html + shown.opening()

    def read(self, part: bytes) -> Native:
        for name, said in re.findall('<template for="([^"]*)">(.*?)</template>', part.decode(), re.DOTALL):
            if f'<?start name="{name}">' in self.html:
                start, end = self._span(name)
                self.html = self.html[:start] + said + self.html[end:]
        return self

    def shows(self, name: str) -> str:
        start, end = self._span(name)
        return re.sub(r"<\?.*?>", "", self.html[start:end])

    def _span(self, name: str) -> tuple[int, int]:
        start = self.html.index(f'<?start name="{name}">')
        depth = 0
        for mark in re.finditer(r"<\?(start|end)[^>]*>", self.html[start:]):
            depth += 1 if mark[1] == "start" else -1
            if not depth:
                return start, start + mark.end()
        raise AssertionError(f"{name} has no end in {self.html}")


def rules(part: bytes) -> dict[tuple[str, str], str]:
    """The texts that a part's style sheet shows: (id, before or after) -> text."""
    found: dict[tuple[str, str], str] = {}
    for style in re.findall("<style[^>]*>([^<]*)</style>", part.decode()):
        for name, where, said in re.findall(r'#(?!af-css)([-\w]+)[^,{}]*::(\w+)\{content:"([^"]*)"', style):
            # https://www.w3.org/TR/css-syntax-3/#consume-escaped-code-point
            code = r"\\([0-9a-f]{1,6})[ \t\n]?"
            found[name, where] = re.sub(code, lambda found: chr(int(found[1], 16) or 0xFFFD), said)
    return found


# The marks


def test_the_content_of_what_has_an_id_is_marked_and_nothing_else() -> None:
    page, places = marked(PAGE)
    assert re.sub(r'<\?start name="\w+">|<\?end>', "", page) == PAGE
    assert set(places) == {
        "head", "box", "inner", "rows", "r0", "log", "cell", "bar", "meter", "empty"
    }  # fmt: skip
    assert '<b id="inner"><?start name="inner">b<?end></b>' in page
    assert (
        '<ul id="rows"><?start name="rows"><li id="r0"><?start name="r0">zero<?end></li><?end></ul>' in page
    )
    assert '<p id="empty"><?start name="empty"><?end></p>' in page
    assert '<pre id="log">\n<?start name="log">first\n<?end></pre>' in page
    assert page[places["rows"].start : places["rows"].end].startswith("<li")
    assert page[places["empty"].start : places["empty"].end] == ""


@pytest.mark.parametrize(
    "page",
    [
        "<p id=a",
        "<p id='a\"'>x</p>",
        '<p title="id=a">x</p>',
        "<p data-id=a>x</p>",
        "<p id='a b'>x</p>",
        "<p id='ä'>x</p>",
        "<p id=''>x</p>",
        "<p id>x</p>",
        "<!-- <p id=a>x</p> -->",
        "<script>'<p id=a>x</p>'</script>",
        "<textarea id=a>x</textarea>",
        "<svg id=a><text id=b>x</text></svg>",
        "<select id=a><option id=b>x</select>",
        "<title id=a>x</title>",
        "<main id=a><p>x</p>",
        "<img id=a>",
        "</p></p>",
        "<style>p > a {} <p id=a></p>",
    ],
)
def test_what_cannot_be_marked_is_left_alone(page: str) -> None:
    assert marked(page) == (page, {})


@pytest.mark.parametrize(
    "page", ["<P ID=a>x</P>", "<p class='>' id=a>x</p>", "<p\nid = 'a'\n>x</p>", "<p id=a id=b>x</p>"]
)
def test_an_id_is_found_however_it_is_written(page: str) -> None:
    assert list(marked(page)[1]) == ["a"]


# What is shown


@pytest.mark.parametrize(
    ("patches", "id", "native", "styled"),
    [
        ([text("#head", "a <b>")], "head", "a &lt;b&gt;", {("head", "before"): "a <b>"}),
        ([text("#head", "1"), text("#head", "2")], "head", "2", {("head", "before"): "2"}),
        (
            [html("#head", Markup("<i>a</i> &amp;<script>bad()</script>"))],
            "head",
            "<i>a</i> &amp;",
            {("head", "before"): "a &"},
        ),
        (
            [append("#rows", Markup("<li>1</li>")), append("#rows", Markup("<li>2"))],
            "rows",
            '<li id="r0">zero</li><li>1</li><li>2</li>',
            {("rows", "after"): "1\n2"},
        ),
        (
            [prepend("#rows", Markup("<li>1</li>")), prepend("#rows", Markup("<li>2</li>"))],
            "rows",
            '<li>2</li><li>1</li><li id="r0">zero</li>',
            {("rows", "before"): "\n2\n1"},
        ),
        (
            [append("#rows", Markup(f"<li>{n}</li>"), keep=2) for n in range(4)],
            "rows",
            "<li>2</li><li>3</li>",
            {("rows", "before"): "2\n3"},
        ),
        (
            [append("#rows", Markup(f'<li id="x">{n}</li>')) for n in range(3)],
            "rows",
            '<li id="r0">zero</li><li id="x">2</li>',
            {("rows", "after"): "2"},
        ),
        (
            [append_text("#log", "a\n"), append_text("#log", "b\n")],
            "log",
            "first\na\nb\n",
            {("log", "after"): "a\nb\n"},
        ),
        ([text("#log", "x"), append_text("#log", "y")], "log", "xy", {("log", "before"): "xy"}),
        ([text("#cell", "n")], "cell", "n", {("cell", "before"): "n"}),
        ([text("#empty", "n")], "empty", "n", {("empty", "before"): "n"}),
    ],
)
def test_each_action_in_both_ways(
    shown: Shown, patches: list[Patch], id: str, native: str, styled: dict[Any, str]
) -> None:
    page = Native(shown)
    part = shown.part(step(*patches))
    assert page.read(part).shows(id) == native
    texts = {where: said for where, said in rules(part).items() if said}
    assert texts == styled


def test_bars_are_filled_and_what_is_removed_is_hidden(shown: Shown) -> None:
    said = shown.part(
        step(value("#bar", 7), attr("#meter", "value", 10), remove("#box"), value("#head", 1))
    ).decode()
    assert "#bar{" in said
    assert "currentColor 70%" in said
    assert "currentColor 50%" in said
    assert "#box{display:none!important}" in said
    assert "#head" not in said
    assert "<template" not in said


@pytest.mark.parametrize("content", ["", "a lot", "-1", "nan", "1e400"])
def test_a_bar_with_an_odd_value_is_a_bar(shown: Shown, content: str) -> None:
    said = shown.part(step(value("#bar", content))).decode()
    filled = re.search(r"currentColor ([\d.]+)%", said)
    assert filled
    assert 0 <= float(filled[1]) <= 100


def test_what_was_changed_inside_stays_when_its_surroundings_are_said_again(
    shown: Shown, clock: Clock
) -> None:
    page = Native(shown)
    page.read(shown.part(step(text("#inner", "new"))))
    clock.now += 10
    page.read(shown.part(step(append_text("#box", "!"))))
    assert page.shows("inner") == "new"
    assert page.html.count("<?start") == page.html.count("<?end>")


def test_a_plain_string_is_the_text_of_into(shown: Shown) -> None:
    assert rules(shown.part(step(Message("one"))))["head", "before"] == "one"
    assert show(Clock()).part(step(Message("one"))) == b""


def test_a_failed_loop_says_so_and_a_done_one_nothing(shown: Shown) -> None:
    assert shown.part(step(End("~", "done", ""))) == b""
    part = shown.part(step(End("~", "failed", "It <failed>.")), now=True)
    assert rules(part)["af-failed", "before"] == "It <failed>."
    assert 'for="af-failed"' in part.decode()


@pytest.mark.parametrize("patch", [text(".many", "x", select="all"), text("#nowhere", "x"), text("#t", "x")])
def test_what_cannot_be_shown_is_left_out(shown: Shown, patch: Patch) -> None:
    assert shown.part(step(patch)) == b""


# How often


def test_parts_are_half_a_second_apart_and_then_further(shown: Shown, clock: Clock) -> None:
    assert shown.part(step(text("#head", "1")))
    assert not shown.owes
    assert shown.part(step(text("#head", "2"))) == b""
    assert not shown.owes
    clock.now += INTERVAL
    assert shown.owes
    assert rules(shown.part())["head", "before"] == "2"
    assert shown.part() == b""
    for n in range(SLOWER_AFTER - 2):
        clock.now += INTERVAL
        assert shown.part(step(text("#head", n)))
    clock.now += INTERVAL
    assert shown.part(step(text("#head", "x"))) == b""
    clock.now += INTERVAL
    assert shown.part()


def test_the_end_is_not_put_off(shown: Shown) -> None:
    assert shown.part(step(text("#head", "1")))
    assert rules(shown.part(step(text("#head", "2")), now=True))["head", "before"] == "2"


def test_what_is_added_is_bounded(shown: Shown, clock: Clock) -> None:
    page = Native(shown)
    for n in range(3000):
        shown.part(step(append("#rows", Markup("<li>{}</li>").format(n))))
        shown.part(step(append_text("#log", f"{n}\n")))
    clock.now += 10
    part = shown.part(step(text("#head", "x")))
    assert len(part) < 8 * ADDED_MOST
    assert page.read(part).shows("log").endswith("2998\n2999\n")
    assert rules(part)["rows", "after"].endswith("2998\n2999")


# Pages that share their parts


def test_pages_made_alike_share_what_sets_and_nothing_that_adds(clock: Clock) -> None:
    one = show(clock, nonce="nonce").shared()
    other = show(clock, PAGE.replace("zero", "null")).shared()
    assert one == other
    assert hash(one) == hash(other)
    assert one != show(clock, PAGE.replace('id="cell"', 'id="cell2"')).shared()
    assert one != show(clock, into="#head").shared()
    part = one.part(step(append("#rows", "x"), text("#head", "1"), remove("#box"))).decode()
    assert 'for="head"' in part
    assert "zero" not in part
    assert "#rows" not in part
    assert "nonce" not in part


def test_one_who_joins_is_told_all_of_it(clock: Clock) -> None:
    shared = show(clock).shared()
    assert shared.whole() == b""
    shared.part(step(text("#head", "1")))
    shared.part(step(text("#inner", "2")))
    joined = rules(shared.whole())
    assert joined["head", "before"] == "1"
    assert joined["inner", "before"] == "2"
    assert b"grid" in shared.whole()
    clock.now += 1
    assert rules(shared.part()) == {("inner", "before"): "2", ("inner", "after"): ""}


def test_pages_of_their_own_share_nothing(shown: Shown, clock: Clock) -> None:
    assert shown == shown
    assert shown != show(clock, into="#head")


def test_a_snapshot_is_shown(shown: Shown) -> None:
    part = shown.part(step(Snapshot("a", 3, (text("#head", "now"),))))
    assert rules(part)["head", "before"] == "now"


# Hostile values


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    "make",
    [
        lambda bad: text("#head", bad),
        lambda bad: append_text("#log", bad),
        lambda bad: append("#rows", bad),
        lambda bad: html("#box", Markup("<b title='{}'>{}</b>").format(bad, bad)),
        lambda bad: html("#box", Markup(bad)),
        lambda bad: End("~", "failed", bad),
        lambda bad: Message(bad),
    ],
)
def test_nothing_gets_out_of_its_place(shown: Shown, make: Callable[[str], Any], bad: str) -> None:
    said = shown.part(step(make(bad)), now=True).decode()
    page = Native(shown).read(said.encode())
    assert page.html.count("<?start") == page.html.count("<?end>")
    frame = re.fullmatch(
        r"<div hidden><af-p><noscript></div>(.*)<style>([^<]*)</style></noscript></af-p></div>",
        said,
        re.DOTALL,
    )
    assert frame
    templates = re.sub(r'<template for="[-\w]+">(.*?)</template>', r"\1", frame[1], flags=re.DOTALL)
    assert not re.search(r"<(?!/?(b|li|img)\b|\?start name=\"[-\w]+\">|\?end>)", templates)
    assert "</noscript" not in frame[1]
    assert "<!--" not in frame[1]
    # every string of the style sheet ends where it should
    assert re.sub(r'"[^"\n]*"', "", frame[2]).count('"') == 0


def test_a_lone_surrogate_stops_nothing(shown: Shown) -> None:
    assert b"?" in shown.part([Step((End("~", "failed", "\ud800"),), 1)], now=True)


# All of it, by chance


def test_any_sequence_shows_what_a_page_with_scripts_shows() -> None:
    chance = random.Random(5)
    for _ in range(200):
        clock = Clock()
        shown = show(clock)
        page = Native(shown)
        expected = {"head": "old", "cell": "c", "log": "first\n"}
        for n in range(chance.randrange(1, 12)):
            name = chance.choice(list(expected))
            patch = chance.choice([text, append_text])(f"#{name}", f"<{n}>")
            expected[name] = f"<{n}>" if patch.action == "text" else expected[name] + f"<{n}>"
            clock.now += chance.choice([0.1, 0.6])
            page.read(shown.part(step(patch)))
            if chance.random() < 0.1:
                page.read(shown.whole())
        page.read(shown.part(now=True))
        assert {name: unescape(page.shows(name)) for name in expected} == expected


# What others have found


def test_what_a_page_was_served_with_does_not_end_what_it_stands_in(clock: Clock) -> None:
    page = '<div id="box"><div><noscript>on</noscript></div><p>hello</p></div>'
    part = show(clock, page).part(step(append("#box", Markup("<i>!</i>")))).decode()
    assert part.lower().count("</noscript") == 1
    assert "<span>on</span></div><p>hello</p><i>!</i>" in part


@pytest.mark.parametrize("odd", ["x <![foo[y]]> z", "<![1]>", "<![ x", "<!", "<?", "</", "<a", "<!DOCTYPE"])
def test_markup_that_is_none_is_a_text(shown: Shown, odd: str) -> None:
    piece = Piece(odd, True)
    assert "<" not in re.sub(r"</?a>", "", piece.html)
    shown.part(step(html("#box", Markup(odd)), append("#rows", Markup(odd + " id"), keep=3)))


def test_pages_that_share_are_shown_what_is_added_to_what_was_set(clock: Clock) -> None:
    shared = show(clock).shared()
    part = shared.part(step(html("#rows", Markup("<li>1</li>")), append("#rows", Markup("<li>2</li>"))))
    assert b"<li>1</li><li>2</li><?end>" in part
    clock.now += 1
    assert b"<li>1</li><li>2</li><li>3</li>" in shared.part(step(append("#rows", Markup("<li>3</li>"))))


@pytest.mark.parametrize("said", ['say "hi" now', "1 < 2", "x\n  indented", "a\\b", "\x01f"])
def test_a_style_sheet_says_it_to_the_letter(shown: Shown, said: str) -> None:
    assert rules(shown.part(step(text("#head", said))))["head", "before"] == said


def test_parts_become_no_rarer_than_one_in_eight_seconds_and_frequent_for_who_joins(clock: Clock) -> None:
    shared = show(clock).shared()
    for n in range(6 * SLOWER_AFTER):
        clock.now += 8
        assert shared.part(step(text("#head", n)))
    shared.joined()
    clock.now += 8
    shared.part(step(text("#head", "x")))
    clock.now += INTERVAL
    assert shared.part(step(text("#head", "y")))


def test_a_run_that_begins_anew_takes_back_what_the_one_before_has_said(clock: Clock) -> None:
    shared = show(clock).shared()
    ours, other = Patches("a", 1, (text("#head", "old"),), 0), Patches("b", 1, (text("#cell", "kept"),), 0)
    page = Native(shared)
    shared.part(step(ours, other, End("a", "failed", "It broke.")))
    clock.now += 1
    part = shared.part(step(Reset("a")))
    assert rules(part) == {(n, w): "" for n in ("head", "af-failed") for w in ("before", "after")}
    assert 'for="head"' in part.decode()
    assert {name for name, _ in rules(shared.whole())} == {"cell"}
    assert page.read(part).html.count("It broke.") == 0


def test_a_channel_that_goes_on_has_not_failed_any_more(shown: Shown, clock: Clock) -> None:
    shown.part(step(End("~", "failed", "It broke.")), now=True)
    clock.now += 1
    assert rules(shown.part(step(text("#head", "on"))))["af-failed", "before"] == ""


def test_what_was_removed_may_come_back_and_what_was_added_may_go(shown: Shown, clock: Clock) -> None:
    said = shown.part(step(remove("#r0"), append("#rows", Markup('<li id="r1">1</li>')))).decode()
    assert "#r0{display:none!important}" in said
    clock.now += 1
    said = shown.part(step(append("#rows", Markup('<li id="r0">0</li>')), remove("#r1"))).decode()
    assert "#r0{display:revert!important}" in said
    assert "<li>1</li>" not in said
    assert 'id="r1"' not in said


def test_what_is_left_open_is_closed(shown: Shown) -> None:
    assert Piece("<div><div>a", True).html == "<div><div>a</div></div>"
    page = Native(shown).read(shown.part(step(append("#box", Markup("<b><b>x")), append("#box", "y"))))
    assert page.shows("box").endswith("<b><b>x</b></b>y")


def test_a_bar_may_change_its_scale(shown: Shown) -> None:
    said = shown.part(step(attr("#bar", "max", 200), value("#bar", 50))).decode()
    assert "currentColor 25%" in said


def test_what_is_long_is_not_said_again_and_again(clock: Clock) -> None:
    page = f'<ul id="rows">{"<li>x</li>" * SERVED_MOST}</ul>'
    shown = show(clock, page)
    part = shown.part(step(append("#rows", Markup("<li>new</li>"))))
    assert len(part) < 1000
    assert rules(part)["rows", "after"] == "new"
    assert b":has(" not in part  # as no <template for> says it
    clock.now += 1
    part = shown.part(step(text("#rows", "short")))
    assert b'<?start name="rows">short<?end>' in part
    assert b'#rows:not([hidden])::after{content:""}:root' in part.replace(b"&", b"")
    clock.now += 1
    assert len(shown.part(step(html("#rows", Markup("<li>x</li>" * MOST))))) < 1000


def test_many_changes_do_not_take_the_square_of_their_number(clock: Clock) -> None:
    """That would be minutes, and the test be ended."""
    cells = "".join(f'<td id="c{n}">-</td>' for n in range(4000))
    shown = show(clock, f"<table><tr>{cells}</tr></table>")
    assert b"c3999" in shown.part(step(*[text(f"#c{n}", n) for n in range(4000)]))


@pytest.mark.parametrize("piece", ["<a", "<b>", "</i>", "<svg>", "<!--", "<a ", '<a b="', "<title></title "])
def test_odd_pages_do_not_take_the_square_of_their_length(piece: str) -> None:
    page = '<p id="head">x</p>' + piece * 60_000
    assert list(marked(page)[1]) == ["head"]


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", "&#10;", "&#x0A;"])
def test_a_line_break_that_is_none_stays_none(line_break: str) -> None:
    assert (
        marked(f"<pre id=a>{line_break}x</pre>")[0] == f'<pre id=a>{line_break}<?start name="a">x<?end></pre>'
    )
