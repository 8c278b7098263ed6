"""The log: whoever connects from wherever ends up with the page that everybody has, whatever came between."""

from __future__ import annotations

from itertools import count
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from markupsafe import Markup, escape

from afterload import patch as p
from afterload.log import Answer, End, Log, Message, Patches, Refresh, Reset, Snapshot
from afterload.paint import Paint
from afterload.patch import Patch
from afterload.state import ids_in
from tests.document import Document, Element, parse

TOPICS = ("news", "stock")  # published to by the application, whose views render what is
SOURCE = "stock"  # the one that the application can say the state of
RUNS = ("clock", "work")  # written by a loop, of which views know nothing
NAMES = (*TOPICS, *RUNS)


def blank(name: str) -> str:
    return (
        f"<div id={name}><p id={name}-text>served</p><ul id={name}-rows><li id={name}-r1>served</li></ul>"
        f"<p id={name}-more></p></div>"
    )


def patch_of(name: str, kind: int, n: int) -> Patch:
    row = Markup(f"<li id={name}-r{n}>row {n}</li>")
    made: list[Patch] = [
        p.text(f"#{name}-text", n),
        p.append(f"#{name}-rows", row),
        p.append(f"#{name}-rows", row, keep=2),
        p.append_text(f"#{name}-more", f"+{n}"),
        p.attr(f"#{name}-text", "title", n),
        p.class_(f"#{name}-text", "odd", n % 2 == 1),
        p.html(f"#{name}-more", Markup(f"<i id={name}-i>{n}</i>")),
        p.text(f"#{name}-i", f"i{n}"),
        p.remove(f"#{name}-r{n}"),
        p.html(f"#{name}-rows", ""),
        p.message(n),
        p.dispatch("ping"),
    ]
    return made[kind % len(made)]


# What a run can do for ever. More than its state may hold, a view would have to render.
BOUNDED = (0, 2, 4, 5, 6, 7, 10, 11)


class Open:
    """An open page: what a client does with the blocks of an answer, in the words of docs/wire.md.

    Args:
        paints: its template shows the state of what it follows, where that can be.
        meanwhile: what happens while it is made.
    """

    def __init__(
        self, names: tuple[str, ...], world: World, paints: bool = False, meanwhile: list[Step] | None = None
    ) -> None:
        self.names = names
        self.paints = paints
        self.load(world, meanwhile or [])

    def load(self, world: World, meanwhile: list[Step], heals: bool = False) -> None:
        at = world.log.head
        bases = {SOURCE: world.base()}
        for name, kinds, n in meanwhile:
            world.publish_to(name, kinds, n)
        self.served: dict[str, str] = {}
        self.listed: set[str] = set()
        painted: set[str] = set()
        for name in self.names:
            if not self.paints or name == "news" or (heals and name in RUNS):
                self.served[name] = world.rendered(name)
                continue
            if name == SOURCE and not world.log.present(name).complete:
                self.restored(world, name, at, bases[name])
            found = Paint(name, world.log.present(name).parts, at)
            self.served[name] = painting(name, found)
            if found.is_touched:
                self.listed.add(name)
                painted |= {name} - {name for _ in found.unpainted(ids_in(self.served[name]))}
        self.shown = Document("".join(self.served.values()))
        self.position = (world.log.epoch, at, True)
        self.painted = frozenset(painted)
        self.seqs: dict[str, int] = {}
        self.ended: set[str] = set()
        self.texts = [""]

    @staticmethod
    def restored(world: World, name: str, at: int, base: Patch) -> None:
        if not world.log.restore(name, at, [base]):
            # too much has come since: once more
            assert world.log.restore(name, world.log.head, [world.base()])

    def restore(self, name: str) -> None:
        [fresh] = parse(self.served[name])
        for i, node in enumerate(self.shown.body.children):
            if isinstance(node, Element) and node.id == name:
                self.shown.body.children[i] = fresh

    def connect(self, log: Log) -> Answer:
        epoch, at, rendered = self.position
        known = epoch == log.epoch
        self.ended = set()  # `hello` names the channels that are open
        return log.connect(
            self.names,
            at if known else None,
            rendered=known and rendered,
            foreign=not known,
            painted=self.painted if known and rendered else (),
        )

    def lacks(self, log: Log) -> list[str]:
        epoch, at, rendered = self.position
        known = epoch == log.epoch
        return log.lacks(self.names, at if known else None, rendered=known and rendered, foreign=not known)

    def take(self, answer: Answer, steps: int, log: Log) -> bool:
        """Applies so many steps; whether it has to fetch itself."""
        for step in answer.steps[:steps]:
            for item in step.items:
                # what was painted cannot be put back to what it was without it
                painted = isinstance(item, Snapshot | Reset) and item.channel in self.listed
                if isinstance(item, Refresh) or painted:
                    return True
                self.item(item)
            if step.offset is not None:
                self.position = (log.epoch, step.offset, False)
        return False

    def item(self, item: Any) -> None:
        match item:
            case Patches(channel, seq, patches, since):
                assert since <= self.seqs.get(channel, since), "a gap"
                self.apply(patches)
                self.seqs[channel] = seq
            case Snapshot(channel, seq, patches):
                self.restore(channel)
                self.apply(patches)
                self.seqs[channel] = seq
            case Reset(channel):
                self.restore(channel)
                self.texts = [""]
                self.seqs.pop(channel, None)
            case End(channel, _, _):
                self.ended.add(channel)
            case Message(text):
                self.texts.append(text)
            case other:
                raise AssertionError(other)

    def apply(self, patches: Any) -> None:
        for patch in patches:
            self.shown.apply(patch)


Step = tuple[str, list[int], int]
steps = st.lists(
    st.tuples(
        st.sampled_from(NAMES), st.lists(st.integers(0, 11), min_size=1, max_size=3), st.integers(1, 4)
    ),
    max_size=4,
)


def painting(name: str, found: Paint) -> str:
    """A page's part for a channel, as its template makes it of the channel's state."""

    def content(part: str, default: str) -> str:
        return str(escape(found.get(f"#{name}{part}", Markup(default))))

    title = found.attr(f"#{name}-text", "title")
    attributes = "" if title is None else f' title="{title}"'
    if found.has_class(f"#{name}-text", "odd"):
        attributes += ' class="odd"'
    inner = (
        f"<p id={name}-text{attributes}>{content('-text', 'served')}</p>"
        f"<ul id={name}-rows>{content('-rows', f'<li id={name}-r1>served</li>')}</ul>"
        f"<p id={name}-more>{content('-more', '')}</p>"
    )
    return f"<div id={name}>{content('', inner) if name == SOURCE else inner}</div>"


class World(RuleBasedStateMachine):
    """A server's log and the pages that follow it, with everything that may come between."""

    def __init__(self) -> None:
        super().__init__()
        self.lives = count(1)
        self.truth: dict[str, Document] = {}
        self.said: dict[str, str] = {}
        self.begun: set[str] = set()
        self.over: set[str] = set()
        self.pages: list[Open] = []
        self.numbers = count(2)
        self.log = self.new_log()

    def new_log(self) -> Log:
        # bounds so small that all of them are met
        return Log(
            f"e{next(self.lives)}",
            history=3,
            history_bytes=1500,
            state_bytes=1200,
            state_cells=9,
            max_channels=2,
        )

    def rendered(self, name: str) -> str:
        """What the view has in its HTML."""
        if name in RUNS:
            return blank(name)
        return html(self.truth[name].body)

    @initialize()
    def start(self) -> None:
        self.truth = {name: Document(blank(name)) for name in NAMES}

    @rule(step=steps.filter(bool).map(lambda found: found[0]))
    def publish(self, step: Step) -> None:
        self.publish_to(*step)

    def publish_to(self, name: str, kinds: list[int], n: int) -> None:
        if name in RUNS and (name not in self.begun or name in self.over):
            return
        if name in RUNS:
            kinds = [BOUNDED[kind % len(BOUNDED)] for kind in kinds]
        entry = tuple(patch_of(name, kind, n) for kind in kinds)
        self.log.append(name, entry)
        for patch in entry:
            self.truth[name].apply(patch)
            if patch.action == "message":
                self.said[name] = str(patch.content)

    def base(self) -> Patch:
        """What brings any page to what the application has of `SOURCE`."""
        [element] = self.truth[SOURCE].body.children
        assert isinstance(element, Element)
        return p.html(f"#{SOURCE}", Markup(html(element)))

    @rule(name=st.sampled_from(RUNS))
    def begin(self, name: str) -> None:
        self.log.begin(name)
        self.begun.add(name)
        self.over.discard(name)
        self.forget(name)

    def forget(self, name: str) -> None:
        self.truth[name] = Document(blank(name))
        self.said.pop(name, None)

    @rule(name=st.sampled_from(RUNS))
    def finish(self, name: str) -> None:
        if name in self.begun and name not in self.over:
            self.log.finish(name, "done")
            self.over.add(name)

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1, max_size=3))
    def open(self, names: set[str]) -> None:
        self.pages.append(Open(tuple(sorted(names)), self))

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1, max_size=3), meanwhile=steps)
    def open_painted(self, names: set[str], meanwhile: list[Step]) -> None:
        # what a view shows of "news" has to be in its HTML once, so nothing comes to that meanwhile
        self.pages.append(
            Open(tuple(sorted(names)), self, True, [step for step in meanwhile if step[0] != "news"])
        )

    @precondition(lambda self: self.pages)
    @rule(data=st.data(), steps=st.integers(0, 3))
    def cut(self, data: st.DataObject, steps: int) -> None:
        """A page connects, and is cut off after some of what it is sent."""
        page = data.draw(st.sampled_from(self.pages))
        if page.take(self.connect(page), steps, self.log):
            page.load(self, [], heals=True)

    @precondition(lambda self: self.pages)
    @rule(data=st.data())
    def follow(self, data: st.DataObject) -> None:
        """A page connects, and then is given the news."""
        page = data.draw(st.sampled_from(self.pages))
        self.bring(page)
        _, at, _ = page.position
        for name in NAMES:
            if name not in self.over and (name in TOPICS or name in self.begun):
                self.publish_to(name, [0, 1, 3], next(self.numbers) % 4 + 1)
        answer = self.log.news(page.names, at)
        if page.take(answer, len(answer.steps), self.log):
            page.load(self, [], heals=True)
        else:
            page.position = (self.log.epoch, answer.offset, False)
        self.check(page)

    @rule()
    def lose_memory(self) -> None:
        self.log = self.new_log()
        for name in RUNS:
            self.forget(name)
        self.begun.clear()
        self.over.clear()

    @rule()
    def trim(self) -> None:
        # a run in progress is in use by its loop
        self.log.trim([name for name in self.begun if name not in self.over])
        for name in RUNS:
            if name not in self.log.channels:
                self.begun.discard(name)
                self.over.discard(name)
                self.forget(name)

    def bring(self, page: Open) -> None:
        for name in page.names:
            if name in RUNS and name not in self.begun:
                self.begin(name)  # a viewer starts the loop
        answer = self.connect(page)
        if page.take(answer, len(answer.steps), self.log):
            page.load(self, [], heals=True)
            answer = self.connect(page)
            assert not page.take(answer, len(answer.steps), self.log), "refresh upon refresh"
        page.position = (self.log.epoch, answer.offset, False)
        assert answer.finished == all(name in self.over for name in page.names)
        self.check(page)

    def connect(self, page: Open) -> Answer:
        if SOURCE in page.lacks(self.log):
            at, base = self.log.head, self.base()
            # it takes a while, and then may be too late
            self.publish_to(SOURCE, [0, 1, 3], 1)
            page.restored(self, SOURCE, at, base)
            assert SOURCE not in page.lacks(self.log)
        return page.connect(self.log)

    def check(self, page: Open) -> None:
        for name in page.names:
            shown = next(
                node for node in page.shown.body.children if isinstance(node, Element) and node.id == name
            )
            [true] = self.truth[name].body.children
            assert isinstance(true, Element)
            assert shown.serialize() == true.serialize(), name
        if len(page.names) == 1 and page.names[0] in RUNS:
            assert page.texts[-1] == self.said.get(page.names[0], "")
        assert page.ended >= {name for name in page.names if name in self.over}

    def teardown(self) -> None:
        for page in self.pages:
            self.bring(page)


def html(element: Element) -> str:
    """The markup of all that is in an element."""
    return "".join(
        node if isinstance(node, str) else f"<{node.tag}{_attributes(node)}>{html(node)}</{node.tag}>"
        for node in element.children
    )


def _attributes(element: Element) -> str:
    return "".join(f' {name}="{value}"' for name, value in element.attributes.items())


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


def entries(answer: Answer) -> list[Any]:
    return [item for step in answer.steps for item in step.items]


def test_effects_come_to_those_who_are_there_and_in_a_replay_but_not_in_a_state() -> None:
    log = Log("e", history=2)
    log.append("a", (p.text("#a", 0),))
    log.append("a", (p.dispatch("ding"), p.text("#a", 1)))
    assert entries(log.connect(["a"], 1)) == [Patches("a", 2, [p.dispatch("ding"), p.text("#a", 1)], 1)]
    log.append("a", (p.text("#a", 2),))
    log.append("a", (p.text("#a", 3),))
    assert entries(log.connect(["a"], 1)) == [Patches("a", 4, [p.text("#a", 3)], 0)]
    assert entries(log.connect(["a"], None)) == [Snapshot("a", 4, [p.text("#a", 3)])]


def test_a_plain_string_between_patches_is_no_gap() -> None:
    log = Log("e")
    for thing in (p.text("#a", 1), p.message("two"), p.text("#a", 3)):
        log.append("a", (thing,))
    assert entries(log.connect(["a"], 0)) == [
        Patches("a", 1, [p.text("#a", 1)], 0),
        Message("two"),
        Patches("a", 2, [p.text("#a", 3)], 1),
    ]


def test_a_page_learns_the_number_of_what_has_left_nothing_behind() -> None:
    """Otherwise the next entry would look like a gap to it."""
    log = Log("e", history=1)
    log.append("a", (p.text("#a", 1),))
    log.append("a", (p.dispatch("ding"),))
    log.append("a", (p.dispatch("ding"),))
    assert entries(log.connect(["a"], 1)) == [Patches("a", 3, [], 0)]


def test_a_busy_channel_takes_no_history_from_a_quiet_one() -> None:
    log = Log("e", history=5)
    log.append("quiet", (p.dispatch("once"),))
    for n in range(100):
        log.append("busy", (p.text("#n", n),))
    assert entries(log.connect(["quiet", "busy"], 0))[0] == Patches("quiet", 1, [p.dispatch("once")], 0)


def test_one_position_is_good_for_all_channels() -> None:
    log = Log("e")
    log.append("a", (p.text("#a", 1),))
    at = log.append("b", (p.text("#b", 1),)).offset
    log.append("a", (p.text("#a", 2),))
    assert entries(log.connect(["a", "b"], at)) == [Patches("a", 2, [p.text("#a", 2)], 1)]


def test_past_the_bound_of_a_state_the_page_itself_is_the_snapshot() -> None:
    log = Log("e", state_bytes=500, history=1)
    log.begin("run")
    early = log.append("run", (p.append("#rows", "x" * 200),)).offset
    for _ in range(3):
        log.append("run", (p.append("#rows", "x" * 200),))
    assert entries(log.connect(["run"], early)) == [Refresh()]


def test_the_end_comes_after_all_else_and_alone_completes_it() -> None:
    log = Log("e")
    log.begin("run")
    log.append("run", (p.text("#a", 1),))
    log.finish("run", "done")
    answer = log.connect(["run"], 0)
    assert answer.finished
    assert [step.offset for step in answer.steps] == [1, 2]
    assert answer.steps[-1].items == (End("run", "done", ""),)
    assert not log.at_end(["run"], 1)
    assert log.at_end(["run"], 2)


def test_a_finished_channel_that_is_published_to_is_open_again() -> None:
    log = Log("e")
    log.begin("run")
    log.finish("run", "done")
    log.append("run", (p.text("#a", 1),))
    assert not log.connect(["run"], 0).finished


def test_the_quietest_channels_are_forgotten_but_none_that_is_in_use() -> None:
    log = Log("e", max_channels=2)
    for name in ("used", "old", "new", "newest"):
        log.append(name, (p.text("#a", name),))
    log.trim(["used"])
    assert set(log.channels) == {"used", "newest"}
    # who may have missed something of what is forgotten has to look for itself
    assert entries(log.connect(["old"], 1)) == [Refresh()]
    assert entries(log.connect(["old"], 3)) == []


def test_a_page_that_an_earlier_run_has_shown_something_is_put_back_though_it_has_no_promise() -> None:
    """It was cut off inside its first answer, and its position is still the one it was rendered at."""
    log = Log("e")
    log.append("news", (p.text("#a", 1),))
    rendered = log.head
    log.begin("run")
    log.append("run", (p.text("#b", 1),))
    log.begin("run")
    first, *_ = log.connect(["news", "run"], rendered, rendered=True).steps
    assert first.items[0] == Reset("run")


def test_a_run_that_was_forgotten_and_begins_anew_puts_pages_of_the_old_one_back() -> None:
    log = Log("e", max_channels=1)
    log.begin("run")
    at = log.append("run", (p.text("#b", 1),)).offset
    log.finish("run", "done")
    log.append("news", (p.text("#a", 1),))
    log.trim([])
    log.begin("run")
    assert entries(log.connect(["run"], at)) == [Reset("run")]


def test_of_what_brings_a_page_to_a_state_only_the_last_makes_a_promise() -> None:
    log = Log("e", history=1)
    log.begin("run")
    log.append("topic", (p.text("#a", 1),))
    for thing in (p.text("#b", 1), p.message("x"), p.text("#b", 2)):
        log.append("run", (thing,))
    log.append("topic", (p.text("#a", 2),))
    answer = log.connect(["topic", "run"], 1, rendered=True)
    assert [type(step.items[0]) for step in answer.steps] == [Snapshot, Message, Patches]
    assert [step.offset for step in answer.steps] == [None, None, log.head]
