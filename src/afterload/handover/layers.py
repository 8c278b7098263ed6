"""Finds the server's own ``start_response`` behind those that wrap it.

Error trackers and tracers stand outside the app and put a function of their own in its place: Sentry a
``functools.partial`` of it, OpenTelemetry a closure, New Relic a closure and a bound method, Datadog a partial
of bound methods. Each of them holds the next one somewhere, and that is followed here.

What is looked at is what Python itself keeps: arguments of a partial, what a method is bound to, closure cells,
defaults, attributes, slots. Nothing of the application's is called, not even a property or a
``__getattr__``: some objects do things when they are asked (a proxy of the present request, a lazy import). Whether
something found is the server's own, and of this very request, is up to the server's module: a wrapper may
well keep objects of other requests.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType
from typing import Any

__all__ = ["layers", "name_of"]

# A layer is one to three steps (a bound method, its object, an attribute). Five layers are more than anybody
# has; an application that is reached on the way holds thousands of objects, and is not to be searched.
_DEEP = 16
_MANY = 256

# `__wrapped__` of a proxy written in C, such as wrapt's.
_GETSETS = {"__dict__", "__wrapped__"}

_partial: Any = functools.partial
_dict_of_type = type.__dict__["__dict__"].__get__


def layers(start_response: object) -> Iterator[object]:
    """Yield `start_response` itself, and then the callables behind it, nearest first."""
    # Kept as well as counted: the number of an object that is gone may be another's.
    seen = {id(start_response): start_response}
    waiting = deque([(start_response, 0)])
    while waiting:
        layer, depth = waiting.popleft()
        yield layer
        if depth == _DEEP:
            continue
        for inner in _behind(layer):
            if len(seen) == _MANY:
                break
            if callable(inner) and not issubclass(type(inner), type) and id(inner) not in seen:
                seen[id(inner)] = inner
                waiting.append((inner, depth + 1))


def _behind(layer: Any) -> Iterable[object]:
    kind = type(layer)
    if kind is FunctionType:
        yield from _cells(layer)
        yield from layer.__defaults__ or ()
        yield from (layer.__kwdefaults__ or {}).values()
    elif kind is MethodType:
        yield layer.__func__
        # What it is bound to need not be callable itself.
        yield from _attributes(layer.__self__)
    elif issubclass(kind, functools.partial):
        # Asked of the class: a subclass may have made a property of them.
        yield from _partial.args.__get__(layer)
        yield from _partial.keywords.__get__(layer).values()
    yield from _attributes(layer)


def _cells(function: FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # nothing has been assigned yet
            pass


def _attributes(thing: object) -> Iterator[object]:
    """What an object holds in its dictionary and its slots; the `func` of a partial and `__wrapped__` are such."""
    for base in type(thing).__mro__:
        for name, kept in list(_dict_of_type(base).items()):
            kind = type(kept)
            of_python = kind is MemberDescriptorType or (kind is GetSetDescriptorType and name in _GETSETS)
            if not of_python:
                continue
            try:
                value = kept.__get__(thing)
            except (AttributeError, ValueError):  # an empty slot, or a proxy of nothing yet
                continue
            if name == "__dict__":
                yield from list(value.values())
            else:
                yield value


def name_of(start_response: object) -> str:
    """A name for a log; never fails, whatever it is that wraps."""
    kind = type(start_response)
    if kind is FunctionType:
        return f"{start_response.__module__}.{start_response.__qualname__}"  # type: ignore[attr-defined]
    if kind is MethodType:
        owner = type(start_response.__self__)  # type: ignore[attr-defined]
        return f"a method of a {owner.__module__}.{owner.__qualname__}"
    if kind is functools.partial:
        return f"a partial of {name_of(start_response.func)}"  # type: ignore[attr-defined]
    return f"a {kind.__module__}.{kind.__qualname__}"
