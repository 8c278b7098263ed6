"""Work that ends. Who comes in the middle sees how far it is; who comes after the end sees the result."""

import random

from flask import Flask, redirect, url_for

from afterload import text, value
from afterload.flask import Live

app = Flask(__name__)
live = Live(app)
STEPS = 50


@live.loop(linger=600)
def work():
    total = 0
    for step in range(1, STEPS + 1):
        live.sleep(0.1)
        total += random.randint(1, 6)
        yield [value("#bar", step), text("#step", step)]
    yield {"#result": f"The sum of {STEPS} dice is {total}."}


@app.get("/")
def index():
    return live.page("progress.html", work, steps=STEPS)


@app.post("/again")
def again():
    work.restart()
    return redirect(url_for("index"))
