"""The document model that the property tests trust: first of all it has to be right itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from afterload import patch as p
from afterload.patch import STATE, Patch
from tests.document import Document


def after(before: str, *patches: Patch) -> str:
    document = Document(before)
    for patch in patches:
        document.apply(patch)
    return document.serialize()


def same(found: str, expected: str) -> None:
    assert found == Document(expected).serialize()


@pytest.mark.parametrize(
    ("before", "patch", "expected"),
    [
        ("<p id=a>1</p>", p.text("#a", "<b>"), "<p id=a>&lt;b&gt;</p>"),
        ("<p id=a>1<b>2</b></p>", p.text("#a", ""), "<p id=a></p>"),
        ("<p id=a>1</p>", p.html("#a", Markup("<b>x</b>y")), "<p id=a><b>x</b>y</p>"),
        ("<p id=a>1</p>", p.remove("#a"), ""),
        ("<i><p id=a>1</p>2</i>", p.remove("#a"), "<i>2</i>"),
        ("<p id=a>1</p>", p.replace("#a", Markup("<b>x</b>y")), "<b>x</b>y"),
        ("<p id=a>1</p>", p.before("#a", Markup("<b>x</b>")), "<b>x</b><p id=a>1</p>"),
        ("<p id=a>1</p><i></i>", p.after("#a", Markup("<b>x</b>")), "<p id=a>1</p><b>x</b><i></i>"),
        ("<p id=a>1</p>", p.attr("#a", "title", "x"), "<p id=a title=x>1</p>"),
        ("<p id=a title=x>1</p>", p.attr("#a", "TITLE", None), "<p id=a>1</p>"),
        ("<p id=a class='x y'>1</p>", p.class_("#a", "on"), "<p id=a class='x y on'>1</p>"),
        ("<p id=a class='x y'>1</p>", p.class_("#a", "x"), "<p id=a class='y x'>1</p>"),
        ("<p id=a class='x y'>1</p>", p.class_("#a", "x", False), "<p id=a class='y'>1</p>"),
        ("<p id=a>1</p>", p.class_("#a", "x", False), "<p id=a>1</p>"),
        ("<p id=a>1</p>", p.text("#b", "x"), "<p id=a>1</p>"),
        ("<p id=a>1</p>", p.dispatch("x"), "<p id=a>1</p>"),
        ("<p id=a>1</p>", p.message("x"), "<p id=a>1</p>"),
        ("<p class=r></p><p class=r>", p.text(".r", 1, select="all"), "<p class=r>1</p><p class=r>1</p>"),
        ("<p>1</p><b><p>2</p></b>", p.remove("p", select="all"), "<b></b>"),
        ("<b><b>1</b></b>", p.after("b", "x", select="all"), "<b><b>1</b>x</b>x"),
        ("<i class=r><i class=r></i></i>", p.remove(".r", select="all"), ""),
    ],
)  # fmt: skip
def test_a_patch_does_to_the_document_what_it_says(before: str, patch: Patch, expected: str) -> None:
    same(after(before, patch), expected)


def rows(*names: str) -> str:
    return "<ul id=l>" + "".join(f"<li id={name}>{name}</li>" for name in names) + "</ul>"


def row(name: str) -> Markup:
    return Markup("<li id={0}>{0}</li>").format(name)


def test_a_row_under_an_id_that_is_there_takes_its_new_place() -> None:
    same(after(rows("a", "b"), p.append("#l", row("a"))), rows("b", "a"))
    same(after(rows("a", "b"), p.prepend("#l", row("b"))), rows("b", "a"))
    same(after(rows("a", "b"), p.append("#l", row("a") + row("c"))), rows("b", "a", "c"))


def test_only_a_child_of_the_container_gives_way_to_a_row() -> None:
    before = "<p id=a></p><ul id=l><li><b id=a></b></li></ul>"
    same(
        after(before, p.append("#l", row("a"))),
        "<p id=a></p><ul id=l><li><b id=a></b></li><li id=a>a</li></ul>",
    )


def test_keep_leaves_the_newest_rows() -> None:
    same(after(rows("a", "b", "c"), p.append("#l", row("d"), keep=2)), rows("c", "d"))
    same(after(rows("a", "b", "c"), p.prepend("#l", row("d"), keep=2)), rows("d", "a"))
    same(after(rows("a"), p.append("#l", row("d"), keep=2)), rows("a", "d"))
    same(after(rows("a", "b"), p.append("#l", row("a"), keep=2)), rows("b", "a"))


def test_keep_counts_elements_and_text_that_is_not_blank() -> None:
    spaced = "<ul id=l>\n<li>a</li>\n<li>b</li>\n</ul>"
    same(after(spaced, p.append("#l", row("c"), keep=2)), "<ul id=l><li>b</li>\n<li id=c>c</li></ul>")
    same(after(spaced, p.prepend("#l", row("c"), keep=2)), "<ul id=l><li id=c>c</li>\n<li>a</li></ul>")
    same(after("<p id=l>one</p>", p.append("#l", row("c"), keep=1)), "<p id=l><li id=c>c</li></p>")


def test_text_in_parts_is_one_text_and_text_appended_is_another() -> None:
    in_parts = after("<p id=a></p>", p.append_text("#a", "one "), p.append_text("#a", "two"))
    same(in_parts, "<p id=a>one two</p>")
    assert in_parts != after("<p id=a></p>", p.append("#a", "one "), p.append("#a", "two"))
    same(after("<p id=a>1<b></b></p>", p.append_text("#a", "2")), "<p id=a>1<b></b>2</p>")
    same(after("<p id=a></p>", p.append_text("#a", "")), "<p id=a></p>")


def test_value_and_title_are_part_of_the_document() -> None:
    assert after("<input id=a>", p.value("#a", "x")) != after("<input id=a>")
    assert after("", p.title("x")) != after("")


def test_the_order_of_classes_means_nothing() -> None:
    one, two = p.class_("#a", "x"), p.class_("#a", "y")
    assert after("<p id=a></p>", one, two) == after("<p id=a></p>", two, one)


def test_a_clone_is_of_its_own() -> None:
    document = Document("<p id=a>1</p>")
    document.clone().apply(p.text("#a", "2"))
    same(document.serialize(), "<p id=a>1</p>")


def test_the_model_knows_every_action_of_the_state() -> None:
    for action in STATE:
        content = {"class": True, "remove": None}.get(action, "x")
        options = {"attr": {"name": "title"}, "class": {"name": "on"}}.get(action)
        target = "" if action in ("title", "message") else "#a"
        before = "<i><p id=a>1</p></i>"
        changed = after(before, Patch(action, target, content, options)) != after(before)
        assert changed == (action != "message"), action


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_escaped_text_is_one_text_in_the_document(text: str) -> None:
    same(after("<p id=a></p>", p.html("#a", text)), f"<p id=a>{Markup.escape(text)}</p>")
    assert after("<p id=a></p>", p.html("#a", text)) == after("<p id=a></p>", p.text("#a", text))
