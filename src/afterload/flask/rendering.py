"""A page while its template is rendered, and what it is given to call: ``live_updates()`` and ``live_patch()``.

And what it shows of the state of its channels: `Painted`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from ..blocks import Hello
from ..errors import LoopError, PatchError
from ..log import PRIVATE, End, Patches, Step
from ..paint import Paint
from ..patch import patches, text
from ..state import ids_in
from ..wire import document

PAINTED = "afterload.painted"  # in the environ: what a request has asked the state of, by name


@dataclass(frozen=True, slots=True)
class Painted:
    """A channel whose state a request has asked for; `run` says that a loop writes it."""

    paint: Paint
    run: bool


@dataclass
class Rendering:
    """One. Not in `g`, which may outlive a request in tests.

    Attributes:
        by: the method that renders it.
        position: of a `page`, "" if it has none.
        channels: that it follows.
        scripts: what ``live_client()`` has written.
        begun: what ``live_updates()`` has written, "" until it was called.
        nonce: what that was given.
        patched: how many blocks ``live_patch()`` has written.
    """

    by: str
    position: str = ""
    channels: tuple[str, ...] = ()
    scripts: list[str] = field(default_factory=list)
    begun: str = ""
    nonce: str | None = None
    patched: int = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What is rendered meanwhile is this page."""
        token = _present.set(self)
        try:
            yield
        finally:
            _present.reset(token)

    def split(self, html: str, template: Any) -> tuple[str, str]:
        """The document before and behind its updates.

        Raises:
            LoopError: the template does not say where they begin.
        """
        if not self.begun or html.count(self.begun) != 1:
            raise LoopError(
                f"{name_of(template)!r} is no document that goes on: call {{{{ live_updates() }}}} in it, once"
            )
        before, _, behind = html.partition(self.begun)
        return before, behind

    def closing(self, message: str | None) -> str:
        """What a streamed template ends with; `message` says that it has failed."""
        if message is None and not self.begun:
            return ""  # a page that updates nothing has nobody to tell
        end = End(PRIVATE, "done" if message is None else "failed", message or "")
        return document.step(Step((end,), None)).decode() + document.COMPLETE


_present: ContextVar[Rendering | None] = ContextVar("afterload_rendering", default=None)


def follows(name: str) -> bool:
    """Whether the page that is being rendered, if there is one, goes on with what a channel shows.

    Raises:
        LoopError: it follows others.
    """
    rendering = _present.get()
    if rendering is None or rendering.by == "stream_template":
        return rendering is None
    if name not in rendering.channels:
        said = ", ".join(map(repr, rendering.channels)) or "a loop of its own"
        raise LoopError(
            f"the page follows {said}, and would show the state of {name!r} for ever as it was: name it in "
            f"live.{rendering.by}() too"
        )
    return True


def shown(painted: Iterable[Painted], html: str) -> tuple[list[str], dict[str, list[str]]]:
    """What a page shows that was made so: the channels of which it shows all, and what it lacks of the others.

    A view is expected to render what is published, from the state or otherwise. What a loop brings it cannot know.
    """
    ids = ids_in(html)
    lacking = {one.paint.channel: one.paint.unpainted(ids) if one.run else [] for one in painted}
    return [name for name, missing in lacking.items() if not missing], {n: m for n, m in lacking.items() if m}


def present(by: str, message: str) -> Rendering:
    """The page that is being rendered.

    Raises:
        LoopError: with this message; it is not rendered by one of these methods.
    """
    rendering = _present.get()
    if rendering is None or rendering.by not in by.split():
        raise LoopError(message)
    return rendering


def updates(nonce: str | None) -> Markup:
    """See `afterload.flask.Live.updates`."""
    rendering = present(
        "document stream_template",
        "live_updates() is for templates of live.document() and live.stream_template(); a page that live.page() "
        "renders has live_client()",
    )
    if rendering.begun:
        raise LoopError("live_updates() is called once in a template, before any live_patch()")
    if rendering.by == "document":
        # Replaced later. Nobody can have put it elsewhere in the page, as nobody can know it.
        rendering.begun, rendering.nonce = f"<!--{secrets.token_urlsafe(16)}-->", nonce
        return Markup(rendering.begun)  # noqa: S704 - made here
    # Nothing may be written into a template's text but by the template, so there is no heartbeat.
    hello = document.hello(Hello(channels=[PRIVATE], heartbeat=0))
    begun = document.opening(nonce) + Markup(hello.decode())  # noqa: S704 - made safe there
    rendering.begun = begun
    return begun


def patch(*things: Any) -> Markup:
    """See `afterload.flask.Live.patch`."""
    rendering = present(
        "stream_template", "live_patch() is for templates that live.stream_template() renders"
    )
    made = (text(*things),) if len(things) == 2 else patches(*things)
    if not made:
        raise PatchError("live_patch() is given nothing to patch")
    begun = Markup() if rendering.begun else updates(None)
    entry = Patches(PRIVATE, rendering.patched + 1, made, rendering.patched)
    rendering.patched += 1
    return begun + Markup(document.step(Step((entry,), None)).decode())  # noqa: S704 - made safe there


def name_of(template: Any) -> str:
    """What a template is called in messages."""
    return str(getattr(template, "name", None) or template)
