"""Values become text or markup, never script; and a patch that exists can be sent."""

from __future__ import annotations

import copy
import datetime
import decimal
import doctest
import enum
import fractions
import functools
import json
import pathlib
import pickle
import types
import uuid
from collections import ChainMap, Counter, OrderedDict, UserString, deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup, escape

from afterload import patch as p
from afterload import values
from afterload.errors import PatchError
from afterload.patch import EFFECTS, STATE, Patch, patches
from tests.document import Document

text = st.text(st.characters(exclude_categories=["Cs"]))
any_text = st.text(st.characters() | st.characters(categories=["Cs"]))  # lone surrogates too


class Speaks:
    def __str__(self) -> str:
        return "I say <this>"


class Mute:
    """Shows nothing but where it is in memory."""


class Broken:
    def __str__(self) -> str:
        raise ZeroDivisionError("at str")

    def __repr__(self) -> str:
        raise ZeroDivisionError("at repr")


class BrokenMarkup:
    def __html__(self) -> str:
        raise ZeroDivisionError("at html")


class Form:
    """As form libraries' fields and lazy markup: not Markup, but it says what it is as markup."""

    def __html__(self) -> str:
        return "<input>"


class Word(str):
    __slots__ = ()


class Colour(enum.Enum):
    RED = 1


class Mode(enum.StrEnum):
    FAST = "fast"


async def coroutine_function() -> None: ...


def generator() -> Any:
    yield 1


# name -> what makes a patch of a target and a value
SETTERS: dict[str, Callable[..., Patch]] = {
    "text": p.text,
    "html": p.html,
    "append": p.append,
    "prepend": p.prepend,
    "append_text": p.append_text,
    "value": p.value,
    "attr": lambda target, value, **options: p.attr(target, "title", value, **options),
    "replace": p.replace,
    "before": p.before,
    "after": p.after,
}
MARKUP = {"html", "append", "prepend", "replace", "before", "after"}
TARGETED: dict[str, Callable[..., Patch]] = {
    **{
        name: (lambda target, make=make, **options: make(target, "x", **options))
        for name, make in SETTERS.items()
    },
    "class": lambda target, **options: p.class_(target, "on", **options),
    "remove": p.remove,
    "dispatch": lambda target, **options: p.dispatch("sold", target=target, **options),
}


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(p).failed == 0
    assert doctest.testmod(values).failed == 0


@pytest.mark.parametrize(
    ("patch", "wire"),
    [
        (p.text("#a", 1), ["text", "#a", "1"]),
        (p.text(".a", 1, select="all"), ["text", ".a", "1", {"select": "all"}]),
        (p.html("#a", Markup("<b>")), ["html", "#a", "<b>"]),
        (p.append("#a", "x"), ["append", "#a", "x"]),
        (p.append("#a", "x", keep=500), ["append", "#a", "x", {"keep": 500}]),
        (p.append("ul", "x", keep=5, select="all"), ["append", "ul", "x", {"keep": 5, "select": "all"}]),
        (p.prepend("#a", "x", keep=1), ["prepend", "#a", "x", {"keep": 1}]),
        (p.append_text("#a", "x"), ["append_text", "#a", "x"]),
        (p.value("#a", 3.5), ["value", "#a", "3.5"]),
        (p.attr("#a", "href", "/x"), ["attr", "#a", "/x", {"name": "href"}]),
        (p.attr("#a", "href", None), ["attr", "#a", None, {"name": "href"}]),
        (p.class_("#a", "on"), ["class", "#a", True, {"name": "on"}]),
        (p.class_("#a", "on", False), ["class", "#a", False, {"name": "on"}]),
        (p.title("T"), ["title", "", "T"]),
        (p.replace("#a", "x"), ["replace", "#a", "x"]),
        (p.remove("#a"), ["remove", "#a", None]),
        (p.before("#a", "x"), ["before", "#a", "x"]),
        (p.after("#a", "x"), ["after", "#a", "x"]),
        (p.navigate("/next"), ["navigate", "", "/next"]),
        (p.reload(), ["reload", "", None]),
        (p.dispatch("sold"), ["dispatch", "", None, {"name": "sold"}]),
        (
            p.dispatch("sold", [1, {"a": None}], target="#a"),
            ["dispatch", "#a", [1, {"a": None}], {"name": "sold"}],
        ),
        (p.message("hello"), ["message", "", "hello"]),
    ],
)
def test_each_constructor_makes_its_patch(patch: Patch, wire: list[Any]) -> None:
    assert patch.wire() == wire
    assert json.loads(json.dumps(wire)) == wire
    assert pickle.loads(pickle.dumps(patch)) == patch


def test_every_action_is_state_or_effect_and_has_a_constructor() -> None:
    assert not STATE & EFFECTS
    for action in STATE | EFFECTS:
        assert callable(getattr(p, "class_" if action == "class" else action))


# Values


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", ""),
        ("a < b & c", "a < b & c"),
        (None, ""),
        (0, "0"),
        (-12, "-12"),
        (True, "True"),
        (0.1, "0.1"),
        (1e100, "1e+100"),
        (decimal.Decimal("1.50"), "1.50"),
        (fractions.Fraction(1, 3), "1/3"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.timedelta(seconds=61), "0:01:01"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        (ValueError("no such row"), "no such row"),
        (Speaks(), "I say <this>"),
        (Word("word"), "word"),
        (UserString("word"), "word"),
        (Colour.RED, "Colour.RED"),
        (Mode.FAST, "fast"),
        ("nul \0 and \x1b and \u2028", "nul \0 and \x1b and \u2028"),
    ],
)
def test_a_value_is_shown_as_a_template_would(value: Any, shown: str) -> None:
    for name, make in SETTERS.items():
        if name == "attr" and isinstance(value, bool | None):
            continue
        found = make("#a", value).content
        assert type(found) is str
        assert found == (str(escape(shown)) if name in MARKUP else shown), name


@pytest.mark.parametrize(
    "value",
    [
        [], [1, 2], (1,), {}, {"a": 1}, set(), frozenset(), range(3), deque(), Counter(), OrderedDict(),
        ChainMap(), b"bytes", bytearray(), memoryview(b""), {}.keys(), {}.values(), {}.items(),
        iter([]), generator(), enumerate([]), map(str, []), zip(strict=True),
        print, generator, coroutine_function, generator().close, "".join, lambda: None,
        Mute(), object(), Mute, Colour, int, types.SimpleNamespace, json,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_has_no_text_of_its_own_is_an_error_that_names_the_key(value: Any) -> None:
    with pytest.raises(PatchError, match="#rows") as caught:
        patches({"#rows": value})
    assert (caught.value.action, caught.value.target) == ("text", "#rows")
    assert caught.value.value is value
    for make in SETTERS.values():
        with pytest.raises(PatchError, match="#rows"):
            make("#rows", value)


@pytest.mark.parametrize("value", [Broken(), BrokenMarkup(), 10**5000], ids=["str", "html", "int"])
def test_a_value_whose_text_cannot_be_had_is_an_error_that_names_the_key(value: Any) -> None:
    with pytest.raises(PatchError, match="#rows") as caught:
        patches({"#rows": value})
    assert isinstance(caught.value.__cause__, ZeroDivisionError | ValueError)


@pytest.mark.parametrize("markup", [Markup("<b>&amp;</b>"), Form()])
def test_markup_stays_markup_where_an_action_takes_it(markup: Any) -> None:
    expected = str(markup.__html__())
    for name in MARKUP:
        found = SETTERS[name]("#a", markup).content
        assert found == expected
        assert type(found) is str
    assert p.text("#a", markup).wire() == ["html", "#a", expected]
    assert patches({"#a": markup}) == (p.html("#a", markup),)


def test_where_only_text_can_be_the_entities_of_markup_are_resolved_as_in_a_template() -> None:
    name = escape('Tom & "Ann" <x>')
    assert p.attr("#a", "title", name).content == 'Tom & "Ann" <x>'
    assert p.value("#a", name).content == 'Tom & "Ann" <x>'
    assert p.title(name).content == 'Tom & "Ann" <x>'
    assert p.title("Tom &amp; Ann").content == "Tom &amp; Ann"


def test_markup_is_refused_where_its_tags_would_be_shown() -> None:
    with pytest.raises(PatchError, match="append"):
        p.append_text("#a", Markup("<b>x</b>"))
    for make in (p.message, patches):
        with pytest.raises(PatchError, match="html"):
            make(Markup("<b>x</b>"))


@given(text)
def test_no_text_becomes_an_element(value: str) -> None:
    for name in MARKUP:
        content = SETTERS[name]("#a", value).content
        assert "<" not in content
        assert Markup(content).unescape() == value


@given(text)
def test_text_in_a_document_is_what_was_given(value: str) -> None:
    shown = Document("<p id=a>before</p>")
    shown.apply(p.text("#a", value))
    assert shown.body.children[0].children == ([value] if value else [])  # type: ignore[union-attr]


@given(any_text)
def test_lone_surrogates_are_refused_clearly_and_all_else_can_be_sent(value: str) -> None:
    makers: list[Callable[[], Patch]] = [
        *(functools.partial(make, "#a", value) for make in SETTERS.values()),
        functools.partial(p.title, value),
        functools.partial(p.message, value),
        functools.partial(p.dispatch, "x", value),
        functools.partial(p.dispatch, "x", {value: 1}),
        functools.partial(p.dispatch, "x" + value),
        functools.partial(p.class_, "#a", "x" + "".join(value.split())),
        functools.partial(p.text, "#a" + "".join(value.split()), "x"),
        functools.partial(p.text, "a" + value, "x", select="all"),
    ]
    for make in makers:
        if any("\ud800" <= c <= "\udfff" for c in value):
            with pytest.raises(PatchError, match="surrogate") as caught:
                make()
            str(caught.value).encode()
        else:
            json.dumps(make().wire(), ensure_ascii=False, allow_nan=False).encode()


# Targets


@pytest.mark.parametrize(
    "target", ["#a", "##", "#1", "#a.b:c", "#größe", "#a#b", "#🙂", '#"', "#\0", "#.", "#>"]
)
def test_an_id_is_anything_without_spaces(target: str) -> None:
    for make in TARGETED.values():
        assert make(target).target == target


@pytest.mark.parametrize(
    "target",
    [
        "",
        "#",
        "a",
        "data",
        ".row",
        "#a b",
        "#a\n",
        "# a",
        " #a",
        "#\u00a0",
        "#a\u2028",
        None,
        1,
        b"#a",
        ["#a"],
    ],
)
def test_what_is_no_target_is_an_error_that_shows_it(target: Any) -> None:
    for name, make in TARGETED.items():
        if name == "dispatch" and not target:
            continue  # the document
        with pytest.raises(PatchError, match="target") as caught:
            make(target)
        assert repr(target) in str(caught.value)


def test_a_selector_is_asked_for() -> None:
    for make in TARGETED.values():
        assert make("ul > li.x", select="all").options["select"] == "all"  # type: ignore[index]
        with pytest.raises(PatchError, match='select="all"'):
            make("ul > li.x")
        for select in ("one", "ALL", "", True, 1):
            with pytest.raises(PatchError, match="select"):
                make("#a", select=select)
        with pytest.raises(PatchError, match="selector"):
            make(" ", select="all")


def test_actions_without_a_target_take_none() -> None:
    for action, content in [("title", "x"), ("navigate", "/"), ("reload", None), ("message", "x")]:
        assert Patch(action, "", content).target == ""
        with pytest.raises(PatchError, match="no target"):
            Patch(action, "#a", content)


# Attributes and URLs


@pytest.mark.parametrize(
    "name",
    ["onclick", "ONLOAD", "onfoo", "on", "srcdoc", "SrcDoc",
     "", " ", "a b", "a=b", "a>b", "a/b", "1a", "-a", "@click", "é", "a\0", "a\n", "\ud800", None, 1, ["x"]],
)  # fmt: skip
def test_attributes_that_run_script_or_are_none_are_refused(name: Any) -> None:
    with pytest.raises(PatchError):
        p.attr("#a", name, "x")
    with pytest.raises(PatchError):
        p.attr("#a", name, None)


URLS_REFUSED = [
    "javascript:alert(1)",
    "JavaScript:alert(1)",
    " javascript:alert(1)",
    "\x00\x1f javascript:alert(1)",
    "java\nscript:alert(1)",
    "java\tscript\r:alert(1)",
    "\tj\na\rvascript:alert(1)",
    "vbscript:x",
    "data:text/html,<script>alert(1)</script>",
    "blob:x",
    "file:///etc/passwd",
    "mailto:a@example.org",
    "x-y.z+1:a",
    "about:blank",
]
URLS = [
    "/", "/a?b=c:d#e:f", "a", "a/b:c", "?q=x:y", "#x:y", "//example.org/x", "http://example.org", "HTTPS://example.org/:",
    "./a:b", "./javascript:x", "1:2", "é:x", "https:relative", ":x", "-a:b", "java script:x",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS_REFUSED)
def test_urls_that_are_neither_relative_nor_http_are_refused(url: str) -> None:
    for name in [
        "href",
        "HREF",
        "src",
        "action",
        "formaction",
        "xlink:href",
        "poster",
        "data",
        "to",
        "values",
    ]:
        with pytest.raises(PatchError, match="relative, http or https"):
            p.attr("#a", name, url)
    with pytest.raises(PatchError, match="relative, http or https"):
        p.navigate(url)
    assert p.attr("#a", "title", url).content == url


@pytest.mark.parametrize("url", URLS)
def test_urls_that_are_relative_or_http_go_out_as_they_are(url: str) -> None:
    assert p.attr("#a", "href", url).content == url
    assert p.navigate(url).content == url


def test_every_url_of_a_list_is_looked_at() -> None:
    srcset = "/small.png 1x, https://example.org/big.png 2x"
    assert p.attr("#a", "srcset", srcset).content == srcset
    assert p.attr("#a", "values", "0; 10 ;5").content == "0; 10 ;5"
    for name, bad in [
        ("srcset", "/small.png 1x, javascript:x 2x"),
        ("imagesrcset", "/small.png 1x,javascript:x"),
        ("ping", "/a javascript:x"),
        ("ping", "/a\tjavascript:x"),
        ("values", "/a;javascript:x"),
        ("values", "/a; java\tscript:x"),
    ]:
        with pytest.raises(PatchError):
            p.attr("#a", name, bad)


@pytest.mark.parametrize("url", ["", " ", "\n", None, 1, b"/"])
def test_a_page_is_sent_to_a_url_only(url: Any) -> None:
    with pytest.raises(PatchError):
        p.navigate(url)


@pytest.mark.parametrize(
    ("name", "value", "content"),
    [
        ("disabled", True, ""),
        ("disabled", False, None),
        ("hidden", False, None),
        ("aria-busy", True, "true"),
        ("ARIA-BUSY", False, "false"),
        ("data-open", False, "false"),
        ("draggable", True, "true"),
        ("max", 10, "10"),
        ("title", None, None),
        ("title", "", ""),
    ],
)
def test_true_and_false_are_what_html_means_by_them(name: str, value: Any, content: str | None) -> None:
    assert p.attr("#a", name, value).content == content


@pytest.mark.parametrize("name", ["", " ", "a b", "a\t", "\u2003", "\ud800", None, 1, ["on"]])
def test_a_class_is_one_name(name: Any) -> None:
    with pytest.raises(PatchError):
        p.class_("#a", name)


# Options and effects


@pytest.mark.parametrize(
    "keep", [0, -1, True, 1.0, "5", [5], 2**53, 10**5000], ids=lambda v: type(v).__name__
)
def test_keep_is_a_number_from_one(keep: Any) -> None:
    for make in (p.append, p.prepend):
        with pytest.raises(PatchError, match="keep"):
            make("#a", "x", keep=keep)
    assert p.append("#a", "x", keep=2**53 - 1).options == {"keep": 2**53 - 1}


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
DEEP: Any = functools.reduce(lambda inner, _: [inner], range(100_000), [])


@pytest.mark.parametrize(
    "detail",
    [
        object(),
        {1, 2},
        b"x",
        {"a": object()},
        float("nan"),
        float("inf"),
        {(1, 2): 3},
        CIRCLE,
        DEEP,
        10**5000,
    ],
    ids=["object", "set", "bytes", "inside", "nan", "inf", "key", "circle", "deep", "long"],
)
def test_a_detail_that_is_no_json_is_refused_when_the_patch_is_made(detail: Any) -> None:
    for make in (lambda: p.dispatch("x", detail), lambda: Patch("dispatch", "", detail, {"name": "x"})):
        with pytest.raises(PatchError, match="no JSON value"):
            make()


def test_a_detail_is_the_patchs_own_as_it_was_when_it_was_given() -> None:
    detail = {"rows": [1], 2: (3, 4)}
    options = {"name": "sold"}
    patch = Patch("dispatch", "", detail, options)
    detail["rows"].append(2)  # type: ignore[attr-defined]
    options["name"] = "lost"
    assert patch == p.dispatch("sold", {"rows": [1], "2": [3, 4]})


@pytest.mark.parametrize("name", ["", None, 1, "\ud800", ["x"]])
def test_an_event_has_a_name(name: Any) -> None:
    with pytest.raises(PatchError):
        p.dispatch(name)


# A patch made by hand


@pytest.mark.parametrize(
    "arguments",
    [
        ("fade", "#a", "x"),
        ("", "#a", "x"),
        (None, "#a", "x"),
        (["text"], "#a", "x"),
        ("text", "#a", None),
        ("text", "#a", True),
        ("text", "#a", 1),
        ("text", "#a", ["x"]),
        ("text", "#a"),
        ("text", "#a", "x", {"keep": 3}),
        ("text", "#a", "x", {"name": "x"}),
        ("text", "#a", "x", {"speed": 1}),
        ("text", "#a", "x", {1: 2}),
        ("text", "#a", "x", ["select"]),
        ("text", "#a", "x", {"select": None}),
        ("append", "#a", "x", {"keep": None}),
        ("attr", "#a", "x"),
        ("attr", "#a", True, {"name": "title"}),
        ("attr", "#a", 1, {"name": "title"}),
        ("class", "#a", "on"),
        ("class", "#a", True),
        ("class", "#a", None, {"name": "on"}),
        ("class", "#a", 1, {"name": "on"}),
        ("remove", "#a", "x"),
        ("reload", "", "x"),
        ("reload", "", False),
        ("title", "", None),
        ("title", "", "x", {"select": "all"}),
        ("navigate", "", None),
        ("message", "", None),
        ("dispatch", "", {}),
        ("dispatch", "", {}, {}),
    ],
)
def test_what_no_constructor_would_make_is_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(PatchError):
        Patch(*arguments)


def test_an_unknown_action_is_answered_with_those_there_are() -> None:
    with pytest.raises(PatchError, match="append_text"):
        Patch("apend", "#a", "x")


def test_empty_options_are_none() -> None:
    assert Patch("text", "#a", "x", {}) == p.text("#a", "x")


def test_markup_given_to_a_patch_by_hand_joins_as_text_does() -> None:
    patch = Patch("html", "#a", Markup("<b>"))
    assert type(patch.content) is str
    assert patch.content + "<i>" == "<b><i>"


def test_patches_can_be_copied() -> None:
    patch = p.append("#a", "x", keep=3)
    assert copy.deepcopy(patch) == copy.copy(patch) == patch


# What may be yielded and published


@pytest.mark.parametrize(
    ("things", "expected"),
    [
        ((), ()),
        ((None,), ()),
        (({},), ()),
        (([],), ()),
        (("",), (p.message(""),)),
        (("hello",), (p.message("hello"),)),
        (({"#a": 1},), (p.text("#a", 1),)),
        (({"#a": 1, "#b": None},), (p.text("#a", 1), p.text("#b", ""))),
        ((OrderedDict([("#a", 1)]),), (p.text("#a", 1),)),
        ((p.remove("#a"),), (p.remove("#a"),)),
        (({"#a": 1}, p.remove("#b")), (p.text("#a", 1), p.remove("#b"))),
        (([{"#a": 1}, (None, [p.remove("#b"), "x"])],), (p.text("#a", 1), p.remove("#b"), p.message("x"))),
    ],
)
def test_what_is_yielded_becomes_patches_in_order(
    things: tuple[Any, ...], expected: tuple[Patch, ...]
) -> None:
    assert patches(*things) == expected


@pytest.mark.parametrize(
    "thing", [1, 0, True, 1.5, b"x", {"#a"}, object(), iter([]), generator, Patch], ids=repr
)
def test_what_is_none_of_these_is_an_error_that_says_what_is_wanted(thing: Any) -> None:
    for given_ in ((thing,), ([thing],), ({"#a": 1}, thing)):
        with pytest.raises(PatchError, match="is wanted"):
            patches(*given_)


@pytest.mark.parametrize("key", ["a", "", 1, None, ("#a",), ".x"])
def test_a_key_that_is_no_target_is_an_error_that_shows_it(key: Any) -> None:
    with pytest.raises(PatchError) as caught:
        patches({key: "x"})
    assert repr(key) in str(caught.value)


def test_an_error_stays_short_and_on_one_line_whatever_was_given() -> None:
    """Stands for a log that a value from outside fills, or forges lines in."""
    for make in (
        lambda: patches({"#a": ["x\n" * 100_000] * 1000}),
        lambda: patches({"x\nERROR forged" * 10_000: 1}),
        lambda: Patch("text\nERROR forged" * 10_000, "#a", "x"),
        lambda: p.attr("#a", "href", "javascript:\nERROR forged" * 10_000),
        lambda: p.text("#a", "x", select="\nERROR forged" * 10_000),
        lambda: p.dispatch("x", {"\n": [object()] * 10_000}),
        lambda: p.class_("#a", "x\nERROR forged" * 10_000),
        lambda: p.append("#a", "x", keep="\nERROR forged" * 10_000),  # type: ignore[arg-type]
        lambda: p.attr("#a", "on\nERROR forged" * 10_000, "x"),
        lambda: Patch("text", "#a", "x", {"\nERROR forged" * 10_000: 1}),
    ):
        with pytest.raises(PatchError) as caught:
            make()
        message = str(caught.value)
        assert len(message) < 600
        assert "\n" not in message
