"""Write the Python loop once; every page that is already open follows it, in place.

The Flask extension is `afterload.flask.Live`. What loops yield and `publish` takes is here.
"""

from .errors import (
    AfterloadError,
    HubError,
    JobError,
    LoopError,
    PatchError,
    PositionError,
    SettingError,
    WireError,
)
from .patch import (
    Patch,
    after,
    append,
    append_text,
    attr,
    before,
    class_,
    dispatch,
    html,
    message,
    navigate,
    prepend,
    reload,
    remove,
    replace,
    text,
    title,
    value,
)

__all__ = [
    "AfterloadError",
    "HubError",
    "JobError",
    "LoopError",
    "Patch",
    "PatchError",
    "PositionError",
    "SettingError",
    "WireError",
    "after",
    "append",
    "append_text",
    "attr",
    "before",
    "class_",
    "dispatch",
    "html",
    "message",
    "navigate",
    "prepend",
    "reload",
    "remove",
    "replace",
    "text",
    "title",
    "value",
]
