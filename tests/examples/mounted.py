"""All examples as one WSGI app, each under its name, so that one server serves them all.

They are as they are, but for two things. Time runs five times as fast, as nobody learns from waiting for a
countdown; twice as fast, where a page is to be seen on its way. And a page's own loop waits at each step until it was
sent, so that no step is merged with the next on a machine that is busy.
"""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from types import ModuleType
from typing import Any

from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from afterload.flask import Live

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "examples").glob("*.py"))
MODULES: dict[str, ModuleType] = {name: importlib.import_module(f"examples.{name}") for name in NAMES}

for name, module in MODULES.items():
    faster = 2 if name in ("progress", "template") else 5
    module.live.sleep = lambda seconds, faster=faster: Live.sleep(seconds / faster)
    module.live.settings = module.live.settings.updated({"ahead_entries": 1})
    module.live._namespace += f"-{name}"  # or they would share their channels, as the workers of one app

#: Dice that fall 1, 2, 3, 0: the loop fails, but not at once.
DICE = random.Random(39)
MODULES["failing"].random = DICE  # type: ignore[attr-defined]

about = Flask("about")


@about.get("/stats/<name>")
def stats(name: str) -> dict[str, Any]:
    return MODULES[name].live.stats()


app = DispatcherMiddleware(about, {f"/{name}": module.app for name, module in MODULES.items()})
