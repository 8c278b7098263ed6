"""A café's order board in any number of workers: an order that one of them takes is on every open page at once."""

import itertools
import os
import sqlite3
from datetime import datetime

from flask import Flask, g, redirect, request, url_for
from markupsafe import Markup

from afterload import append
from afterload.flask import Live

app = Flask(__name__)
app.config.from_prefixed_env()  # FLASK_AFTERLOAD_NAMESPACE=board, and any other setting
live = Live(app)
STATIONS = ("bar", "kitchen")
SHOWN = 50


def row(order):
    return Markup('<li id="order-{}">{}</li>').format(*order)


@live.loop
def clock():
    """Runs in one of the workers; when that one goes, in another."""
    for tick in itertools.count(1):
        runner = f"tick {tick} of process {os.getpid()}"
        yield {"#time": f"{datetime.now():%H:%M:%S}", "#runner": runner, "#watching": live.viewers(clock)}
        live.sleep(1)


@app.before_request
def connect():
    g.db = sqlite3.connect(os.environ.get("BOARD", "board.sqlite"))
    g.db.execute("create table if not exists orders (id integer primary key, station text, thing text)")


@app.teardown_request
def disconnect(error):
    g.db.close()


@app.get("/")
@app.get("/<any(bar, kitchen):station>")
def index(station=None):
    last = "select id, thing from orders where station = ? order by id desc limit ?"
    shown = [station] if station else STATIONS
    board = {name: [row(order) for order in reversed([*g.db.execute(last, [name, SHOWN])])] for name in shown}
    return live.page("board.html", *shown, clock, board=board, stations=STATIONS)


@app.post("/")
def order():
    station, thing = request.form["station"], request.form["thing"]
    if station not in STATIONS:
        return f"there is no station {station!r}", 400
    with g.db:  # commits
        insert = "insert into orders (station, thing) values (?, ?) returning id, thing"
        [taken] = g.db.execute(insert, [station, thing]).fetchall()
    position = live.publish(station, append(f"#{station}", row(taken), keep=SHOWN))
    return redirect(url_for("index"), 303), {"Position": position}  # from here on no page can miss it
