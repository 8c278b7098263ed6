"""Pages show what was published before they were opened, though their view knows nothing of it."""

import time

from flask import Flask, redirect, request, url_for
from markupsafe import Markup

from afterload import append
from afterload.flask import Live

app = Flask(__name__)
live = Live(app)


@app.get("/")
def index():
    return live.page("wall.html", "wall")


@app.post("/")
def write():
    note = Markup("<li>{}</li>").format(request.form["note"])
    live.publish("wall", append("#notes", note, keep=50), {"#last": time.strftime("%X")})
    return redirect(url_for("index"))
