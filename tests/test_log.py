"""The log: whoever connects from wherever ends up with the page that everybody has, whatever came between."""

from __future__ import annotations

from itertools import count
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from markupsafe import Markup

from afterload import patch as p
from afterload.log import Answer, End, Log, Message, Patches, Refresh, Reset, Snapshot
from afterload.patch import Patch
from tests.document import Document, Element, parse

TOPICS = ("news", "stock")  # published to by the application, whose views render what is
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
    """An open page: what a client does with the blocks of an answer, in the words of docs/wire.md."""

    def __init__(self, names: tuple[str, ...], world: World) -> None:
        self.names = names
        self.load(world)

    def load(self, world: World) -> None:
        self.served = {name: world.rendered(name) for name in self.names}
        self.shown = Document("".join(self.served.values()))
        self.position = (world.log.epoch, world.log.head, True)
        self.seqs: dict[str, int] = {}
        self.ended: set[str] = set()
        self.texts = [""]

    def restore(self, name: str) -> None:
        [fresh] = parse(self.served[name])
        for i, node in enumerate(self.shown.body.children):
            if isinstance(node, Element) and node.id == name:
                self.shown.body.children[i] = fresh

    def connect(self, log: Log) -> Answer:
        epoch, at, rendered = self.position
        known = epoch == log.epoch
        self.ended = set()  # `hello` names the channels that are open
        return log.connect(self.names, at if known else None, rendered=known and rendered, foreign=not known)

    def take(self, answer: Answer, steps: int, log: Log) -> bool:
        """Applies so many steps; whether it has to fetch itself."""
        for step in answer.steps[:steps]:
            for item in step.items:
                if isinstance(item, Refresh):
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

    @rule(
        name=st.sampled_from(NAMES),
        kinds=st.lists(st.integers(0, 11), min_size=1, max_size=3),
        n=st.integers(1, 4),
    )
    def publish(self, name: str, kinds: list[int], n: int) -> None:
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

    @precondition(lambda self: self.pages)
    @rule(data=st.data(), steps=st.integers(0, 3))
    def cut(self, data: st.DataObject, steps: int) -> None:
        """A page connects, and is cut off after some of what it is sent."""
        page = data.draw(st.sampled_from(self.pages))
        page.take(page.connect(self.log), steps, self.log)

    @precondition(lambda self: self.pages)
    @rule(data=st.data())
    def follow(self, data: st.DataObject) -> None:
        """A page connects, and then is given the news."""
        page = data.draw(st.sampled_from(self.pages))
        self.bring(page)
        _, at, _ = page.position
        for name in NAMES:
            if name not in self.over and (name in TOPICS or name in self.begun):
                self.publish(name, [0, 1, 3], next(self.numbers) % 4 + 1)
        answer = self.log.news(page.names, at)
        if page.take(answer, len(answer.steps), self.log):
            page.load(self)
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
        answer = page.connect(self.log)
        if page.take(answer, len(answer.steps), self.log):
            page.load(self)
            answer = page.connect(self.log)
            assert not page.take(answer, len(answer.steps), self.log), "refresh upon refresh"
        page.position = (self.log.epoch, answer.offset, False)
        assert answer.finished == all(name in self.over for name in page.names)
        self.check(page)

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
