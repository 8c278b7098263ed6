"""The app all pages of the demo belong to, its index, and the source shown beside each page."""

from __future__ import annotations

import importlib.resources
from typing import Any

from flask import Flask, render_template, request

from afterload.flask import Live

app = Flask(__name__)
live = Live(app)

PAGES = {
    "/spinner": (
        "spinner",
        "A loop of your own",
        "Each page has its own loop, counting from 0. Cut it off: it goes on.",
    ),
    "/bare": ("bare", "A page written by hand", "Nothing of ours in the page: a few lines of EventSource."),
    "/clock": ("clock", "One loop for everybody", "Runs once, while somebody watches."),
    "/progress": ("progress", "Work that ends", "Open it in the middle or after the end: it shows what is."),
    "/log": ("log", "Lines that are added", "The last 500, followed unless you scroll up."),
    "/orders": (
        "orders",
        "A database, several writers",
        "A form, a thread and a loop publish to every open page.",
    ),
    "/hello": (
        "hello",
        "A document that goes on",
        "One response, complete after five letters; no client file.",
    ),
    "/template": ("template", "A streamed template", "Sent while it is rendered, and patched meanwhile."),
}


def _sources(name: str) -> dict[str, str]:
    package = importlib.resources.files(__package__)
    files = (f"{name}.py", f"templates/{name}.html")
    return {file: package.joinpath(file).read_text("utf-8") for file in files}


@app.context_processor
def shown() -> dict[str, Any]:
    """What the layout needs: all pages, and this one with its source."""
    name, title, what = PAGES.get("/" + request.path.split("/")[1], ("", "afterload", ""))
    return {"pages": PAGES, "page_title": title, "page_what": what, "sources": _sources(name) if name else {}}


@app.get("/")
def index() -> str:
    """Says what each page shows."""
    return render_template("index.html")
