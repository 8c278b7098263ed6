"""One root, evidence in attributes, and messages that cannot forge a line of a log."""

from __future__ import annotations

import pickle
import re

import pytest

from afterload import errors
from afterload.errors import (
    AfterloadError,
    HubError,
    JobError,
    LoopError,
    PatchError,
    PositionError,
    SettingError,
    WireError,
)

BUILTIN = {
    PatchError: ValueError,
    PositionError: ValueError,
    WireError: ValueError,
    SettingError: ValueError,
    LoopError: RuntimeError,
    JobError: LookupError,
    HubError: RuntimeError,
}


def test_all_errors_have_one_root_and_are_drawn_in_the_tree() -> None:
    found = {e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)}
    assert found == {AfterloadError, *BUILTIN}
    assert errors.__doc__ is not None
    for error in found:
        assert error.__name__ in errors.__doc__


@pytest.mark.parametrize(("error", "builtin"), BUILTIN.items())
def test_an_error_is_also_the_builtin_that_fits(
    error: type[AfterloadError], builtin: type[Exception]
) -> None:
    assert issubclass(error, builtin)
    assert re.search(rf"{error.__name__} +\({builtin.__name__}\)", errors.__doc__ or "")


def test_evidence_is_kept_in_attributes() -> None:
    patch = PatchError("no", action="text", target="#a", value=[1])
    assert (patch.action, patch.target, patch.value, str(patch)) == ("text", "#a", [1], "no")
    assert (PatchError("no").action, PatchError("no").target, PatchError("no").value) == ("", "", None)
    wire = WireError("no", field="id", value="\n")
    assert (wire.field, wire.value) == ("id", "\n")
    position = PositionError("?", "it is none")
    assert (position.text, position.why) == ("?", "it is none")
    assert str(position) == "not a position: '?': it is none"


def test_a_position_from_outside_cannot_begin_a_line_of_a_log() -> None:
    message = str(PositionError("e.1\r\nERROR forged \x1b[31m\u2028", "malformed"))
    assert message.isprintable()


def test_a_long_position_is_not_logged_whole() -> None:
    assert len(str(PositionError("x" * 100_000, "too long"))) < 250


@pytest.mark.parametrize(
    "error",
    [
        PatchError("no", action="text", target="#a", value=1),
        PositionError("?", "it is none"),
        WireError("no", field="id", value="\n"),
        SettingError("no"),
        LoopError("no"),
    ],
)
def test_errors_survive_pickling(error: AfterloadError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
