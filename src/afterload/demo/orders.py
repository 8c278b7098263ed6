"""A view with a database. It renders the present rows; what changes is published from wherever it changes.

After a restart of the server nothing is left in memory: open pages then fetch their own HTML, and nothing is missing.
"""

from __future__ import annotations

import getpass
import os
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from flask import Response, redirect, render_template, request, url_for
from markupsafe import Markup

from afterload import append, class_, text

from .site import app, live

THINGS = ["tea", "coffee", "cake", "toast", "soup"]
# Pages see changes in the order they are published, so they are published in the order they are written.
_desk = threading.Lock()
_courier = threading.Lock()


def database() -> sqlite3.Connection:
    """A connection, to be closed by who asked for it."""
    folder = Path(
        os.environ.get("AFTERLOAD_DEMO_DATA")
        or Path(tempfile.gettempdir()) / f"afterload-demo-{getpass.getuser()}"
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "orders.sqlite", isolation_level=None, timeout=10)
    connection.row_factory = sqlite3.Row
    connection.execute("create table if not exists orders (id integer primary key, thing text, status text)")
    return connection


@app.get("/orders")
def orders() -> Response:
    """The page with the present rows, and its stream of two channels and a shared loop."""
    with closing(database()) as db:
        rows = db.execute("select * from orders order by id desc limit 50").fetchall()[::-1]
        count = db.execute("select count(*) from orders").fetchone()[0]
    start_courier()
    return live.page("orders.html", "orders", "courier", prices, rows=rows, count=count, things=THINGS)


@app.post("/orders")
def new_order() -> Any:
    """From the request: one order more, on every open page at once."""
    thing = request.form.get("thing", "")[:40] or "surprise"
    with _desk, closing(database()) as db:
        row = db.execute(
            "insert into orders (thing, status) values (?, 'new') returning *", [thing]
        ).fetchone()
        count = db.execute("select count(*) from orders").fetchone()[0]
        html = Markup(render_template("order.html", row=row))
        live.publish("orders", append("#orders", html, keep=50), {"#count": count})
    return redirect(url_for("orders"))


def deliver() -> None:
    """From a plain thread: the courier takes the oldest new order."""
    while True:
        with _desk, closing(database()) as db:
            row = db.execute(
                "update orders set status = 'delivered' where id ="
                " (select min(id) from orders where status = 'new') returning *"
            ).fetchone()
            if row is not None:
                target = f"#order-{row['id']}"
                live.publish(
                    "courier",
                    text(f"{target}-status", "delivered"),
                    class_(target, "delivered"),
                    {"#courier": f"delivered {row['thing']}, order {row['id']}"},
                )
        time.sleep(random.uniform(1, 3))


def start_courier() -> None:
    """Nothing starts at import; the first request does it."""
    if _courier.acquire(blocking=False):
        threading.Thread(target=deliver, name="courier", daemon=True).start()


@live.loop
def prices() -> Iterator[Any]:
    """From a shared loop, to a channel that other pages could follow too."""
    while True:
        thing = random.choice(THINGS)
        yield {f"#price-{thing}": f"{random.uniform(1, 9):.2f}"}
        live.sleep(0.5)
