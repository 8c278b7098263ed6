"""Templates that are rendered while they are sent, in a thread of their own and in the contexts of their request.

Flask ends a request's contexts when its view is through: the functions of ``teardown_request`` and
``teardown_appcontext`` run, and a database session that they close is gone. A streamed template is rendered after
that. So when the response is sent off, `Carried.carry` has Flask leave them out for this request, and gives the
thread contexts with the same ``request``, ``session`` and ``g``: with the end of those they run, once.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from typing import Any

from flask import Flask, before_render_template, current_app, template_rendered
from flask.globals import app_ctx, request_ctx
from jinja2.environment import TemplateStream

from ..runs import FAILED
from .rendering import Rendering

# Whatever was open when the template failed is closed first, so that what is said is seen: a comment, a tag's
# attribute, elements whose content is no markup, and those that show none of it.
_OUT = (
    "<!-- '\"--></script></style></textarea></title></noscript></template></iframe></option></select>"
    "</button></table>"
)


class Carried:
    """Requests whose contexts go on in another thread.

    Args:
        app: the app; its ``do_teardown_request`` and ``do_teardown_appcontext`` are wrapped.
    """

    def __init__(self, app: Flask) -> None:
        self._contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        for name in ("do_teardown_request", "do_teardown_appcontext"):
            setattr(app, name, self._unless_carried(getattr(app, name)))

    def _unless_carried(self, teardown: Callable[..., None]) -> Callable[..., None]:
        contexts = self._contexts

        def unless_carried(*args: Any, **kwargs: Any) -> None:
            if _present(app_ctx) not in contexts:
                teardown(*args, **kwargs)

        return unless_carried

    def carry(self) -> AbstractContextManager[None]:
        """The contexts of the present request, to be entered once, in any thread; their teardown is put off."""
        of_app, of_request = _present(app_ctx), _present(request_ctx)
        app = of_app.app.app_context()
        app.g = of_app.g
        request = of_request.copy()
        request.flashes = of_request.flashes
        self._contexts.add(of_app)
        # Flask would close the files that were sent with the request.
        request.request.close = lambda: None

        @contextmanager
        def entered() -> Iterator[None]:
            del request.request.close
            with app, request:
                yield

        return entered()


def _present(proxy: Any) -> Any:
    return proxy._get_current_object()


def within(contexts: AbstractContextManager[None], source: Iterator[str]) -> Iterator[str]:
    """A generator in contexts that are entered with its first step, and left with its end."""
    with contexts:
        yield from source


def generate(
    template: Any,
    context: dict[str, Any],
    buffering: int | None,
    rendering: Rendering,
) -> Iterator[str]:
    """A template's text in pieces, as they are rendered.

    Args:
        template: as of `flask.render_template`.
        context: for the template.
        buffering: how many pieces are joined, or None.
        rendering: the page, for what the template calls.

    Returns:
        A generator that has not begun: it is to be stepped in the contexts of the request. What can be looked up
        already is, so that a template that is not there is an error in the view.
    """
    app = _present(current_app)
    found = app.jinja_env.get_or_select_template(template)
    app.update_template_context(context)
    before_render_template.send(app, _async_wrapper=app.ensure_sync, template=found, context=context)

    def pieces() -> Iterator[str]:
        with ExitStack() as stack:
            stack.enter_context(rendering.entered())
            # an event loop, where there is something for it
            runner = cache(lambda: stack.enter_context(asyncio.Runner()))
            try:
                rendered = TemplateStream(_rendered(found, context, runner))
                if buffering is not None:
                    rendered.enable_buffering(buffering)
                for piece in rendered:
                    if piece:
                        yield piece
            except Exception:
                yield f'{_OUT}<p id="af-failed" role="alert">{FAILED}</p>{rendering.closing(FAILED)}'
                raise
            template_rendered.send(app, _async_wrapper=app.ensure_sync, template=found, context=context)
            if mark := rendering.closing(None):
                yield mark

    return pieces()


def _rendered(template: Any, context: dict[str, Any], runner: Callable[[], asyncio.Runner]) -> Iterator[str]:
    if template.environment.is_async:
        return _stepped(template.generate_async(context), runner)
    iterable = {
        name: _stepped(value, runner) if inspect.isasyncgen(value) else value
        for name, value in context.items()
    }
    generated: Iterator[str] = template.generate(iterable)
    return generated


def _stepped(source: AsyncIterator[Any], runner: Callable[[], asyncio.Runner]) -> Iterator[Any]:
    """An async generator as a generator, stepped on the event loop of this thread."""

    async def step() -> Any:
        return await anext(source)

    async def close() -> None:
        aclose = getattr(source, "aclose", None)
        if aclose is not None:
            await aclose()

    try:
        while True:
            try:
                yield runner().run(step())
            except StopAsyncIteration:
                return
    finally:
        runner().run(close())
