"""What pages show is in a database, which is asked once, and not for each page that is opened or comes back."""

import contextlib
import os
import sqlite3

from flask import Flask, abort, redirect, url_for
from markupsafe import Markup

from afterload import html
from afterload.flask import Live

app = Flask(__name__)
live = Live(app)


def database():
    db = sqlite3.connect(os.environ.get("STOCK", "stock.sqlite"))
    db.execute("create table if not exists stock (thing text primary key, count integer)")
    db.execute("insert or ignore into stock values ('bread', 30), ('milk', 12), ('tea', 50)")
    return contextlib.closing(db)


def row(thing, count):
    button = Markup('<button formaction="take/{0}">Take one</button>').format(thing)
    return Markup('<li><b id="count-{0}">{1}</b> {0} {2}</li>').format(thing, count, button)


@live.snapshot("stock")
def stock():
    with database() as db, db:
        rows = db.execute("select thing, count from stock order by thing").fetchall()
    return html("#stock", Markup().join(row(*found) for found in rows))


@app.get("/")
def index():
    return live.page("stock.html", "stock")


@app.post("/take/<thing>")
def take(thing):
    update = "update stock set count = count - 1 where thing = ? and count > 0 returning count"
    with database() as db, db:  # commits
        found = db.execute(update, [thing]).fetchall()
    if not found:
        abort(404)
    live.publish("stock", {f"#count-{thing}": found[0][0]})
    return redirect(url_for("index"))
