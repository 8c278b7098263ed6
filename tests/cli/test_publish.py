"""``afterload publish``: what reaches the pages of an app that runs, and what is said where nothing can."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from afterload.cli import main
from afterload.hub import rendezvous
from afterload.hub.calls import Calls
from afterload.hub.frames import LONGEST
from afterload.position import Position
from tests.cli.hubs import afterload, environment, new_namespace, running, table
from tests.handover.raw import Raw
from tests.servers.process import Servers

pytestmark = pytest.mark.server

APP = "tests.servers.live_app:app"


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a hub that runs."""
    name = new_namespace()
    with running(tmp_path_factory.mktemp("hub") / "log", "--namespace", name):
        yield name


def last_entry(namespace: str, channel: str) -> list[Any]:
    """The patches of what a page of the channel is given that has seen all but the last entry."""
    calls = Calls(namespace, 20)
    try:
        head = calls.call("stats")["published"]
        steps = calls.call("answer", names=[channel], at=head - 1, rendered=False, painted=[])
    finally:
        calls.close()
    return [patch for items, _ in steps for item in items if item[0] == "patches" for patch in item[3]]


def publish(namespace: str, *arguments: str, stdin: bytes = b"") -> list[Any]:
    """Publishes; what a page is given."""
    done = afterload("publish", "--namespace", namespace, "c", *arguments, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, "")
    return last_entry(namespace, "c")


# What is published


@pytest.mark.parametrize(
    ("arguments", "wire"),
    [
        (["#x", "12"], [["text", "#x", "12"]]),
        (["#x", "<b>"], [["text", "#x", "<b>"]]),
        (["#x", ""], [["text", "#x", ""]]),
        (["#x", "-5"], [["text", "#x", "-5"]]),
        (["#x", "-5°C"], [["text", "#x", "-5°C"]]),
        (["--", "#x", "-q"], [["text", "#x", "-q"]]),
        (["#x", "1", "#y", "2"], [["text", "#x", "1"], ["text", "#y", "2"]]),
        (["--html", "#x", "<b>1</b>"], [["html", "#x", "<b>1</b>"]]),
        (["--append", "#x", "<b>"], [["append", "#x", "&lt;b&gt;"]]),
        (["--append", "--html", "#x", "<b>1</b>"], [["append", "#x", "<b>1</b>"]]),
        (["--append", "#x", "1", "--keep", "5"], [["append", "#x", "1", {"keep": 5}]]),
        (["--prepend", "--keep", "5", "#x", "1"], [["prepend", "#x", "1", {"keep": 5}]]),
        (["#x", "--attr", "href", "/page/2"], [["attr", "#x", "/page/2", {"name": "href"}]]),
        (["#x", "--html", "<b>1</b>", "#y", "2"], [["html", "#x", "<b>1</b>"], ["html", "#y", "2"]]),
        (["--class", "b", "#x", "#y"], [["class", "#x", True, {"name": "b"}], ["class", "#y", True, {"name": "b"}]]),
        (["--no-class", "hot", "#x"], [["class", "#x", False, {"name": "hot"}]]),
        (["#x", "--remove"], [["remove", "#x", None]]),
    ],
)  # fmt: skip
def test_patches_are_those_of_live_publish(namespace: str, arguments: list[str], wire: list[Any]) -> None:
    assert publish(namespace, *arguments) == wire


@pytest.mark.parametrize(
    ("stdin", "value"), [(b"a\nb\n", "a\nb"), (b"a\n\n", "a\n"), (b"", ""), ("é".encode(), "é"), (b"-", "-")]
)
def test_a_value_may_come_by_stdin(namespace: str, stdin: bytes, value: str) -> None:
    assert publish(namespace, "#x", "-", stdin=stdin) == [["text", "#x", value]]


def test_it_prints_the_position_unless_it_is_to_be_quiet(namespace: str) -> None:
    said = [afterload("publish", "c", "#x", "1", "--namespace", namespace).stdout for _ in range(2)]
    first, second = (Position.parse(text.strip()) for text in said)
    assert first is not None
    assert second is not None
    assert (second.epoch, second.offset) == (first.epoch, first.offset + 1)
    for option in ("-q", "--quiet"):
        assert afterload("publish", option, "c", "#x", "1", "--namespace", namespace).stdout == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_page_that_is_open_shows_it(servers: Servers, workers: int) -> None:
    name = new_namespace()
    server = servers.gunicorn(APP, workers=workers, env={"AFTERLOAD_NAMESPACE": name})
    with Raw(server).ask("/named/n", headers={"Accept": "text/event-stream"}) as page:
        page.until(b"event: hello")
        done = afterload("publish", "n-a", "#data", "Closed", AFTERLOAD_NAMESPACE=name)
        assert (done.returncode, done.stderr) == (0, "")
        page.until(b'["text","#data","Closed"]')
        page.until(f"\nid: {done.stdout.strip()}\n".encode())


def test_the_only_hub_of_this_user_needs_no_name(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AFTERLOAD_NAMESPACE", raising=False)
    me = os.geteuid()
    monkeypatch.setattr(rendezvous, "_TABLE", table(tmp_path / "unix", (me, namespace), (me + 1, "theirs")))
    assert main(["publish", "c", "#x", "only"]) == 0
    assert last_entry(namespace, "c") == [["text", "#x", "only"]]
    assert capsys.readouterr().err == ""


def test_of_several_hubs_one_has_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AFTERLOAD_NAMESPACE", raising=False)
    me = os.geteuid()
    monkeypatch.setattr(rendezvous, "_TABLE", table(tmp_path / "unix", (me, "one"), (me, "two")))
    assert main(["publish", "c", "#x", "1"]) == 2
    assert capsys.readouterr() == (
        "", "afterload publish: which app? Say --namespace with one of these: one, two\n"
    )  # fmt: skip


# Where nothing can be


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["c", "x", "1"], "text of 'x': a target is '#' and an element's id, without spaces, not 'x'"),
        (["c", "#x", "\udc80"], "text of '#x': the text has a lone surrogate"),
        (["", "#x", "1"], "a channel's name is a str of 1 to 200 characters and not '~': ''"),
        (["c", "#x", "1", "--append", "--keep", "0"], "append of '#x': keep is a number from 1, not 0"),
        (
            ["c", "#x", "javascript:1", "--attr", "href"],
            "attr of '#x': a URL in 'href' is relative, http or https",
        ),
        (["c", "#x", "1", "--attr", "onclick"], "attr of '#x': 'onclick' would run script, and is refused"),
        (["c", "#x", "--class", "a b"], "class of '#x': a class is a name without spaces, not 'a b'"),
        (["c", "#x"], "'#x' has no value: each target has one behind it"),
        (["c", "#x", "1", "#y"], "'#y' has no value: each target has one behind it"),
        (["c", "#x", "1", "--keep", "5"], "--keep goes with --append or --prepend"),
        (["c", "#x", "--remove", "--html"], "--html goes with values, and there are none"),
        (["c", "#x", "--remove", "--append"], "argument --append: not allowed with argument --remove"),
        (["c", "#x", "1", "--append", "--keep", "many"], "argument --keep: invalid int value: 'many'"),
        (["c"], "the following arguments are required: TARGET VALUE"),
        (["c", "#x", "1", "--nope"], "unrecognized arguments: --nope"),
        (["c", "#x", "1", "-x"], "unrecognized arguments: -x"),
    ],
)
def test_a_mistake_is_explained(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["publish", "--namespace", new_namespace(), *arguments])
    except SystemExit as ended:
        status = int(ended.code or 0)
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert said in err


def test_what_comes_by_stdin_has_to_be_text(namespace: str) -> None:
    done = afterload("publish", "c", "#x", "-", "--namespace", namespace, stdin=b"\xff")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("afterload publish: what comes by stdin is no UTF-8: ")


def test_where_no_hub_runs_it_is_said(namespace: str) -> None:
    other = new_namespace()
    done = afterload("publish", "c", "#x", "1", "--namespace", other)
    assert (done.returncode, done.stdout) == (1, "")
    said = rf"afterload publish: no hub of namespace '{other}' runs: no page follows; those that run: (.*)\n"
    found = re.fullmatch(said, done.stderr)
    assert found is not None
    assert namespace in found[1].split(", ")


def test_where_none_runs_at_all_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AFTERLOAD_NAMESPACE", raising=False)
    me = os.geteuid()
    monkeypatch.setattr(rendezvous, "_TABLE", table(tmp_path / "unix", (me + 1, "shop")))
    assert main(["publish", "c", "#x", "1"]) == 1
    assert "runs: no page follows; others have hubs: 'shop'" in capsys.readouterr().err
    assert main(["publish", "c", "#x", "1", "--namespace", "shop"]) == 1
    assert capsys.readouterr().err == (
        f"afterload publish: the hub of namespace 'shop' is of user {me + 1}, and this process is of user {me}: "
        "run it as the same user\n"
    )


def test_a_hub_that_does_not_answer_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = new_namespace()
    with running(tmp_path / "log", "--namespace", name) as hub:
        hub.process.send_signal(signal.SIGSTOP)
        done = afterload("publish", "c", "#x", "1", "--namespace", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"afterload publish: the hub of namespace '{name}' does not answer (")


def test_ctrl_c_ends_it_without_a_word_more(tmp_path: Path) -> None:
    name = new_namespace()
    listener = rendezvous.bind(name)
    assert listener is not None
    with listener:
        listener.setblocking(True)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "afterload.cli", "publish", "c", "#x", "1", "--namespace", name],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # else as we have it, ignored behind `&`
        )  # fmt: skip
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=20) == (b"", b"")
    assert process.returncode == 128 + signal.SIGINT


def test_what_is_too_long_is_refused_and_the_hub_goes_on(namespace: str) -> None:
    done = afterload("publish", "c", "#x", "-", "--namespace", namespace, stdin=b"x" * LONGEST)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("afterload publish: 16,")
    done = afterload("publish", "c", "#x", "-", "--namespace", namespace, stdin=b"x" * (LONGEST + 1))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"afterload publish: what comes by stdin is longer than {LONGEST:,} bytes\n"
    assert publish(namespace, "#x", "short") == [["text", "#x", "short"]]
