"""A loop that fails: its page keeps what it shows and says so, and the app is told."""

import random

from flask import Flask

from afterload.flask import Live

app = Flask(__name__)
live = Live(app)
failures = []


@live.loop
def dice():
    while True:
        number = random.randint(0, 6)
        yield {"#share": f"1/{number} is {1 / number:.3f}"}
        live.sleep(0.5)


@live.on_error
def tell(name, error):
    failures.append(f"{name}: {error!r}")


@app.get("/")
def index():
    return live.page("failing.html", dice)


@app.get("/failures")
def show_failures():
    return failures
