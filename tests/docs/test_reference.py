"""The reference is compared with the code: names, signatures, defaults, counters, errors and log records."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import afterload
from afterload import errors, testing
from afterload.errors import AfterloadError
from afterload.flask import Live
from afterload.hub import rendezvous
from afterload.hub.control import Control
from afterload.hub.hub import Hub
from afterload.jobs import Job
from afterload.paint import Paint
from afterload.settings import Settings
from tests.docs.markdown import ROOT, documents, fences, headings, prose, rows

REFERENCE = ROOT / "docs" / "reference"
TROUBLE = ROOT / "docs" / "how-to" / "troubleshooting.md"
SOURCES = sorted((ROOT / "src" / "afterload").rglob("*.py"))

#: What an adapter for another framework calls, and what stands behind `live_client()`.
FOR_ADAPTERS = {
    "adopt", "attend", "cancel_job", "client", "connect", "connect_document", "connect_text", "find_gone", "follow",
    "hub", "is_elsewhere", "standing",
    "is_over", "leave", "loops", "meeting", "patch", "restart", "sent_away", "serve", "step_context", "updates",
}  # fmt: skip


def signature(function: Any) -> str:
    """Its parameters as a reader would write them: without annotations, `self` and the mark ``/``."""
    found = inspect.signature(function)
    kinds = inspect.Parameter
    parameters = [
        p.replace(
            annotation=kinds.empty,
            kind=kinds.POSITIONAL_OR_KEYWORD if p.kind is kinds.POSITIONAL_ONLY else p.kind,
        )
        for p in found.parameters.values()
        if p.name != "self"
    ]
    text = str(found.replace(parameters=parameters, return_annotation=found.empty))
    return text.replace("'", '"')


def documented(path: Path) -> dict[str, str]:
    """The signatures in a document's headings, by their names."""
    found = (re.fullmatch(r"`(?:\{\{ )?([\w.]+)(\(.*\))?(?: \}\})?`", heading) for heading in headings(path))
    return {match[1]: match[2] or "" for match in found if match}


# Settings


def test_the_table_of_settings_is_that_of_the_code() -> None:
    table = [row for row in rows(REFERENCE / "settings.md") if row[0].startswith("`")]
    shown = [(row[0].strip("`"), row[1].strip("`").replace('"', "'")) for row in table]
    assert shown == [(field.name, repr(field.default)) for field in dataclasses.fields(Settings)]


def test_every_setting_has_a_unit_and_a_description() -> None:
    table = [row for row in rows(REFERENCE / "settings.md") if row[0].startswith("`")]
    assert [row[0] for row in table if len(row) != 4 or not row[2] or len(row[3]) < 20] == []


def test_every_setting_is_read_somewhere() -> None:
    code = "\n".join(path.read_text() for path in SOURCES if path.name != "settings.py")
    unused = {f.name for f in dataclasses.fields(Settings) if not re.search(rf"\.{f.name}\b", code)}
    assert unused == set()


# Patches


def test_every_function_that_makes_a_patch_is_documented_with_its_signature() -> None:
    functions = {name: getattr(afterload, name) for name in afterload.__all__}
    expected = {name: signature(f) for name, f in functions.items() if inspect.isfunction(f)}
    expected["Patch"] = signature(afterload.Patch)
    assert documented(REFERENCE / "patches.md") == expected


# The API


def test_every_public_method_is_documented_with_its_signature() -> None:
    shown = {
        name.removeprefix("live."): parameters
        for name, parameters in documented(REFERENCE / "api.md").items()
        if name.startswith("live.")
    }
    app_live = Live(Flask("reference"))
    public = {name for name in dir(app_live) if not name.startswith("_")} - FOR_ADAPTERS
    expected = {
        name: signature(getattr(Live, name)) if callable(getattr(Live, name, None)) else ""
        for name in public
    }  # fmt: skip
    expected["loop"] = (
        "(function=None, *, name=None, linger=None)"  # of the implementation behind the overloads
    )
    assert signature(Live.loop) == expected["loop"]
    assert shown == expected


def test_the_template_function_and_the_constructor_are_documented_with_their_signatures() -> None:
    shown = documented(REFERENCE / "api.md")
    assert shown["live_client"] == signature(Live.client)
    assert shown["live_updates"] == signature(Live.updates)
    assert shown["live_patch"] == signature(Live.patch)
    assert shown["live_state"] == signature(Live.state)
    assert shown["Live"] == signature(Live.__init__)


def test_what_a_job_has_is_documented_with_its_signatures() -> None:
    shown = {
        name.removeprefix("job."): parameters
        for name, parameters in documented(REFERENCE / "api.md").items()
        if name.startswith("job.")
    }
    live = Live(Flask("job"))
    public = {name for name in dir(Job("id", live)) if not name.startswith("_")} - {"gone"}
    methods = {name: signature(getattr(Job, name)) for name in public if callable(getattr(Job, name, None))}
    assert shown == {name: methods.get(name, "").replace('<class "str">', "str") for name in public}


def test_what_a_state_has_is_documented_with_its_signatures() -> None:
    shown = {
        name.removeprefix("state."): parameters
        for name, parameters in documented(REFERENCE / "api.md").items()
        if name.startswith("state.")
    }
    public = {name for name in vars(Paint) if not name.startswith("_")} - {"is_touched", "looks", "unpainted"}
    assert shown == {name: signature(getattr(Paint, name)) for name in public}


def test_what_a_shared_loop_has_is_documented() -> None:
    def count() -> Iterator[Any]:
        yield None

    made = Live(Flask("shared")).loop(count)
    said = prose(REFERENCE / "api.md")
    methods = {name for name in dir(made) if name[0] != "_" and inspect.ismethod(getattr(made, name))}
    assert methods
    assert [name for name in methods if f"`{name}()`" not in said] == []


def test_what_is_for_tests_is_documented_with_its_signatures() -> None:
    path = ROOT / "docs" / "how-to" / "testing.md"
    public = {name: getattr(testing, name) for name in testing.__all__ if name != "Block"}
    assert documented(path) == {name: signature(found) for name, found in public.items()}
    shown = " ".join(row[0] for row in rows(path))
    fields = [*dataclasses.fields(testing.Block), *dataclasses.fields(testing.Fault)]
    proxy = [name for name in dir(testing.FaultProxy) if not name.startswith("_") and name != "close"]
    names = [f.name for f in fields] + [
        name for name in proxy if not callable(getattr(testing.FaultProxy, name))
    ]
    assert [name for name in names if f"`{name}`" not in shown] == []
    assert [name for name in proxy if f"`{name}" not in shown] == []


# Counters


def test_every_number_in_stats_is_documented_and_no_other() -> None:
    table = [row[0] for row in rows(REFERENCE / "api.md")]
    shown = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    arguments = {"template", "context", "sources", "into", "restart", "away", "owner"}
    app_live = Live(Flask("stats"))
    app_live.publish("a", "b")
    stats = app_live.stats()
    stats |= _of_processes(app_live.hub)
    app_live.close()
    said = prose(REFERENCE / "api.md")
    assert [name for name in stats["channels"]["a"] if f"`{name}`" not in said] == []
    inner = {*stats["channels"]["a"], "seconds"} - set(stats)
    assert shown - arguments - inner == set(stats) | {"own"} | counters()


def _of_processes(hub: Hub) -> dict[str, Any]:
    """What a hub says that other processes can reach."""
    namespace = f"test-reference-{os.getpid()}"
    listener = rendezvous.bind(namespace)
    assert listener is not None
    return Control(hub, listener, namespace, "thread").stats()


def counters() -> set[str]:
    """The names of all counters in the source."""
    found: set[str] = set()
    for path in SOURCES:
        text = path.read_text()
        found |= set(re.findall(r'counters\["(\w+)"\]', text)) | set(re.findall(r'\bcount\("(\w+)"\)', text))
        for said in (
            r'self\._(?:drop|send_away|send_all_away)\(\w+, "(\w+)"',
            r'\.closing\b.* = (?:viewer\.closing or )?"(\w+)"',
        ):
            found |= {f"ended_{reason}" for reason in re.findall(said, text)}
    causes = {"state", "snapshot", "refresh"}  # of afterload.log.Answer
    assert all(f'"{cause}"' in (ROOT / "src/afterload/log.py").read_text() for cause in causes)
    return found | {f"answers_{cause}" for cause in causes}


# Errors


def test_every_error_is_in_the_tree_and_in_the_table() -> None:
    [tree] = [fence.text for fence in fences(REFERENCE / "errors.md") if fence.language == "text"]
    assert errors.__doc__ is not None
    assert tree.strip() in inspect.cleandoc(errors.__doc__).replace("\n    ", "\n")
    table = {row[0].strip("`"): row for row in rows(REFERENCE / "errors.md")[1:]}
    defined = {
        cls.__name__: cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and cls.__module__ == errors.__name__
    }
    assert set(table) == set(defined)
    for error, cls in defined.items():
        attributes = re.findall(r"^    (\w+): ", inspect.getdoc(cls) or "", re.M)
        assert set(re.findall(r"`(\w+)`", table[error][2])) == set(attributes), error


def test_what_a_hub_error_says_is_what_is_raised() -> None:
    texts = {
        "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        for path in SOURCES
        if path.parent.name == "hub"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr)
    }
    shown = re.findall(r"^- `([^`]+)`: ", prose(REFERENCE / "errors.md"), re.M)
    assert len(shown) == 5
    assert [message for message in shown if not any(_says(message, text) for text in texts)] == []


# Troubleshooting


def _records() -> Iterator[tuple[str, str]]:
    """Level and message of each log record in the source; ``…`` for what is filled in."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func.value).endswith("logger")
                and node.func.attr in {"debug", "info", "warning", "error", "exception"}
            ):
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: no plain text"
                level = node.func.attr.replace("exception", "error").upper()
                yield level, re.sub(r"%(?:\.\d)?[rsdfg]", "…", node.args[0].value)


def _says(shown: str, message: str) -> bool:
    shown = shown.replace("'…'", "…")
    return shown == message or (shown.endswith("…") and message.startswith(shown[:-1]))


def test_every_log_record_is_explained_and_no_other() -> None:
    cells = (re.fullmatch(r"(DEBUG|INFO|WARNING|ERROR) `(.+)`", row[0]) for row in rows(TROUBLE))
    shown = [(match[1], match[2]) for match in cells if match]
    records = set(_records())
    unexplained = [
        r for r in records if not any(level == r[0] and _says(text, r[1]) for level, text in shown)
    ]
    outdated = [s for s in shown if not any(level == s[0] and _says(s[1], text) for level, text in records)]
    assert (unexplained, outdated) == ([], [])


def test_every_logger_that_is_named_is_one() -> None:
    named = {name for path in documents() for name in re.findall(r"logger\s+`([\w.]+)`", prose(path))}
    code = "\n".join(path.read_text() for path in SOURCES)
    assert named - set(re.findall(r'getLogger\("([\w.]+)"\)', code)) == set()
    assert "afterload.viewer" in named


def _mistakes() -> list[Callable[[], object]]:
    made = Live(Flask("mistakes"))

    def spin() -> Iterator[Any]:
        yield None

    return [
        lambda: made.follow((spin,)),
        made.client,
        lambda: made.follow((spin(), "orders")),
        lambda: afterload.text("#rows", []),
        lambda: afterload.text("rows", "x"),
        lambda: Live(lingr=3),
    ]


def test_the_errors_that_are_explained_are_those_that_are_raised() -> None:
    raised = []
    for mistake in _mistakes():
        with pytest.raises(AfterloadError) as caught:
            mistake()
        raised.append(f"{type(caught.value).__name__}: {caught.value}")
    shown = [m[1] for row in rows(TROUBLE) if (m := re.match(r"`(\w+Error: .+?)`$", row[0]))]
    assert len(shown) == len(raised)
    assert [
        text for text in shown if not any(_says(text.replace(" …", "…"), message) for message in raised)
    ] == []
