"""What a page follows, checked where a view says it."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from .errors import LoopError
from .jobs import Gone, Job
from .log import wrong_name
from .loops import SharedLoop
from .runs import Source
from .values import short


@dataclass(frozen=True, slots=True)
class Page:
    """What a view said its page follows: one private loop, or any number of channels.

    Attributes:
        source: the generator of a private loop, not started.
        channels: names of the channels otherwise.
        into: the page's target for plain strings.
        restart: whether a private loop that is gone is started again.
        away: "pause" or "run": what a private loop does while its viewer is away.
        owner: whom the page belongs to, for `revoke`; "" for nobody.
        jobs: those of the channels that are jobs'.
        lost: the channel of one of the jobs that was known to the page, and is to nobody any more; "" for none.
        is_early: one of the jobs is unknown, and may be known in a moment, as its hub has just been replaced.
    """

    source: Source | None
    channels: tuple[str, ...]
    into: str | None
    restart: bool
    away: str
    owner: str
    jobs: tuple[str, ...] = ()
    lost: str = ""
    is_early: bool = False

    @property
    def label(self) -> str:
        """The private loop's name: its page comes back to a loop of this name only."""
        return getattr(self.source, "__qualname__", type(self.source).__name__)

    def close(self) -> None:
        """Closes the generator, where this request is not the one that starts it.

        An async generator that has not begun holds nothing, and could be closed in an event loop only.
        """
        if inspect.isgenerator(self.source):
            self.source.close()


def page_of(
    sources: tuple[Any, ...], into: str | None, restart: bool, away: str, owner: str, most: int
) -> Page:
    """Checks what a view says its page follows; at most so many channels.

    Raises:
        LoopError: it is nothing that can be followed.
    """
    if away not in ("pause", "run"):
        raise LoopError(f'away is "pause" or "run", not {away!r}')
    if type(owner) is not str:
        raise LoopError(f"owner is a str, such as the id of who is logged in, not {short(owner)}")
    if into is not None and not re.fullmatch(r"#\S+", into):
        raise LoopError(f'into is a target such as "#data", not {into!r}')
    if not sources:
        raise LoopError("a page needs something to follow: a generator, a @live.loop, or names of channels")
    first = sources[0]
    if inspect.isgenerator(first) or inspect.isasyncgen(first):
        if len(sources) > 1:
            raise LoopError(
                "a page follows one private loop, or any number of shared loops and channels, not both"
            )
        return Page(first, (), into, restart, away, owner)
    names = [followed(source) for source in sources]
    if len(names) > most:
        raise LoopError(f"a page follows at most {most} channels (max_channels_per_viewer), not {len(names)}")
    jobs = [source for source in sources if isinstance(source, Job)]
    return Page(
        None,
        tuple(dict.fromkeys(names)),
        into,
        restart,
        away,
        owner,
        tuple([job.channel for job in jobs]),
        next((job.channel for job in jobs if job.gone is Gone.LOST), ""),
        any(job.gone is Gone.EARLY for job in jobs),
    )


def followed(source: Any) -> str:
    """The name of the channel that a source of a page stands for.

    Raises:
        LoopError: it is nothing that can be followed.
    """
    if isinstance(source, SharedLoop):
        return source.name
    if isinstance(source, Job):
        return source.channel
    if isinstance(source, str):
        if wrong := wrong_name(source):
            raise LoopError(wrong)
        return source
    name = getattr(source, "__name__", "")
    if inspect.isgeneratorfunction(source) or inspect.isasyncgenfunction(source):
        raise LoopError(
            f"{name} is a function: pass {name}() for a loop of each viewer's own, "
            "or decorate it with @live.loop for one that all share"
        )
    if inspect.isgenerator(source) or inspect.isasyncgen(source):
        raise LoopError(
            "a page follows one private loop, or any number of shared loops and channels, not both"
        )
    if inspect.iscoroutine(source):
        source.close()
        raise LoopError(
            f"{name}() is a coroutine; a loop is a generator, which yields what a page is to show"
        )
    raise LoopError(
        f"a page follows a generator, a @live.loop, a job, or a channel's name, and not {short(source)}"
    )
