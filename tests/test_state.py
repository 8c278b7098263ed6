"""The state: whatever is compacted leaves the same document as every patch applied in order."""

from __future__ import annotations

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from afterload import patch as p
from afterload.patch import Patch
from afterload.state import KEPT_MAX, State, compact
from tests.document import Document

PAGE = (
    "<div id=a>one</div><div id=b class=x><i id=c>two</i></div>"
    "<ul id=l><li id=r1>1</li><li id=r2>2</li></ul><p id=t class=x></p><input id=v>"
)

targets = st.sampled_from(["#a", "#b", "#c", "#l", "#t", "#r1", "#missing"])
texts = st.sampled_from(["", "x", "yy", "<b>", " "])
markups = st.sampled_from(
    [
        "<b>m</b>",
        "<i id=c>fresh</i>",
        "<i id=c class=x>marked</i>",
        "plain",
        "<u>1</u><u>2</u>",
        "<u id=u></u>",
    ]
).map(Markup)
rows = st.integers(1, 5).map(lambda n: Markup(f"<li id=r{n}>row {n}</li>"))
keeps = st.sampled_from([None, None, 2, 3])
row_targets = st.integers(1, 5).map(lambda n: f"#r{n}")

patch_strategy = st.one_of(
    st.builds(p.text, targets, texts),
    st.builds(p.html, targets, markups),
    st.builds(
        p.html, st.just("#b"), st.sampled_from(["<i id=c>fresh</i>", "<i id=c class=x>2</i>"]).map(Markup)
    ),
    st.builds(p.append, st.just("#l"), rows, keep=keeps),
    st.builds(p.append, targets, st.one_of(markups, texts), keep=keeps),
    st.builds(p.prepend, targets, st.one_of(markups, rows), keep=keeps),
    st.builds(p.append_text, targets, texts),
    st.builds(p.value, st.just("#v"), texts),
    st.builds(p.attr, targets, st.sampled_from(["title", "lang"]), st.sampled_from([None, "1", "2"])),
    st.builds(p.class_, targets, st.sampled_from(["on", "hot"]), st.booleans()),
    st.builds(p.title, texts),
    st.builds(p.remove, targets),
    st.builds(p.replace, targets, markups),
    st.builds(p.before, targets, markups),
    st.builds(p.after, targets, markups),
    st.builds(p.text, st.just(".x"), texts, select=st.just("all")),
    st.builds(p.dispatch, st.just("ping")),
)
# Mostly of one kind, as programs do, so that trimming and merging come into play.
sequences = st.one_of(
    st.lists(patch_strategy, max_size=12),
    st.lists(st.builds(p.append, st.just("#l"), rows, keep=st.just(3)), max_size=12),
    st.lists(
        st.one_of(
            st.builds(p.append, st.just("#l"), rows, keep=st.just(2)),
            st.builds(p.append_text, st.just("#a"), texts),
            st.builds(p.text, targets, texts),
            st.builds(p.html, st.just("#b"), markups),
        ),
        max_size=14,
    ),
    # a list that is taken from and added to while it is trimmed
    st.lists(
        st.one_of(
            st.builds(p.append, st.just("#l"), rows, keep=st.just(3)),
            st.builds(p.append, st.just("#l"), rows, keep=st.just(3)),
            st.builds(p.remove, row_targets),
            st.builds(p.after, row_targets, st.sampled_from(["<b>m</b>", "<i>n</i>"]).map(Markup)),
            st.builds(p.replace, row_targets, st.just(Markup("<b>m</b>"))),
            st.builds(p.text, row_targets, texts),
            st.builds(p.append, row_targets, st.just("more")),
        ),
        max_size=14,
    ),
    # selectors that match by what others have set
    st.lists(
        st.one_of(
            st.builds(p.class_, targets, st.sampled_from(["x", "hot"]), st.booleans()),
            st.builds(p.text, st.sampled_from([".x", ".hot"]), texts, select=st.just("all")),
            st.builds(p.append, st.sampled_from([".x", ".hot"]), texts, select=st.just("all")),
            st.builds(p.html, st.just("#b"), markups),
            st.builds(p.attr, st.just("#b"), st.just("class"), st.sampled_from([None, "x", "hot"])),
        ),
        max_size=10,
    ),
)


def applied(document: Document, patches: list[Patch]) -> str:
    document = document.clone()
    for patch in patches:
        document.apply(patch)
    return document.serialize()


def whole(patches: list[Patch]) -> str:
    """Every patch applied in order. An id stands for one element: pages where it does not are no example."""
    document = Document(PAGE)
    for patch in patches:
        document.apply(patch)
        ids = [element.id for element, _ in document.body.walk() if element.id]
        assume(len(ids) == len(set(ids)))
    return document.serialize()


def followed(patches: list[Patch], at: int) -> tuple[State, Document]:
    """The state of all patches, and a page that has those up to `at`."""
    state = State()
    page = Document(PAGE)
    for offset, patch in enumerate(patches, 1):
        state.apply(patch, offset)
        if offset <= at:
            page.apply(patch)
    return state, page


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(sequences)
def test_the_whole_state_leaves_the_same_document(patches: list[Patch]) -> None:
    state, page = followed(patches, 0)
    expected = whole(patches)
    assert applied(page, state.whole()) == expected


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(sequences, st.integers(0, 14))
def test_what_is_newer_than_a_position_brings_a_page_at_that_position_to_the_state(
    patches: list[Patch], at: int
) -> None:
    state, page = followed(patches, at)
    expected = whole(patches)
    assert applied(page, state.since(at)) == expected


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(sequences, st.integers(0, 14))
def test_a_page_that_shows_everything_already_is_not_set_back(patches: list[Patch], at: int) -> None:
    """Its view has rendered what was published up to `at`; what is sent once more must change nothing."""
    state, page = followed(patches, at)
    expected = whole(patches)
    assert applied(page, state.fresh(at)) == expected


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(sequences, st.integers(0, 14))
def test_entries_merged_in_two_parts_leave_the_same_document(patches: list[Patch], at: int) -> None:
    merged = compact(patches[:at]) + compact(patches[at:])
    expected = whole(patches)
    assert applied(Document(PAGE), merged) == expected


@given(sequences)
def test_effects_stay_in_order_and_number_when_merged(patches: list[Patch]) -> None:
    def effects(found: list[Patch]) -> list[Patch]:
        return [patch for patch in found if patch.action == "dispatch"]

    assert effects(compact(patches)) == effects(patches)


def test_only_the_last_text_of_a_target_is_kept() -> None:
    state = State()
    for i in range(1000):
        state.apply(p.text("#n", i), i)
    assert state.whole() == [p.text("#n", 999)]


def test_keep_bounds_the_rows_of_a_log() -> None:
    state = State()
    for i in range(1000):
        state.apply(p.append("#log", Markup("<li>{}</li>").format(i), keep=5), i)
    assert [patch.content for patch in state.whole()] == [f"<li>{i}</li>" for i in range(995, 1000)]


def test_a_row_appended_again_under_its_id_is_kept_once() -> None:
    state = State()
    for i in range(100):
        state.apply(p.append("#log", Markup("<li id=r{}>{}</li>").format(i % 3, i)), i)
    assert [patch.content for patch in state.whole()] == [f"<li id=r{i % 3}>{i}</li>" for i in (97, 98, 99)]


def test_text_that_comes_in_parts_is_one_patch() -> None:
    state = State()
    for i, word in enumerate("the loop goes on".split()):
        state.apply(p.append_text("#out", word), i)
        state.apply(p.text("#count", i), i)
    assert p.append_text("#out", "theloopgoeson") in state.whole()
    assert p.append_text("#out", "goeson") in state.since(1)


def test_setting_content_drops_what_was_appended() -> None:
    state = State()
    state.apply(p.append("#log", "a"), 1)
    state.apply(p.append_text("#log", "b"), 2)
    state.apply(p.text("#log", ""), 3)
    assert state.whole() == [p.text("#log", "")]


def test_a_page_that_shows_the_rows_already_gets_only_newer_ones() -> None:
    state = State()
    state.apply(p.append("#orders", Markup("<li id=o1>1</li>")), 1)
    state.apply(p.text("#count", 1), 1)
    state.apply(p.append("#orders", Markup("<li id=o2>2</li>")), 2)
    assert state.fresh(1) == [p.text("#count", 1), p.append("#orders", Markup("<li id=o2>2</li>"))]


def test_a_page_gets_the_rows_of_a_list_whose_content_was_set() -> None:
    state = State()
    state.apply(p.html("#orders", ""), 1)
    state.apply(p.append("#orders", "row"), 2)
    assert state.fresh(9) == [p.html("#orders", ""), p.append("#orders", "row")]


def test_text_that_goes_on_keeps_what_it_was_added_to_from_being_set_again() -> None:
    """The part that a page shows already is not sent once more, so what would take it away must not be."""
    state = State()
    state.apply(p.html("#b", Markup("<i id=c></i>")), 1)
    state.apply(p.append_text("#c", "shown "), 2)
    state.apply(p.append_text("#c", "already"), 3)
    assert state.fresh(2) == [p.append_text("#c", "already")]


def test_past_its_bounds_the_state_is_emptied_and_says_so() -> None:
    by_bytes = State(max_bytes=500)
    by_bytes.apply(p.text("#a", "x" * 501), 1)
    assert by_bytes.overflowed
    assert by_bytes.whole() == []

    by_cells = State(max_cells=10)
    for i in range(11):
        by_cells.apply(p.text(f"#n{i}", i), i)
    assert by_cells.overflowed

    kept = State(max_bytes=10**6, max_cells=10**6)
    for i in range(KEPT_MAX):
        kept.apply(p.after("#a", "x"), i)
    assert not kept.overflowed
    kept.apply(p.after("#a", "x"), 0)
    assert kept.overflowed


def test_the_size_is_what_is_in_it() -> None:
    state = State()
    for i in range(50):
        state.apply(p.append("#log", Markup("<li>{}</li>").format(i), keep=3), i)
        state.apply(p.append_text("#out", "word"), i)
        state.apply(p.text("#n", i), i)
    state.apply(p.text("#log", ""), 51)
    state.apply(p.text("#out", ""), 52)
    state.apply(p.text("#n", ""), 53)
    empty = State()
    for i, target in enumerate(["#log", "#out", "#n"]):
        empty.apply(p.text(target, ""), i)
    assert state.size == empty.size
