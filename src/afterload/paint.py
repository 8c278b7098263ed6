"""What a channel has brought to a page, as content for the template that the page is made from.

A page is served at a position, `at`, that was taken before anything was read for it; the state is read a moment later.
What was added in between comes to the page by its stream as well, so that it must not be painted, or a row would stand
there twice. What was *set* in between may be: it is set again. So of each element

- content that was set after `at` is shown with all that was added to it;
- else the content, or what the page has there itself (the default), and what was added to it up to `at`.

Patches of elements inside of that content (a row that was removed, a name in it that was changed) are applied to it
(`afterload.content`).

Whether a page shows *all* that is up to `at`, so that nothing of it needs to be sent, is known when it is made, by
`Paint.unpainted`: each patch was painted, or is sent in any case (`State.fresh`), or is for something that the page has
not got. A patch that looks at the page itself, `remove` of something that the template made, cannot be painted.

Pure, as the state is. tests/test_paint.py holds it to the document model, at every seam.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from .content import BRINGS, CONTENT, Content
from .errors import LoopError
from .patch import Patch
from .state import Held, State, ids_in
from .values import short


class Paint(Mapping[str, Any]):
    """What a channel has brought: of each target that it has given content, what the element is to show.

    Text is a `str`, which a template escapes; markup is `Markup`. See `afterload.live.Live.state`.

    Args:
        channel: its name.
        parts: of its state, as `State.parts` gives them.
        at: the position of the page that it is for; None for all there is.

    Example:
        >>> from afterload import append, text
        >>> from markupsafe import Markup
        >>> paint = Paint("orders", [(1, text("#count", 2)), (2, append("#rows", Markup("<li>tea</li>")))], at=None)
        >>> paint["#count"], paint["#rows"]
        ('2', Markup('<li>tea</li>'))
        >>> paint.get("#total", 0)
        0
    """

    def __init__(self, channel: str, parts: Iterable[tuple[int, Patch]], at: int | None) -> None:
        self.channel = channel
        state = State()
        newest = 0
        for offset, patch in parts:
            state.apply(patch, offset)
            newest = max(newest, offset)
        self._at = newest if at is None else at
        self._held = state.held(self._at)
        self._touched = False
        self._painted: set[int] = set()
        self._of: dict[str, list[int]] = defaultdict(list)
        brought: set[str] = set()
        self._bringing: set[int] = set()
        self._looks = False  # a patch looks at the page as it was then
        newer_looks = False
        for i, held in enumerate(self._held):
            self._of[held.patch.target].append(i)
            if held.patch.action in BRINGS and (ids := ids_in(held.patch.content)):
                brought |= ids
                self._bringing.add(i)
            if _looks(held.patch):
                self._looks |= held.parts[0][0] <= self._at
                newer_looks |= held.parts[-1][0] > self._at
        self._inner = [i for i, held in enumerate(self._held) if held.patch.target[1:] in brought]
        # A selector between `at` and now might match what is shown too early.
        self._most = self._at if newer_looks else newest

    def __getitem__(self, target: str) -> Any:
        shown = self._shown(target, "")
        if shown is None:
            raise KeyError(target)
        return shown

    def get(self, target: str, default: Any = "") -> Any:
        """What an element is to show.

        Args:
            target: its ``#id``.
            default: what it would show else. It is what is returned if the channel has brought nothing there; and what
                it has added (`append`) is added to it.

        Example:
            >>> from afterload import append
            >>> from markupsafe import Markup
            >>> paint = Paint("log", [(1, append("#log", Markup("<li>one</li>"), keep=2))], at=None)
            >>> paint.get("#log", Markup("<li>nothing yet</li>"))
            Markup('<li>nothing yet</li><li>one</li>')
        """
        shown = self._shown(target, default)
        return default if shown is None else shown

    def value(self, target: str, default: Any = "") -> Any:
        """The value that was set by `afterload.value`, or the default."""
        return self._cell("value", target, None, default)

    def attr(self, target: str, name: str, default: Any = None) -> Any:
        """The attribute that was set by `afterload.attr`, or the default; None if it was taken away."""
        return self._cell("attr", target, name, default)

    def has_class(self, target: str, name: str, default: bool = False) -> bool:
        """Whether the class was set by `afterload.class_`; the default if neither that nor the opposite was."""
        return bool(self._cell("class", target, name, default))

    def title(self, default: Any = "") -> Any:
        """The title that was set by `afterload.title`, or the default."""
        return self._cell("title", "", None, default)

    def __contains__(self, target: object) -> bool:
        return target in set(self)

    def __iter__(self) -> Iterator[str]:
        return iter(
            dict.fromkeys(
                held.patch.target
                for held in self._held
                if held.patch.action in CONTENT and not _looks(held.patch) and self._is_shown(held, self._at)
            )
        )

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<state of {self.channel!r}: {', '.join(self)}>"

    # What the page that it was painted in is told

    @property
    def is_touched(self) -> bool:
        """Whether anything of the channel was shown."""
        return self._touched

    @property
    def looks(self) -> bool:
        """Whether a patch up to `at` has looked at the page as it was then, by a selector or a change of an id."""
        return self._looks

    def unpainted(self, ids: Collection[str]) -> list[str]:
        """Targets of what was not shown, and would not be sent, on a page that has elements of these ids."""
        return list(
            dict.fromkeys(
                held.patch.target or held.patch.action
                for i, held in enumerate(self._held)
                if held.parts[0][0] <= self._at
                and not held.again
                and i not in self._painted
                and (_looks(held.patch) or not held.patch.target or held.patch.target[1:] in ids)
            )
        )

    # How

    def _cell(self, action: str, target: str, name: str | None, default: Any) -> Any:
        if action != "title":
            _check(target)
        for i in reversed(self._of.get(target, ())):
            held = self._held[i]
            of = (held.patch.options or {}).get("name")
            if held.patch.action == action and of == name and not _looks(held.patch):
                if held.parts[0][0] > self._most:
                    return default
                self._touched = True
                self._painted.add(i)
                return held.patch.content
        return default

    def _is_shown(self, held: Held, limit: int) -> bool:
        sets = held.patch.action in ("text", "html")
        return held.parts[0][0] <= (self._most if sets else limit)

    def _shown(self, target: str, default: Any) -> Any:
        """The content of an element; None if it is the default."""
        _check(target)
        own = self._of.get(target, [])
        if not any(self._held[i].patch.action in CONTENT for i in own) and not hasattr(default, "__html__"):
            return None
        content = Content(default)
        known = ids_in(str(content.default))
        limit = self._at
        touched = False
        inner = {i for name in known for i in self._of.get(f"#{name}", ())}
        if not self._bringing.isdisjoint({*own, *inner}):
            inner.update(self._inner)
        for i in sorted({*own, *inner}):
            held = self._held[i]
            patch = held.patch
            if _looks(patch):
                continue
            if patch.target == target and patch.action in ("text", "html") and held.parts[0][0] <= self._most:
                limit = self._most if held.parts[0][0] > self._at else limit
            text = [part for offset, part in held.parts if offset <= limit]
            if not text:
                continue
            if patch.action == "append_text":
                patch = Patch("append_text", patch.target, "".join(text))
            if patch.target == target:
                if patch.action not in CONTENT:
                    continue
                content.add(patch)
            elif patch.target[1:] not in known or not content.patch(patch):
                continue
            touched = True
            if i in self._bringing:
                known |= ids_in(patch.content)
            if content.is_odd:
                continue  # a browser may make something else of it
            self._painted.add(i)
        if not touched:
            return None
        self._touched = True
        return content.shown()


def _check(target: object) -> None:
    if not isinstance(target, str) or not re.fullmatch(r"#\S+", target):
        raise LoopError(f'a state is asked for targets such as "#count", not for {short(target)}')


def _looks(patch: Patch) -> bool:
    options = patch.options or {}
    return bool(options.get("select")) or (patch.action == "attr" and options["name"].lower() == "id")
