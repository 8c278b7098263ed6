"""What an app can tune, and that each mistake is named."""

from __future__ import annotations

import copy
import math
import pickle
import re
from dataclasses import FrozenInstanceError, fields
from enum import IntEnum
from typing import Any

import pytest

from afterload import SettingError
from afterload.settings import LONGEST, Settings, checked

NUMBERS = [field.name for field in fields(Settings) if type(field.default) in (int, float)]
FLOATS = [field.name for field in fields(Settings) if type(field.default) is float]
INTS = [field.name for field in fields(Settings) if type(field.default) is int]


class Level(IntEnum):
    HIGH = 600


def test_every_default_is_within_its_own_range() -> None:
    settings = Settings()
    for field in fields(Settings):
        assert checked(field.name, field.default, type(field.default)) == getattr(settings, field.name)


def test_every_setting_is_described() -> None:
    described = re.findall(r"^        (\w+): \S", Settings.__doc__ or "", re.MULTILINE)
    assert described == [field.name for field in fields(Settings)]


def test_given_settings_stand_in_place_of_the_others_which_stay() -> None:
    settings = Settings().updated({"linger": 3, "stall": 9})
    assert (settings.linger, settings.stall) == (3.0, 9.0)
    assert settings.updated({"retry": 700}) == Settings(linger=3, stall=9, retry=700)
    assert Settings().linger == 15.0


def test_a_whole_number_is_a_duration_and_becomes_a_float() -> None:
    for name in FLOATS:
        value = getattr(Settings().updated({name: 7}), name)
        assert (type(value), value) == (float, 7.0)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, False, "5", b"5", None, [5], 5j])
def test_what_is_no_number_is_refused_by_the_name_of_the_setting(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"'{name}' is a .*number, not {re.escape(repr(value))}"):
        Settings().updated({name: value})


@pytest.mark.parametrize("name", INTS)
@pytest.mark.parametrize("value", [600.0, Level.HIGH])
def test_a_count_is_an_int_and_nothing_like_it(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"'{name}' is a whole number"):
        Settings().updated({name: value})


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_durations_are_finite(name: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"'{name}' is a finite number, not"):
        Settings().updated({name: value})


@pytest.mark.parametrize("name", FLOATS)
def test_a_number_that_no_float_holds_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match=f"'{name}' is too large"):
        Settings().updated({name: 10**5000})


@pytest.mark.parametrize("name", NUMBERS)
def test_nothing_is_negative(name: str) -> None:
    with pytest.raises(SettingError, match=f"'{name}' is .*, not -1"):
        Settings().updated({name: -1})


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("heartbeat", 0.1),
        ("retry", 500),
        ("short_retry", 500),
        ("history", 1),
        ("state_cells", 1),
        ("max_channels_per_viewer", 1),
        ("stall", 0.1),
        ("flush_rate", 0.1),
        ("ahead_entries", 1),
        ("ahead_bytes", 1),
    ],
)
def test_what_cannot_be_0_has_a_least_value(name: str, least: float) -> None:
    assert getattr(Settings().updated({name: least}), name) == least
    below = least / 2 if name in FLOATS else int(least) - 1
    for value in (below, 0):
        with pytest.raises(SettingError, match=rf"'{name}' is {least}( or more| to [\d,]+), not {value}"):
            Settings().updated({name: value})


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("linger", LONGEST),
        ("heartbeat", 86_400.0),
        ("stall", LONGEST),
        ("flush_rate", 10_000.0),
        ("retry", 86_400_000),
        ("short_retry", 86_400_000),
    ],
)
def test_what_becomes_a_timer_has_a_greatest_value(name: str, most: float) -> None:
    assert getattr(Settings().updated({name: most}), name) == most
    with pytest.raises(SettingError, match=rf"'{name}' is [\d.]+ to {most:,.0f}, not {most + 1}"):
        Settings().updated({name: most + 1})


@pytest.mark.parametrize(
    "name", ["max_loops", "fallback_viewers", "max_viewers", "max_channels", "linger", "loop_retention"]
)
def test_what_may_be_switched_off_may_be_0(name: str) -> None:
    assert getattr(Settings().updated({name: 0}), name) == 0


@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_a_switch_is_a_bool(value: Any) -> None:
    with pytest.raises(SettingError, match="'allow_cross_site' is True or False, not"):
        Settings().updated({"allow_cross_site": value})


def test_an_unknown_setting_is_named_with_the_one_that_was_meant() -> None:
    with pytest.raises(SettingError, match=r"no setting 'lingr'; did you mean 'linger'\?"):
        Settings().updated({"lingr": 3})


def test_a_setting_that_is_like_none_is_answered_with_all_of_them() -> None:
    with pytest.raises(SettingError, match=r"no setting 'xyzzy'; there are: ahead_bytes, .*stall"):
        Settings().updated({"xyzzy": 3})


def test_settings_cannot_be_changed_behind_a_running_hub() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().linger = 3  # type: ignore[misc]


def test_settings_can_be_copied_and_pickled() -> None:
    settings = Settings(linger=3)
    assert copy.deepcopy(settings) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings
