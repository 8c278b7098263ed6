"""Every error that afterload raises on purpose.

::

    AfterloadError
     ├── PatchError      (ValueError)    something is no patch, or may not be published
     ├── PositionError   (ValueError)    a text is no position
     ├── WireError       (ValueError)    something cannot be put on a wire
     ├── SettingError    (ValueError)    a setting is unknown or out of range
     └── LoopError       (RuntimeError)  something cannot be followed, or a loop cannot be run
"""

from __future__ import annotations


class AfterloadError(Exception):
    """The root of them all."""


class PatchError(AfterloadError, ValueError):
    """Something is no patch, or may not be published. The message names the action, the target and the value."""


class PositionError(AfterloadError, ValueError):
    """A text is no position.

    Attributes:
        text: the text.
    """

    def __init__(self, text: str, why: str) -> None:
        super().__init__(text, why)
        self.text = text
        self.why = why

    def __str__(self) -> str:
        return f"not a position: {self.text[:140]!r}: {self.why}"


class WireError(AfterloadError, ValueError):
    """Something cannot be put on a wire."""


class SettingError(AfterloadError, ValueError):
    """A setting is unknown, of the wrong type, or out of range."""


class LoopError(AfterloadError, RuntimeError):
    """Something cannot be followed, or a loop cannot be run."""
