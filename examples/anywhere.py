"""Published from a request, from a thread and from a shared loop, over one connection of the page."""

import random
import threading
import time
from datetime import datetime

from flask import Flask, redirect, request, url_for

from afterload.flask import Live

app = Flask(__name__)
live = Live(app)
thread = threading.Lock()


@live.loop
def clock():
    while True:
        yield {"#time": f"{datetime.now():%H:%M:%S}"}
        live.sleep(1)


def measure():
    while True:
        live.publish("sensor", {"#degrees": f"{random.gauss(20, 1):.1f}"})
        time.sleep(0.5)


@app.get("/")
def index():
    if thread.acquire(blocking=False):  # once, and not when the module is imported
        threading.Thread(target=measure, daemon=True).start()
    return live.page("anywhere.html", clock, "sensor", "notes")


@app.post("/")
def note():
    live.publish("notes", {"#note": request.form["note"]})
    return redirect(url_for("index"))
