"""A page that shows whether it is live, and has a button to stop following."""

import itertools

from flask import Flask

from afterload.flask import Live

app = Flask(__name__)
live = Live(app)


@live.loop
def count():
    for i in itertools.count():
        yield {"#count": i}
        live.sleep(0.5)


@app.get("/")
def index():
    return live.page("status.html", count)
