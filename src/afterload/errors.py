"""Every error that afterload raises on purpose.

::

    AfterloadError
     ├── PatchError      (ValueError)    something is no patch, or may not be published
     ├── PositionError   (ValueError)    a text is no position
     ├── WireError       (ValueError)    something cannot be put on a wire
     ├── SettingError    (ValueError)    a setting is unknown or out of range
     ├── LoopError       (RuntimeError)  something cannot be followed, or a loop cannot be run
     ├── JobError        (LookupError)   there is no such job, or not any more
     └── HubError        (RuntimeError)  the hub of another process cannot be reached, or does not answer

All but the last stand for a mistake in the program that uses afterload. What a client sends never raises out of it:
it is answered.
"""

from __future__ import annotations

from typing import Any


class AfterloadError(Exception):
    """The root of them all."""


class PatchError(AfterloadError, ValueError):
    """Something is no patch, or may not be published.

    Attributes:
        action: of the patch that was to be, "" where none was said.
        target: the same; for a dict that was yielded or published, its key.
        value: what was refused, or None.
    """

    def __init__(self, message: str, *, action: str = "", target: str = "", value: Any = None) -> None:
        super().__init__(message)
        self.action = action
        self.target = target
        self.value = value


class PositionError(AfterloadError, ValueError):
    """A text is no position.

    Attributes:
        text: the text.
        why: what is wrong with it.
    """

    def __init__(self, text: str, why: str) -> None:
        super().__init__(text, why)
        self.text = text
        self.why = why

    def __str__(self) -> str:
        # repr: the text came from outside, and must not begin a line of its own in a log
        shown = repr(self.text) if len(self.text) <= 140 else f"{self.text[:140]!r}..."
        return f"not a position: {shown}: {self.why}"


class WireError(AfterloadError, ValueError):
    """Something cannot be put on a wire.

    Attributes:
        field: of the block: "event", "id", "retry" or "data".
        value: what was refused.
    """

    def __init__(self, message: str, *, field: str = "", value: Any = None) -> None:
        super().__init__(message)
        self.field = field
        self.value = value


class SettingError(AfterloadError, ValueError):
    """A setting is unknown, of the wrong type, or out of range."""


class LoopError(AfterloadError, RuntimeError):
    """Something cannot be followed, or a loop cannot be run."""


class JobError(AfterloadError, LookupError):
    """There is no such job: there never was, or it has ended so long ago that it is not remembered.

    In a view, `afterload.flask.Live.job` raises one that is answered with 404.

    Attributes:
        id: what was asked for.
    """

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id

    def __str__(self) -> str:
        shown = repr(self.id) if len(self.id) <= 60 else f"{self.id[:60]!r}..."
        return f"there is no job {shown}, or it is not remembered any more (loop_retention)"


class HubError(AfterloadError, RuntimeError):
    """The hub of another process cannot be reached, does not answer in time, or refuses this one.

    What was to be published may be with the hub or not, where it is said that it did not answer.

    Attributes:
        namespace: the hub's.
    """

    def __init__(self, message: str, *, namespace: str = "") -> None:
        super().__init__(message)
        self.namespace = namespace
