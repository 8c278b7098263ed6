"""The benchmarks count right, and each of them runs. Small ones: no figure that they find is of interest here."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks import __main__ as tool
from benchmarks import browsed, documents, fanout, hubs, interruptions, nchan, reader, streams, table
from benchmarks.bench import Bench, Subject, caveat, fitted, in_turns, looper, ratio
from benchmarks.publisher import Http, Publisher, to_each
from benchmarks.servers import BLOCK, Load, Server, gunicorn, load
from benchmarks.system import BenchError, Process, allow_files, children, compiled, cpu
from benchmarks.table import Row

from afterload.cli.wires import Block
from tests.servers.process import wait_until

FACTS = {"cores": "2", "architecture": "x", "kernel": "6", "python": "3", "others": "0.1"} | dict.fromkeys(
    table.PACKAGES, "1.0"
)
ROWS = [
    Row("cpu", "≤ 1.3", "1.2 × (4 µs)", True, {"turns": [1]}, short="1.2 ×"),
    Row("a|b", "", "9", None),
    Row("client", "≤ 2 kB", "3 kB", False),
]


# The table


def test_a_row_says_whether_the_target_was_met() -> None:
    lines = table.markdown(ROWS, FACTS).splitlines()
    assert lines[2] == "| cpu | ≤ 1.3 | 1.2 × (4 µs) | yes |"
    assert lines[4] == "| client | ≤ 2 kB | 3 kB | **no** |"


def test_a_row_without_a_target_and_with_a_bar_is_still_a_row() -> None:
    assert table.markdown(ROWS, FACTS).splitlines()[3] == r"| a\|b | – | 9 | – |"


def test_the_short_table_has_the_outcome_only_and_the_machine() -> None:
    lines = table.markdown(ROWS, FACTS, short=True).splitlines()
    assert lines[2] == "| cpu | ≤ 1.3 | 1.2 × | yes |"
    assert lines[4] == "| client | ≤ 2 kB | 3 kB | **no** |"
    assert lines[-1].startswith("Measured on 2 cores (x)")
    assert "gunicorn 1.0" in lines[-1]


def test_it_is_said_when_other_programs_used_the_machine_meanwhile() -> None:
    assert "other programs" not in table.machine_line(FACTS)
    assert "**other programs, which used 1.4 of them**" in table.machine_line(FACTS | {"others": "1.4"})


def test_what_the_machine_is_is_found_here() -> None:
    facts = table.machine()
    assert int(facts["cores"]) >= 1
    assert facts["python"] == sys.version.split()[0]
    assert re.fullmatch(r"\d+\.\d+\S*", facts["gunicorn"])


def test_the_page_has_the_table_and_what_each_scenario_says_of_itself() -> None:
    page = table.page("| the table |", {"cpu": "Counts.", "memory": "Weighs."}, 5, 200)
    assert "| the table |" in page
    assert "### `cpu`\n\nCounts.\n\n### `memory`\n\nWeighs." in page
    assert "in about 5 minutes" in page


def test_a_block_is_replaced_between_its_marks_and_nothing_else_is() -> None:
    text = f"before\n{table.BEGIN}\nold\n\nold\n{table.END}\nafter | x\n"
    new = table.with_block(text, "| new |")
    assert new == f"before\n{table.BEGIN}\n| new |\n{table.END}\nafter | x\n"
    assert table.with_block(new, "| new |") == new


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        f"{table.BEGIN}\nno end",
        f"{table.END} the wrong way round {table.BEGIN}",
        f"{table.BEGIN}{table.END} twice {table.BEGIN}{table.END}",
        f"{table.BEGIN} two begin {table.BEGIN}{table.END}",
        f"{table.BEGIN}{table.END} two ends {table.END}",
    ],
)
def test_a_file_without_one_place_for_the_block_is_refused(text: str) -> None:
    with pytest.raises(table.NoBlockError, match="benchmarks -->"):
        table.with_block(text, "new")


# The command


def rows_of(*rows: Row) -> tool.Scenario:
    def scenario(bench: Bench) -> Iterator[Row]:
        """Says so. And more."""
        yield from rows

    return scenario


def failing(error: Exception) -> tool.Scenario:
    def scenario(bench: Bench) -> Iterator[Row]:
        """What cannot be run."""
        yield ROWS[0]
        raise error

    return scenario


def test_help_says_what_each_scenario_measures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        tool.main(["--help"])
    said = capsys.readouterr().out
    for name, scenario in tool.SCENARIOS.items():
        described = tool.describe(scenario).splitlines()
        assert len(described[0]) > 20
        assert f"\n{name}\n    {described[0]}" in said


def test_the_list_has_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == list(tool.SCENARIOS)


def test_quick_is_a_word_among_the_names() -> None:
    found = tool.arguments(["memory", "quick", "client"])
    assert (found.quick, found.names) == (True, ["memory", "client"])


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["memoy"], "there is no memoy"),
        (["--write", "quick"], "--write needs a full run"),
        (["--write", "memory"], "--write needs a full run"),
    ],
)
def test_what_makes_no_sense_is_refused(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        tool.main(argv)
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("error", [BenchError("too few files"), ValueError("too few files")])
def test_a_scenario_that_cannot_be_run_is_a_row_and_the_others_are_run(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "SCENARIOS", {"a": failing(error), "b": rows_of(ROWS[0])})
    assert tool.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| cpu |")
    assert lines[3].startswith("| What cannot be run |")
    assert lines[3].endswith("too few files | **no** |")
    assert lines[4].startswith("| cpu |")


def test_a_missed_target_is_a_failure_only_when_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "SCENARIOS", {"a": rows_of(*ROWS), "met": rows_of(ROWS[0], ROWS[1])})
    assert tool.main([]) == 0
    assert tool.main(["--strict"]) == 1
    assert tool.main(["met", "--strict"]) == 0
    captured = capsys.readouterr()
    assert "| **no** |" in captured.out
    assert "cpu: 1.2 × (4 µs)" in captured.err  # how far it is


def test_json_has_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "SCENARIOS", {"a": rows_of(*ROWS)})
    assert tool.main(["quick", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["met"] for row in found["rows"]] == [True, None, False]
    assert found["rows"][0]["details"] == {"turns": [1]}
    assert found["machine"]["python"] in sys.version
    assert found["arguments"][0] == "quick"


def test_write_puts_all_rows_into_the_docs_and_those_that_say_most_into_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "SCENARIOS", {"a": rows_of(*ROWS), "b": rows_of(*ROWS[1:], *ROWS)})
    monkeypatch.setattr(tool, "HEADLINES", {"a"})
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"# us\n{table.BEGIN}\n{table.END}\nthe end\n")
    assert tool.main(["--write"]) == 0
    page, readme = ((tmp_path / name).read_text() for name in ("docs/benchmarks.md", "README.md"))
    assert "| cpu | ≤ 1.3 | 1.2 × (4 µs) | yes |" in page
    assert "### `a`\n\nSays so. And more." in page
    assert (page.count("| client |"), readme.count("| client |")) == (3, 1)
    assert "| cpu | ≤ 1.3 | 1.2 × | yes |" in readme
    assert "\nOf the other targets, 1 of 3 are met. Measured on 2 cores" in readme
    assert readme.startswith("# us\n")
    assert readme.endswith("\nthe end\n")


@pytest.mark.parametrize("readme", [None, "# no marks\n"])
def test_a_readme_without_a_place_for_the_table_stays_as_it_is(
    readme: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "SCENARIOS", {"a": rows_of(*ROWS)})
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    assert tool.main(["--write"]) == 0
    assert (tmp_path / "docs" / "benchmarks.md").exists()
    assert "README.md stays as it is" in capsys.readouterr().err
    assert (tmp_path / "README.md").exists() == (readme is not None)


# What is done with the numbers


def test_a_ratio_is_of_turns_that_were_beside_each_other() -> None:
    # a machine that is twice as slow from the third turn on, and a turn in which something went wrong
    mine = [{"micros": m} for m in (4, 6, 8, 12, 500, 10)]
    other = [{"micros": m} for m in (3, 5, 6, 10, 8, 8)]
    assert ratio(mine, other) == pytest.approx(10 / 8)


def test_turns_are_made_in_an_order_that_favours_nobody() -> None:
    order: list[str] = []

    class Told:
        def __init__(self, name: str) -> None:
            self.name = name

        def turn(self, count: int, interval: float) -> dict[str, Any]:
            order.append(self.name)
            return {"who": self.name, "count": count}

    one, other = in_turns((Told("A"), Told("B")), 4, 7, 0.0)  # type: ignore[arg-type]
    assert "".join(order) == "ABBAABBA"
    assert {turn["who"] for turn in one} == {"A"}
    assert {turn["who"] for turn in other} == {"B"}
    assert one[0]["count"] == 7
    order.clear()
    found = in_turns((Told("A"), Told("B"), Told("C")), 4, 7, 0.0)  # type: ignore[arg-type]
    assert "".join(order) == "ABCBCACABABC"
    assert [{turn["who"] for turn in turns} for turns in found] == [{"A"}, {"B"}, {"C"}]


def test_what_a_reader_has_to_know_of_a_figure_is_said_with_it() -> None:
    assert caveat([{"share": 1.0, "generator": 0.3}]) == ""
    assert "40% of the values were merged" in caveat([{"share": 0.6, "generator": 0.3}])
    assert "load generator was busy 97%" in caveat([{"share": 1.0, "generator": 0.97}])


def test_the_size_after_brotli_is_the_same_by_both_ways() -> None:
    data = streams.CLIENT.read_bytes()
    size = streams.brotli_size(data)
    assert 500 < size < len(data) / 2
    node = shutil.which("node")
    if node:
        assert abs(streams._brotli_size_by_node(node, data) - size) < 20


def test_without_brotli_there_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BenchError, match="there is no brotli"):
        streams.brotli_size(b"x")


def test_the_ratio_is_of_what_was_measured_and_the_target_is_the_first_peer() -> None:
    sides = [documents.Side(name, Server(0, 0, None), "/") for name in ("ours", "peer", "bare")]  # type: ignore[arg-type]
    turns = [[{"micros": 9.0, "millis": ms}] * 2 for ms in (2.1, 2.0, 1.0)]
    row = documents._row(sides, "first byte", "millis", turns)
    assert row.target == "≤ 1.1 × peer"
    assert row.measured == "1.05 ×, 2.10 × bare (2.10 ms; peer 2.00 ms, bare 1.00 ms)"
    assert (row.met, row.short) == (True, "1.05 ×")
    turns[1] = [{"micros": 9.0, "millis": 1.9}] * 2
    assert documents._row(sides, "first byte", "millis", turns).met is False


def test_three_sides_take_their_turns_forwards_and_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(documents.Side, "turn", lambda side, **asked: order.append(side.name) or asked)
    sides = [documents.Side(name, Server(0, 0, None), "/") for name in "ABC"]  # type: ignore[arg-type]
    assert documents._turns(sides, 3, count=7) == [[{"count": 7}] * 3] * 3
    assert "".join(order) == "ABCCBAABC"


# What is asked of the operating system


def test_without_a_compiler_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BenchError, match="no C compiler"):
        _ = Bench(tmp_path).load


def test_more_viewers_than_files_are_not_even_tried(tmp_path: Path) -> None:
    server = Server(1, 1, None, viewers=500)  # type: ignore[arg-type]
    with pytest.raises(BenchError, match=r"1,100 open files, and the limit is 1,000"):
        Bench(tmp_path, files=1000).connect(server, 500, window=0).__enter__()


def test_cpu_is_counted_of_threads_that_are_gone_too() -> None:
    spin = (
        "import sys, threading, time\n"
        "def work():\n"
        "    end = time.thread_time() + 0.3\n"
        "    while time.thread_time() < end: pass\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start(); thread.join(); print(time.process_time(), flush=True); sys.stdin.read()"
    )
    with Process([sys.executable, "-c", spin]) as process:
        used = float(process.line(30))
        assert used <= cpu(process.pid) < used + 0.2


def test_a_process_that_ends_too_early_is_reported_with_its_last_words() -> None:
    code = "import sys; sys.exit('out of luck')"
    with (
        Process([sys.executable, "-c", code]) as process,
        pytest.raises(BenchError, match=r"(?s)ended with 1.*luck"),
    ):
        process.line(30)


def test_lines_that_come_together_are_read_one_by_one() -> None:
    code = "import os, sys; os.write(1, b'one\\ntwo\\nthr'); sys.stdin.readline(); print('ee')"
    with Process([sys.executable, "-c", code]) as process:
        assert [process.line(30), process.line(30)] == ["one", "two"]
        process.tell("go on")
        assert process.line(30) == "three"


def test_without_nchan_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path: None)
    with (
        pytest.raises(BenchError, match="apt-get install nginx libnginx-mod-nchan"),
        nchan.nginx(Bench(tmp_path)),
    ):
        pass


def test_a_process_that_ignores_its_end_is_killed_with_its_children() -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "while True: time.sleep(600)"
    )
    process = Process([sys.executable, "-c", code], patience=0.1)
    with process:
        child = int(process.line(30))
        assert children(process.pid) == [child]
    assert process.child.returncode == -9
    # its parent is gone, so whoever inherited it takes note of its end
    state = Path(f"/proc/{child}/stat")
    wait_until(lambda: not state.exists() or ") Z " in state.read_text(), 10, "the end of its child")


# The load generator, against a server that sends what it is told to


class Streams:
    """Accepts viewers, reads what they ask, and lets the test write to them."""

    HELLO = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: hello\ndata: {}\n\n"

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self.listener.getsockname()[1]
        self.viewers: list[socket.socket] = []

    def accept(self, count: int, answer: bytes = HELLO) -> None:
        for _ in range(count):
            viewer, _ = self.listener.accept()
            while b"\r\n\r\n" not in viewer.recv(4096):
                pass
            viewer.sendall(answer)
            self.viewers.append(viewer)

    def close(self) -> None:
        for sock in (self.listener, *self.viewers):
            sock.close()


def value(number: int, written: int = 1, end: bytes = b"\n") -> bytes:
    return b"data: @%d:%d@xxx" % (written, number) + 2 * end


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    if not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("no C compiler")
    return Bench(tmp_path_factory.mktemp("bench"), allow_files(), small=True)


@contextlib.contextmanager
def watched(
    bench: Bench, viewers: int, answer: bytes = Streams.HELLO, **options: Any
) -> Iterator[tuple[Streams, Load]]:
    """A server by hand with so many viewers of the load generator."""
    with contextlib.closing(Streams()) as streams:
        thread = threading.Thread(target=streams.accept, args=(viewers, answer))
        thread.start()
        server = Server(streams.port, 0, None)  # type: ignore[arg-type]
        with load(bench.load, server, viewers, **options) as held:
            thread.join()
            yield streams, held


def seen(held: Load, **wanted: int) -> dict[str, Any]:
    """The report, once it says that."""
    wait_until(lambda: held.report().items() >= wanted.items(), 10, f"{wanted} in {held.report()}")
    return held.report()


@pytest.mark.server
def test_values_are_counted_at_each_viewer(bench: Bench) -> None:
    with watched(bench, 3) as (streams, held):
        assert (held.ready["ready"], held.ready["errors"]) == (3, 0)
        held.mark()
        for viewer in streams.viewers:
            viewer.sendall(value(1) + value(2))
        assert seen(held, tokens=6, blocks=6) | {"last": 2, "least": 2, "most": 2} == held.report()


@pytest.mark.server
def test_the_last_value_is_that_of_the_viewer_that_is_furthest_behind(bench: Bench) -> None:
    with watched(bench, 2) as (streams, held):
        held.mark()
        streams.viewers[0].sendall(value(1) + value(9))
        streams.viewers[1].sendall(value(4))
        report = seen(held, tokens=3)
        assert (report["last"], report["least"], report["most"]) == (4, 1, 2)


@pytest.mark.server
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("chunked", [False, True])
def test_blocks_are_counted_alike_however_they_are_framed_and_split(
    bench: Bench, end: bytes, chunked: bool
) -> None:
    with watched(bench, 1) as (streams, held):
        held.mark()
        streams.viewers[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in (1, 2, 3):
            block = value(number, end=end)
            framed = b"%x\r\n" % len(block) + block + b"\r\n" if chunked else block
            for i in range(len(framed)):
                streams.viewers[0].sendall(framed[i : i + 1])
        assert seen(held, tokens=3)["blocks"] == 3


@pytest.mark.server
def test_a_mark_forgets_what_was_counted_but_not_where_viewers_are(bench: Bench) -> None:
    with watched(bench, 1) as (streams, held):
        streams.viewers[0].sendall(value(5))
        seen(held, tokens=1)
        held.mark()
        report = held.report()
        assert (report["tokens"], report["blocks"], report["bytes"], report["last"]) == (0, 0, 0, 5)


@pytest.mark.server
def test_the_age_of_a_value_is_that_when_it_was_received(bench: Bench) -> None:
    with watched(bench, 1) as (streams, held):
        # written ten seconds ago by the clock that both use: beyond the histogram, but not beyond the maximum
        streams.viewers[0].sendall(value(1, time.monotonic_ns() - 10 * 10**9))
        report = seen(held, tokens=1)
        assert report["max"] == report["behind"] >= 10_000
        assert report["p99"] >= 2000
        held.mark()
        streams.viewers[0].sendall(value(2, time.monotonic_ns() + 3600 * 10**9))  # not written yet: no age
        assert seen(held, tokens=1)["max"] == 0


@pytest.mark.server
def test_a_viewer_that_is_closed_or_refused_does_not_count_as_held(bench: Bench) -> None:
    with watched(bench, 2) as (streams, held):
        streams.viewers[0].close()
        assert seen(held, closed=1)["ready"] == 1
    with watched(bench, 2, b'HTTP/1.1 503 "No"\r\n\r\nsorry\n\n') as (_, held):
        assert (held.ready["ready"], held.ready["errors"]) == (0, 2)
        assert "503" in held.ready["error"]


@pytest.mark.server
def test_a_stalled_viewer_reads_nothing_and_is_not_waited_for(bench: Bench) -> None:
    with watched(bench, 1, stalled=1) as (streams, held):
        held.mark()
        streams.viewers[0].setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 50_000_000:
                sent += streams.viewers[0].send(value(1) * 1000)
        assert sent < 50_000_000
        assert held.report() | {"ready": 1, "tokens": 0, "bytes": 0} == held.report()


@pytest.mark.server
def test_who_is_not_held_or_has_not_the_last_value_fails_a_turn(bench: Bench) -> None:
    with watched(bench, 2) as (streams, held):

        def send_to_all(count: int, interval: float) -> int:
            for viewer in streams.viewers:
                viewer.sendall(b"".join(value(n, 10**9) for n in range(1, count + 1)))
            return count

        subject = Subject(Server(0, held.process.pid, held.process), held, 2, send_to_all)
        found = subject.turn(4, 0)
        assert (found["tokens"], found["share"], found["size"]) == (8, 1.0, len(value(1, 10**9)))
        assert found["micros"] > 0
        streams.viewers.pop().close()
        seen(held, closed=1)
        with pytest.raises(BenchError, match="only 1 of 2 viewers are left"):
            subject.turn(4, 0)


@pytest.mark.server
def test_what_was_under_way_before_a_turn_is_not_taken_for_its_own(bench: Bench) -> None:
    with watched(bench, 1) as (streams, held):

        def send_more(count: int, interval: float) -> int:
            streams.viewers[0].sendall(b"".join(value(n) for n in range(1, count + 2)))
            return count + 1

        with pytest.raises(BenchError, match="from before this turn"):
            Subject(Server(0, held.process.pid, held.process), held, 1, send_more).turn(3, 0)


@pytest.mark.server
def test_the_c_loop_sends_so_many_blocks_of_that_size_to_everyone(bench: Bench) -> None:
    with bench.reference() as c, bench.hold(c, 30) as held:
        subject = Subject(c, held, 30, looper(c))
        found = [subject.turn(5, 0.01) for _ in range(2)]
        assert [(turn["tokens"], turn["size"], turn["last"]) for turn in found] == [
            (150, BLOCK, 5),
            (150, BLOCK, 10),
        ]


@pytest.mark.server
def test_ordinary_requests_are_counted_when_they_are_answered(bench: Bench) -> None:
    answers = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno",
    ]
    for answer, good in zip(answers, (True, False), strict=True):
        served = 0
        with contextlib.closing(Streams()) as streams:

            def serve(streams: Streams = streams, answer: bytes = answer) -> None:
                nonlocal served
                with contextlib.suppress(ConnectionError):
                    streams.accept(1, answer)
                    served += 1
                    while streams.viewers[0].recv(4096):
                        streams.viewers[0].sendall(answer)
                        served += 1

            thread = threading.Thread(target=serve)
            thread.start()
            command = [bench.ask, str(streams.port), "/plain", "1", "0.2"]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            thread.join()
        found = json.loads(run.stdout)
        # the last may be on its way when time is up
        assert served - 1 <= found["answers" if good else "errors"] <= served
        assert found["errors" if good else "answers"] == 0


# The servers


@pytest.mark.server
def test_each_worker_has_a_connection_of_its_own(bench: Bench) -> None:
    with bench.hubbed(3, *hubs.KEEPING) as server, to_each(server.port, server.workers) as connections:
        for _ in range(2):
            assert [int(to.ask("GET", "/pid")) for to in connections] == list(server.workers)
        assert len({server.pid, *server.workers}) == 4
        with bench.hold(server, 20) as held:
            number = Publisher(server.port, 140, "/publish", connections).run(3, 0)
            assert held.reached(number, 20)["last"] == number


def test_values_are_published_by_each_connection_in_its_turn() -> None:
    asked: list[tuple[int, str]] = []

    class Asked:
        def __init__(self, number: int) -> None:
            self.number = number

        def ask(self, method: str, path: str, body: str) -> None:
            asked.append((self.number, f"{method} {path}"))
            assert len(body) == 140

    Publisher(0, 140, "/stamped", [Asked(1), Asked(2)]).run(3, 0)  # type: ignore[list-item]
    assert asked == [(1, "POST /stamped"), (2, "POST /stamped"), (1, "POST /stamped")]


@pytest.mark.server
def test_the_time_in_a_value_is_that_of_the_view_where_it_is_wanted(bench: Bench) -> None:
    with bench.ours() as server, bench.hold(server, 5) as held, contextlib.closing(Http(server.port)) as http:
        began = time.monotonic_ns()
        http.ask("POST", "/stamped", "@1:7@")
        assert 0 < seen(held, tokens=5, last=7)["max"] * 1e6 < time.monotonic_ns() - began


@pytest.mark.server
def test_a_worker_that_takes_no_connection_is_reported(bench: Bench) -> None:
    with (
        bench.ours() as server,
        pytest.raises(BenchError, match="of 2 workers, 1 take no connection"),
        to_each(server.port, [server.pid, 0], timeout=0.1),
    ):
        pass


@pytest.mark.server
def test_two_servers_of_one_app_do_not_share_their_channels(bench: Bench) -> None:
    with (
        bench.ours() as one,
        bench.ours() as other,
        bench.hold(one, 5) as held,
        bench.hold(other, 5) as beside,
    ):
        with contextlib.closing(Publisher(one.port, 140)) as publisher:
            number = publisher.publish()
        assert held.reached(number, 20)["last"] == number
        assert beside.report()["tokens"] == 0


@pytest.mark.server
def test_nginx_with_nchan_sends_blocks_of_the_same_size_to_everyone(bench: Bench) -> None:
    if nchan.found() is None:
        pytest.skip("no nginx with nchan")
    with nchan.nginx(bench) as server, bench.hold(server, 30) as held, fitted(server, held, 30) as subject:
        assert re.fullmatch(r"nginx \d+(\.\d+)+ with nchan \d+(\.\d+)+", nchan.name(server))
        turn = subject.turn(5, 0.01)
        assert (turn["tokens"], turn["workers"]) == (150, 0)
        assert abs(turn["size"] - BLOCK) <= 4
        assert turn["micros"] > 0


# The reader, and the browsers


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextlib.contextmanager
def answering(*parts: bytes) -> Iterator[int]:
    """The port of a server that answers one viewer after the other, each with one of these, and closes."""
    with contextlib.closing(Streams()) as streams:

        def serve() -> None:
            for part in parts:
                streams.accept(1, part)
                streams.viewers.pop().close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield streams.port
        thread.join()


@pytest.mark.server
def test_a_reader_has_all_of_each_response() -> None:
    body = b"5\r\n@0@@1\r\n1\r\n@\r\n0\r\n\r\n"
    with answering(HEAD + body, HEAD + body) as port:
        found = reader.read(port, "/", viewers=2)
    assert [(reading.rows(), reading.body()) for reading in found] == [([0, 1], b"@0@@1@")] * 2


def test_the_first_byte_is_that_of_the_body() -> None:
    reading = reader.Reading(asked=10.0)
    reading.take(b"HTTP/1.1 200 OK\r\n", 11.0)
    reading.take(b"\r\n", 12.0)
    assert reading.first is None
    reading.take(b"x", 13.0)
    reading.take(b"y", 14.0)
    assert (reading.first, reading.body()) == (3.0, b"xy")


@pytest.mark.parametrize("body", [b"", b"5\r\nhell", b"5\r\nhello\r\n", b"5\r\nhello\r\n0"])
def test_a_chunked_body_that_was_cut_is_not_taken_for_a_whole_one(body: bytes) -> None:
    with pytest.raises(BenchError, match="was cut"):
        reader.unchunked(body)


def test_what_is_for_browsers_without_scripts_is_not_counted_once_more() -> None:
    said = b"@0@<noscript>@0@\n</noscript>@1@<noscript>@0@@1@</noscript>"
    assert reader.Reading(0.0, parts=[b"HTTP/1.1 200 OK\r\n\r\n" + said]).rows() == [0, 1]


def test_an_answer_that_is_an_error_has_no_rows() -> None:
    with pytest.raises(BenchError, match="503"):
        reader.Reading(0.0, parts=[b"HTTP/1.1 503 Busy\r\n\r\n@0@"]).rows()


@pytest.mark.server
def test_a_template_is_compared_with_what_sends_the_same_bytes() -> None:
    with (
        gunicorn("benchmarks.apps.documents:app", *documents.WORKER) as ours,
        gunicorn("benchmarks.apps.peer_documents:app", *documents.WORKER) as peer,
    ):
        asked = [(ours, "/template"), (peer, "/template"), (peer, "/bare-template")]
        found = [reader.read(server.port, f"{path}?count=50")[0] for server, path in asked]
    assert len({reading.body() for reading in found}) == 1
    assert found[0].rows() == list(range(50))


@pytest.mark.server
def test_a_response_without_one_of_its_rows_fails_a_turn() -> None:
    answers = [b"HTTP/1.1 200 OK\r\n\r\n" + rows for rows in (b"@0@@1@@2@", b"@0@@2@", b"@0@@2@@1@")]
    with answering(*answers) as port, Process(["cat"]) as process:
        side = documents.Side("a peer", Server(port, process.pid, process), "/rows")
        found = side.turn(3)
        assert found["millis"] > 0
        assert found["micros"] >= 0
        for _ in range(2):
            with pytest.raises(BenchError, match="a peer has not sent each of 3 rows once and in order"):
                side.turn(3)


class Told:
    """A browser whose pages see what they are told to."""

    def __init__(self, *seen: dict[str, Any]) -> None:
        self.seen = list(seen)
        self.opened: list[str] = []

    def new_tab(self) -> str:
        return "tab"

    def goto(self, tab: str, url: str) -> None:
        self.opened.append(url.partition("?")[0].rpartition("/")[2])

    def ask(self, method: str, path: str) -> str:
        return json.dumps(self.seen[len(self.opened) - 1])

    def close(self) -> None:
        pass


DOCUMENT, SNIPPETS = {"shown": "@9@", "status": "ended"}, {"shown": "@9@"}


def test_what_pages_see_first_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(*2 * [DOCUMENT, DOCUMENT, SNIPPETS, SNIPPETS, SNIPPETS, SNIPPETS, DOCUMENT, DOCUMENT])
    monkeypatch.setattr(browsed, "Http", lambda port, timeout: told)
    found = browsed._turns(told, Server(1, 0, None), 2, 10)  # type: ignore[arg-type]
    assert {way: len(seen) for way, seen in found.items()} == dict.fromkeys(browsed.WAYS, 2)
    assert told.opened == [
        "loop",
        "blocks",
        *["snippets"] * 4,
        "blocks",
        "loop",
        "loop",
        "blocks",
        *["snippets"] * 2,
    ]


@pytest.mark.parametrize("seen", [{"shown": "@8@", "status": "ended"}, {"shown": "@9@", "status": "live"}])
def test_a_page_without_the_last_update_or_its_end_is_no_figure(
    seen: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(DOCUMENT, seen)
    monkeypatch.setattr(browsed, "Http", lambda port, timeout: told)
    with pytest.raises(BenchError, match="blocks: of 10 updates there is"):
        browsed._turns(told, Server(1, 0, None), 1, 10)  # type: ignore[arg-type]


# What pages show after interruptions


def appended(*numbers: int, seq: int, event: str = "patch") -> Block:
    return Block(
        event, "", [["rows", seq, [["append", "#rows", f"<li id=row-{n}>@{n}@</li>"] for n in numbers]]]
    )


def message(number: int) -> Block:
    return Block("message", "", [f"@{number}@"])


@pytest.mark.parametrize(
    ("blocks", "found"),
    [
        ([message(1), message(2), message(3)], {}),
        ([message(1), message(3)], {"lost": 1, "wrong": 1}),
        ([message(1), message(2)], {"lost": 1, "wrong": 1}),
        ([message(1), message(2), message(2), message(3)], {"doubled": 1, "wrong": 1}),
        ([message(1), message(3), message(2)], {"unordered": 1, "wrong": 1}),
        ([], {"lost": 3, "wrong": 1}),
    ],
)
def test_what_is_lost_doubled_or_out_of_order_on_a_page_is_found(
    blocks: list[Block], found: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruptions, "SETTLE", 0.0)
    page = interruptions.Shown(ours=False)
    for block in blocks:
        page.take(block)
    right = {"rows": 3, "lost": 0, "doubled": 0, "unordered": 0, "wrong": 0, "again": 0}
    assert interruptions.wrong([page], 0, 3) == right | found


def test_a_page_of_ours_knows_gaps_snapshots_and_what_it_was_served_with() -> None:
    page = interruptions.Shown(ours=True)
    page.fetched("<li id=row-1>@1@</li><li id=row-2>@2@</li>")
    page.take(appended(2, 3, seq=3))  # 2 was there before its stream was
    assert (page.rows, page.doubled) == ([1, 2, 3], 0)
    assert page.is_gap(appended(5, seq=5))
    assert not page.is_gap(appended(4, seq=4))
    page.take(appended(3, seq=4))
    assert page.doubled == 1
    page.take(appended(3, 4, seq=4, event="snapshot"))
    assert (page.rows, page.doubled) == ([1, 2, 3, 4], 1)
    page.fetched("@1@@2@@3@@4@@5@")
    assert page.rows == [1, 2, 3, 4, 5]
    assert not page.is_gap(appended(9, seq=9))


# The scenarios


@pytest.mark.server
@pytest.mark.parametrize("name", [name for name in tool.SCENARIOS if name != "browsers"])
def test_the_scenario_runs(name: str, bench: Bench) -> None:
    if name == "nchan" and nchan.found() is None:
        pytest.skip("no nginx with nchan")
    rows = list(tool.SCENARIOS[name](bench))
    expected = {
        "cpu": 3,
        "peers": 4,
        "requests": 4,
        "loops": 2,
        "hub": 6,
        "nchan": 3,
        "template": 4,
        "document": 4,
        "interruptions": 9,
    }
    assert len(rows) == expected.get(name, 1)
    for row in rows:
        assert row.measured
        assert (row.met is None) == (row.target == "")
        for turn in row.details.get("turns", []):
            assert turn["share"] == 1
            assert abs(turn["size"] - BLOCK) <= 4
            assert math.isfinite(turn["micros"])
    if name == "stalled":
        rest, block = max(rows[0].details["rests"])
        assert 0 < rest <= block
        assert streams.BIG < block < streams.BIG + 1000


@pytest.mark.server
@pytest.mark.browser
def test_updates_are_timed_in_each_browser_there_is(bench: Bench) -> None:
    try:
        rows = list(browsed.browsers(bench))
    except BenchError as error:
        if "no browser is installed" in str(error):
            pytest.skip(str(error))
        raise
    assert rows
    for row in rows:
        assert re.match(r"100 updates of one element at full speed, \w+( \d+)?$", row.what)
        ways = row.details
        for seen in itertools.chain(*ways.values()):
            assert 0 <= seen["ms"] < math.inf
        assert {seen["blocks"] for seen in ways["blocks"]} == {100}
        assert 0 < ways["loop"][0]["blocks"] <= 100
        assert ways["kept"][0]["elements"] == ways["snippets"][0]["elements"] + 100
        assert ways["loop"][0]["elements"] == ways["blocks"][0]["elements"] < 20


@pytest.mark.server
def test_a_view_that_computes_is_counted_as_computing(bench: Bench) -> None:
    with bench.ours() as server, contextlib.closing(Http(server.port)) as http:
        assert http.ask("GET", "/computing") == "0"
        with fanout._computing(server):
            assert http.ask("GET", "/computing") == "1"
        wait_until(lambda: http.ask("GET", "/computing") == "0", 10, "the view to be through")


def test_nothing_is_measured_beside_the_view_before_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    through = threading.Event()
    counts = iter("001")
    said: list[str] = []

    class Answers:
        def __init__(self, port: int) -> None:
            pass

        def ask(self, method: str, path: str) -> str:
            if path == "/computing":
                said.append(next(counts))
                return said[-1]
            through.wait(10)
            return ""

        def close(self) -> None:
            pass

    monkeypatch.setattr(fanout, "Http", Answers)
    with fanout._computing(Server(0, 0, None)):  # type: ignore[arg-type]
        assert said == ["0", "0", "1"]
        through.set()


def test_every_program_compiles_without_a_warning(bench: Bench, tmp_path: Path) -> None:
    for source in ("load.c", "send.c", "ask.c"):
        assert Path(compiled(source, tmp_path)).exists()
