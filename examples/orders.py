"""The view shows what the database holds, and what changes is published: pages even survive a restart."""

import os
import sqlite3

from flask import Flask, g, redirect, request, url_for
from markupsafe import Markup

from afterload import append
from afterload.flask import Live

app = Flask(__name__)
live = Live(app)


def row(order):
    return Markup('<li id="order-{}">{}</li>').format(*order)


@app.before_request
def connect():
    g.db = sqlite3.connect(os.environ.get("ORDERS", "orders.sqlite"))
    g.db.execute("create table if not exists orders (id integer primary key, thing text)")


@app.teardown_request
def disconnect(error):
    g.db.close()


@app.get("/")
def index():
    orders = g.db.execute("select id, thing from orders order by id").fetchall()
    return live.page("orders.html", "orders", rows=[row(order) for order in orders])


@app.post("/")
def add():
    with g.db:  # commits
        insert = "insert into orders (thing) values (?) returning id, thing"
        [order] = g.db.execute(insert, [request.form["thing"]]).fetchall()
    [[count]] = g.db.execute("select count(*) from orders").fetchall()
    live.publish("orders", append("#orders", row(order)), {"#count": count})
    return redirect(url_for("index"))
