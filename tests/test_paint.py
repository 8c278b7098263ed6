"""Paint: a page that was served with a state, and then follows, is the page that was there from the start."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup, escape

from afterload import LoopError, content, paint
from afterload import patch as p
from afterload.paint import Paint
from afterload.patch import Patch
from afterload.state import State
from tests.document import Document, parse
from tests.test_log import html
from tests.test_state import PAGE, applied, followed, sequences, whole

PAINTED = (
    "#a",
    "#b",
    "#l",
    "#t",
    "#v",
    "",
)  # what a template may show, each with what is in it; and the title

reading = st.sets(st.sampled_from(PAINTED))
seams = st.tuples(st.integers(0, 14), st.integers(0, 14)).map(sorted)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(paint).failed == 0


def state_of(patches: list[Patch]) -> State:
    state = State()
    for offset, patch in enumerate(patches, 1):
        state.apply(patch, offset)
    return state


def served(found: Paint, read: set[str]) -> Document:
    """A page whose template shows what these elements were brought."""
    page = Document(PAGE)
    elements = {f"#{element.id}": element for element, _ in page.body.walk()}
    for target in sorted(read - {""}):
        element = elements[target]
        # a str is escaped by the template
        element.children = parse(str(escape(found.get(target, Markup(html(element))))))
        element.value = found.value(target, element.value)
        for name in ("title", "lang"):
            content = found.attr(target, name, element.attributes.pop(name, None))
            element.attributes |= {} if content is None else {name: content}
        names = element.attributes.get("class", "").split()
        for name in ("on", "hot", "x"):
            names = [n for n in names if n != name] + [name] * found.has_class(target, name, name in names)
        element.attributes["class"] = " ".join(names)
    if "" in read:
        page.title = found.title(page.title)
    return page


def painted(patches: list[Patch], at: int, now: int, read: set[str]) -> tuple[Document, list[str]]:
    """A page served at a seam: its position is `at`, and its state was read `now`. And what it does not show."""
    found = Paint("c", state_of(patches[:now]).parts(), at)
    page = served(found, read)
    ids = {element.id for element, _ in page.body.walk() if element.id}
    return page, found.unpainted(ids)


@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(sequences, seams, reading)
def test_a_page_that_shows_all_is_brought_to_the_state_by_what_is_newer(
    patches: list[Patch], seam: list[int], read: set[str]
) -> None:
    """Never a row twice, never one lost, whatever was published while it was made and before it connected."""
    at, now = (min(n, len(patches)) for n in seam)
    expected = whole(patches)
    page, missing = painted(patches, at, now, read)
    if missing:
        return  # it is told to fetch itself
    for patch in state_of(patches).fresh(at):
        page.apply(patch)
    assert page.serialize() == expected


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(sequences)
def test_a_page_that_shows_all_when_nothing_is_under_way_is_right_in_its_html(patches: list[Patch]) -> None:
    expected = whole(patches)
    page, missing = painted(patches, len(patches), len(patches), set(PAINTED))
    if not missing and not any(
        patch.action == "attr" and patch.options["name"] == "class" for patch in patches
    ):
        assert page.serialize() == expected


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(sequences, st.integers(0, 14))
def test_the_parts_of_a_state_make_a_state_that_does_the_same(patches: list[Patch], at: int) -> None:
    """So it can be read in another process than the hub's."""
    expected = whole(patches)
    again = State()
    for offset, patch in state_of(patches).parts():
        again.apply(patch, offset)
    assert applied(Document(PAGE), again.whole()) == expected
    _, page = followed(patches, at)
    assert applied(page, again.since(at)) == expected
    assert applied(page, again.fresh(at)) == expected


# What is not told from a document model


@pytest.mark.parametrize(
    ("brought", "default", "expected"),
    [
        ([p.text("#x", "<b>")], "", "<b>"),
        ([p.text("#x", None)], "none", ""),
        ([p.text("#x", "a"), p.append_text("#x", "<b")], "", "a<b"),
        ([p.append_text("#x", "<b")], "a&", "a&<b"),
        ([p.append_text("#x", "<b")], Markup("<i>a</i>"), Markup("<i>a</i>&lt;b")),
        ([p.append("#x", "one"), p.append("#x", "two")], 0, Markup("0<!---->one<!---->two")),
        ([p.append("#x", Markup("<li>1")), p.append("#x", Markup("<li>2"))], "", Markup("<li>1</li><li>2</li>")),
        ([p.html("#x", Markup("</ul></div>out"))], "", Markup("out")),
        ([p.html("#x", Markup("<b>not over"))], "", Markup("<b>not over</b>")),
        ([p.html("#x", Markup("<b><i>crossed</b></i>"))], "", Markup("<b><i>crossed</i></b>")),
        ([p.html("#x", Markup("a<!-- not over"))], "", Markup("a&lt;!-- not over")),
        ([p.html("#x", Markup('a<b title="not over'))], "", Markup('a&lt;b title="not over')),
        ([p.html("#x", Markup('<i>a</i><b "<i>not over</i>'))], "",
         Markup('<i>a</i>&lt;b "&lt;i>not over&lt;/i>')),
        ([p.html("#x", Markup("<title>a</title <b>not over"))], "", Markup("<title>a</title>not over")),
        ([p.html("#x", Markup("<title>a</title <b"))], "", Markup("<title>a</title>")),
        ([p.html("#x", Markup("a<script>run()</script>b"))], "", Markup("a<!---->b")),
        ([p.html("#x", Markup("<textarea></p><b>"))], "", Markup("<textarea></p><b></textarea>")),
        ([p.html("#x", Markup("1 < 2 <3"))], "", Markup("1 < 2 <3")),
        ([p.html("#x", Markup("<i id='a&amp;b'>1</i>")), p.text("#a&b", 2)], "", Markup("<i id='a&amp;b'>2</i>")),
        ([p.html("#x", Markup("<a id=n href=/1>")), p.attr("#n", "href", '/"2')], "",
         Markup('<a id="n" href="/&quot;2"></a>')),
        ([p.html("#x", Markup("<br id=n>")), p.class_("#n", "on", True)], "", Markup('<br id="n" class="on">')),
        ([p.html("#x", Markup("<li id=m>1<li id=n>2")), p.remove("#m")], "", Markup("<li id=n>2</li>")),
        ([p.html("#x", Markup("<tr><td>1<th id=n>2<tr><td>3")), p.remove("#n")], "",
         Markup("<tr><td>1</td></tr><tr><td>3</td></tr>")),
        ([p.html("#x", Markup("<p>1<b>2<p>3"))], "", Markup("<p>1<b>2<p>3</p></b></p>")),
        ([p.html("#x", Markup("<!--><script>run()</script>-->"))], "", Markup("<!-->-->")),
        ([p.html("#x", Markup("<!-- --!><script>run()</script>"))], "", Markup("<!-- --!>")),
        ([p.html("#x", Markup("<textarea></textarea-x><img></textarea>"))], "",
         Markup("<textarea></textarea-x><img></textarea>")),
        ([p.html("#x", Markup("<svg><g id=n /><path d=M1/></svg>")), p.append("#n", Markup("<a/>"))], "",
         Markup("<svg><g id=n ><a/></a></g><path d=M1/></path></svg>")),
        ([p.html("#x", Markup("<svg><circle id=m/><circle id=n /></svg>")), p.remove("#m"), p.attr("#n", "r", 1)], "",
         Markup('<svg><circle id=m/><circle id="n" r="1"></circle></circle></svg>')),
        ([p.append("#x", Markup("<circle id=n />")), p.attr("#n", "r", 1)], "",
         Markup('<circle id="n" r="1"/></circle>')),
        ([p.html("#x", Markup("<svg><desc><p/>a</desc></svg>"))], "",
         Markup("<svg><desc><p/>a</p></desc></svg>")),
    ],
)  # fmt: skip
def test_what_is_painted_is_text_or_balanced_markup(
    brought: list[Patch], default: Any, expected: Any
) -> None:
    found = Paint("c", state_of(brought).parts(), None).get("#x", default)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "piece", ["<!--", "<!-- -- ", "<a ", "</b ", '<a b="', "<a '\"", "<title></title ", "<li>"]
)
def test_what_never_ends_does_not_take_the_square_of_its_length(piece: str) -> None:
    """That would be minutes, and the test be ended."""
    content = Markup("x" + piece * 60_000)
    assert str(Paint("c", [(1, p.html("#x", content))], None).get("#x")).startswith("x")


def test_markup_that_is_nested_without_end_is_cut_and_ends() -> None:
    deep = Paint("c", state_of([p.html("#x", Markup("<b>" * 5000 + "in"))]).parts(), None)["#x"]
    assert deep == "<b>" * content._DEEPEST + "in" + "</b>" * content._DEEPEST


def test_elements_that_patches_have_put_into_one_another_may_be_deep() -> None:
    """As replies to replies; nobody who writes them can have the page fail."""
    parts = [(1, p.append("#n0", Markup("<ul id=n1></ul>")))]
    parts += [(n, p.append(f"#n{n - 1}", Markup("<ul id=n{}></ul>").format(n))) for n in range(2, 1500)]
    found = Paint("c", parts, None)["#n0"]
    assert found == "".join(f"<ul id=n{n}>" for n in range(1, 1500)) + "</ul>" * 1499


@pytest.mark.parametrize("order", ["rows, then what is in them", "each row with what is in it"])
def test_what_many_patches_change_is_found_without_a_look_at_all_there_is(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0
    came = content.Content._came

    def counted(content: Any, new: Any, around: Any) -> None:
        nonlocal looked
        looked += len(new)
        came(content, new, around)

    monkeypatch.setattr(content.Content, "_came", counted)
    rows = [p.append("#x", Markup("<li id=r{0}><b id=n{0}></b></li>").format(n)) for n in range(500)]
    names = [p.text(f"#n{n}", n) for n in range(500)]
    brought = (
        rows + names
        if order.startswith("rows")
        else [q for pair in zip(rows, names, strict=True) for q in pair]
    )
    found = Paint("c", list(enumerate(brought, 1)), None)["#x"]
    assert found == "".join(f"<li id=r{n}><b id=n{n}>{n}</b></li>" for n in range(500))
    assert looked < 3000


def test_of_elements_of_one_id_the_first_is_changed_whenever_it_has_come() -> None:
    brought = [
        p.append("#x", Markup("<i><b id=n></b></i>")),
        p.text("#n", "one"),
        p.prepend("#x", Markup("<u><b id=n></b></u>")),
        p.text("#n", "two"),
        p.html("#m", 7),
    ]
    found = Paint("c", list(enumerate(brought, 1)), None)["#x"]
    assert found == "<u><b id=n>two</b></u><i><b id=n></b></i>"


def test_a_channel_that_has_brought_nothing_changes_nothing() -> None:
    found = Paint("c", [], 7)
    default = object()
    assert found.get("#x", default) is default
    assert found.value("#x", default) is default
    assert found.attr("#x", "title", default) is default
    assert found.title(default) is default
    assert not found.has_class("#x", "on")
    assert found.has_class("#x", "on", default=True)
    assert (list(found), len(found), "#x" in found, found.is_touched) == ([], 0, False, False)
    with pytest.raises(KeyError):
        found["#x"]


def test_it_is_a_mapping_of_what_has_content() -> None:
    patches = [
        p.text("#b", 1),
        p.attr("#c", "title", "x"),
        p.append("#a", "x"),
        p.text(".d", 1, select="all"),
    ]
    found = Paint("c", state_of(patches).parts(), None)
    assert dict(found) == {"#b": "1", "#a": "x"}
    assert repr(found) == "<state of 'c': #b, #a>"


@pytest.mark.parametrize("target", ["count", "", "#", ".x", "# a", 7, None])
def test_a_target_is_an_id(target: Any) -> None:
    found = Paint("c", [], None)
    for ask in (found.get, found.value, found.__getitem__, lambda t: found.attr(t, "title")):
        with pytest.raises(LoopError, match="a state is asked for targets such as"):
            ask(target)


def test_thousands_of_patches_and_targets_are_painted() -> None:
    """Each target is looked up for itself, so that must not cost a look at all others."""
    brought = [p.text(f"#n{n}", n) for n in range(1000)]
    brought += [p.append("#rows", Markup("<li id=r{0}>{0}</li>").format(n), keep=500) for n in range(1000)]
    brought += [p.text(f"#r{n}", "x") for n in range(500, 1000)]
    found = Paint("c", state_of(brought).parts(), None)
    assert [found[f"#n{n}"] for n in range(1000)] == [str(n) for n in range(1000)]
    assert found["#rows"] == "".join(f"<li id=r{n}>x</li>" for n in range(500, 1000))
