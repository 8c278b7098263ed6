"""Pages that stream themselves, one step each time a test says so, and values that try to get out of their places."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, request
from markupsafe import Markup

from afterload import (
    Patch,
    PatchError,
    append,
    append_text,
    attr,
    class_,
    html,
    navigate,
    prepend,
    remove,
    replace,
    text,
    title,
    value,
)
from afterload.flask import Live

app = Flask(__name__)
live = Live(app, linger=30, retry=int(os.environ.get("RETRY", "3000")))
told: queue.Queue[str] = queue.Queue()

BAD = [
    "</script><img src=x onerror=window.owned=1>",
    "<script>window.owned=1</script>",
    "<svg onload=window.owned=1>",
    "<!--",
    "--><img src=x onerror=window.owned=1>",
    "]]>",
    "a\u2028b\u2029c",
    "{{7*7}}",
    "javascript:window.owned=1",
    "nul\0nul",
    "lone\ud800surrogate",
    "'\"><img src=x onerror=window.owned=1>",
    "</noscript></af-p></div><img src=x onerror=window.owned=1>",
    "</template></style><img src=x onerror=window.owned=1>",
    "<?end><?start name='t0'>",
    "&lt;img src=x onerror=window.owned=1&gt;",
    "\\u003cimg src=x onerror=window.owned=1\\u003e",
]
PLACES = {
    "text": lambda to, bad: text(to, bad),
    "append_text": lambda to, bad: append_text(to, bad),
    "html": lambda to, bad: html(to, bad),
    "append": lambda to, bad: append(to, bad),
    "prepend": lambda to, bad: prepend(to, bad),
    "replaced": lambda to, bad: replace(to, Markup('<p id="{}">{}</p>').format(to[1:], bad)),
    "into": lambda to, bad: html(to, Markup("<b title='{}'>{}</b>").format(bad, bad)),
    "attr": lambda to, bad: attr(to, "data-x", bad),
    "href": lambda to, bad: attr(to, "href", bad),
    "style": lambda to, bad: attr(to, "style", bad),
    "onclick": lambda to, bad: attr(to, "onclick", bad),
    "srcdoc": lambda to, bad: attr(to, "srcdoc", bad),
    "class": lambda to, bad: class_(to, bad),
    "value": lambda to, bad: value(to, bad),
    "title": lambda to, bad: title(bad),
    "navigate": lambda to, bad: navigate(bad),
}


def hostile() -> tuple[list[Patch], dict[str, list[str]]]:
    """The patches that can be made, each with an element of its own; and the values refused in each place."""
    made: list[Patch] = []
    refused: dict[str, list[str]] = {}
    for place, make in PLACES.items():
        for number, bad in enumerate(BAD):
            try:
                patch = make(f"#{place}{number}", bad)
            except PatchError:
                refused.setdefault(place, []).append(bad)
            else:
                if patch.action != "navigate":
                    made.append(patch)
    return made, refused


ELEMENTS = Markup("").join(
    Markup('<{} id="{}{}"></{}>').format(tag, place, number, tag)
    for place in PLACES
    for number in range(len(BAD))
    for tag in ["textarea" if place == "value" else "a" if place == "href" else "p"]
)


@app.get("/hostile/<wire>")
def show_hostile(wire: str) -> Response:
    made, _ = hostile()

    def say() -> Iterator[Any]:
        yield made
        yield from [bad for bad in BAD if bad.isprintable() or "\u2028" in bad]
        raise ValueError(BAD[0])

    if wire == "document":
        return live.document("hostile.html", say(), into="#message", elements=ELEMENTS, follow=live.updates)
    if wire == "template":
        return live.stream_template("hostile_template.html", patches=made, elements=ELEMENTS, fail=fail)
    return live.page("hostile.html", say(), into="#message", elements=ELEMENTS, follow=live.client)


def fail() -> None:
    raise ValueError(BAD[0])


STEPS = [
    [text("#head", "one <b>"), append("#rows", Markup("<li>row 1</li>")), value("#bar", 3)],
    [
        text("#head", "two"),
        append("#rows", Markup("<li>row 2</li>")),
        append_text("#log", "line 2\n"),
        value("#bar", 6),
    ],
    [html("#box", Markup("<i>three</i>")), text("#cell", "three"), remove("#gone")],
]


@app.get("/steps")
def steps() -> Response:
    def say() -> Iterator[Any]:
        for step in STEPS:
            wait()
            yield step
        wait()

    return live.document("steps.html", say())


@live.loop
def shared() -> Iterator[Any]:
    for step in STEPS:
        wait()
        yield step
    wait()


@app.get("/shared")
def show_shared() -> Response:
    return live.document("steps.html", shared)


@app.get("/channel")
def show_channel() -> Response:
    return live.document("steps.html", "news")


@app.post("/news")
def news() -> str:
    return live.publish("news", text("#head", request.get_data(as_text=True)))


def fail_when_told() -> Iterator[Any]:
    yield {"#head": "before"}
    wait()
    raise ValueError("a secret")


@app.get("/failing")
def failing() -> Response:
    return live.document("steps.html", fail_when_told())


@app.get("/watched")
def watched() -> Response:
    """The same, but its page says by itself how it ends."""
    return live.document("watched.html", fail_when_told())


@app.get("/strict")
def strict() -> Response:
    def say() -> Iterator[Any]:
        yield STEPS[0]
        wait()

    response = live.document("strict.html", say())
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'nonce-abc'; script-src 'nonce-abc'"
    )
    return response


@app.get("/small/<wire>")
def small(wire: str) -> Response:
    if wire == "template":
        return live.stream_template("small_template.html", wait=wait)

    def say() -> Iterator[Any]:
        yield {"#head": "now"}
        wait()

    return live.document("small.html", say())


def wait() -> None:
    while True:
        try:
            told.get(timeout=0.05)
        except queue.Empty:
            live.sleep(0)
        else:
            return


@app.post("/go")
def go() -> str:
    told.put("go")
    return "ok"


@app.get("/many/<wire>")
def many(wire: str) -> Response:
    count = request.args.get("count", 10_000, type=int)
    if wire == "template":
        return live.stream_template("many_template.html", count=count)

    def say() -> Iterator[Any]:
        for i in range(1, count + 1):
            yield {"#head": i}

    return live.document("steps.html", say())
