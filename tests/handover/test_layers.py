"""The search behind what wraps start_response: it finds what Python keeps, is bounded, and calls nothing."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import flask
import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.local import LocalProxy

from afterload.handover.layers import layers, name_of


def own(status: str, headers: Any, exc_info: Any = None) -> Any:
    raise AssertionError("nothing is called by looking")


def tracker(inner: Any, span: Any, status: str, headers: Any) -> Any:
    return inner(status, headers)


def in_closure(inner: Any) -> Any:
    def start(*args: Any) -> Any:
        return inner(*args)

    return start


class WithAttribute:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, *args: Any) -> Any:
        return self.inner(*args)


class WithSlot:
    __slots__ = ("empty", "inner")

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, *args: Any) -> Any:
        return self.inner(*args)


class Holder:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def start(self, *args: Any) -> Any:
        return self.inner(*args)


def as_default(inner: Any) -> Any:
    return lambda status, headers, exc_info=None, inner=inner: inner(status, headers)


def as_keyword_default(inner: Any) -> Any:
    return lambda *args, inner=inner: inner(*args)


def as_wrapped(inner: Any) -> Any:
    def start(*args: Any) -> Any:
        raise AssertionError

    start.__wrapped__ = inner  # type: ignore[attr-defined]
    return start


WRAPPERS: list[Callable[[Any], Any]] = [
    lambda inner: functools.partial(tracker, inner, None),
    lambda inner: functools.partial(tracker, inner=inner, span=None),
    lambda inner: functools.partial(inner, "200 OK"),
    in_closure,
    WithAttribute,
    WithSlot,
    lambda inner: Holder(inner).start,
    as_default,
    as_keyword_default,
    as_wrapped,
    functools.lru_cache,
]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_what_a_wrapper_keeps_is_found(wrap):
    assert next(layers(own)) is own
    found = list(layers(wrap(own)))
    assert found[0] is not own
    assert any(layer is own for layer in found)


@given(st.lists(st.sampled_from(WRAPPERS), max_size=5))
def test_it_is_found_behind_any_five_of_them(wraps):
    start = own
    for wrap in wraps:
        start = wrap(start)
    assert any(layer is own for layer in layers(start))


def test_the_nearest_comes_first_and_each_comes_once():
    inner = WithAttribute(own)
    middle = WithAttribute(inner)
    both = functools.partial(WithAttribute(middle), inner, middle)
    found = list(layers(both))
    assert [layer for layer in found if layer in (inner, middle, own)] == [inner, middle, own]
    assert len({id(layer) for layer in found}) == len(found)


def test_what_goes_round_in_a_circle_ends():
    first, second = WithAttribute(None), WithAttribute(None)
    first.inner, second.inner = second, first
    assert list(layers(first)) == [first, second]


def test_an_application_with_thousands_of_objects_is_not_searched():
    many = WithAttribute(own)
    for i in range(5_000):
        setattr(many, f"view_{i}", in_closure(i))
    assert len(list(layers(many))) == 256

    deep: Any = own
    for _ in range(40):
        deep = in_closure(deep)
    assert own not in list(layers(deep))
    assert len(list(layers(deep))) == 17


def test_nothing_of_the_applications_is_called_or_asked():
    touched: list[str] = []

    class Eager:
        """Does things when it is asked for an attribute, for its class, or how it compares."""

        def __init__(self) -> None:
            vars(self)["inner"] = own

        def __getattribute__(self, name: str) -> Any:
            touched.append(name)
            return object.__getattribute__(self, name)

        @property
        def asked(self) -> Any:
            touched.append("asked")
            raise RuntimeError

        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            touched.append("class")
            raise RuntimeError

        def __eq__(self, other: object) -> bool:
            touched.append("eq")
            raise RuntimeError

        def __bool__(self) -> bool:
            touched.append("bool")
            raise RuntimeError

        __hash__ = None  # type: ignore[assignment]

        def __call__(self) -> None:
            touched.append("call")

    eager = Eager()
    touched.clear()
    found = list(layers(functools.partial(tracker, eager, LocalProxy(lambda: touched.append("proxy")))))
    assert any(layer is own for layer in found)
    assert any(layer is eager for layer in found)
    assert touched == []
    name_of(eager)
    assert touched == []


def test_the_proxies_of_flask_are_passed_by_outside_of_a_request():
    found = list(layers(functools.partial(tracker, flask.request, flask.current_app, own)))
    assert any(layer is own for layer in found)


def test_cells_and_slots_that_are_empty_are_passed_by():
    def make() -> Any:
        def start() -> Any:
            return later, inner

        inner = own
        if not inner:
            later = 1
        return start

    assert any(layer is own for layer in layers(make()))
    assert list(layers(WithSlot.__new__(WithSlot)))[1:] == []


def test_an_attribute_that_another_thread_adds_meanwhile_is_no_error():
    wrapper = WithAttribute(own)
    looking = layers(wrapper)
    assert next(looking) is wrapper
    for i in range(50):
        setattr(wrapper, f"later_{i}", in_closure(i))
        next(looking, None)
    list(looking)


@pytest.mark.parametrize(
    ("wrapper", "name"),
    [
        (own, "tests.handover.test_layers.own"),
        (functools.partial(tracker, own), "a partial of tests.handover.test_layers.tracker"),
        (WithSlot(own), "a tests.handover.test_layers.WithSlot"),
        (Holder(own).start, "a method of a tests.handover.test_layers.Holder"),
        (weakref.proxy(own), "a weakref.CallableProxyType"),
    ],
)
def test_a_wrapper_has_a_name_for_the_log(wrapper, name):
    assert name_of(wrapper) == name


def test_a_flask_app_that_is_met_on_the_way_costs_no_more_than_the_bound():
    app = flask.Flask("site")
    for i in range(500):
        app.add_url_rule(f"/{i}", f"view_{i}", in_closure(i))
    found = list(layers(functools.partial(tracker, app, app.wsgi_app, own)))
    assert any(layer is own for layer in found)
    assert len(found) <= 256
