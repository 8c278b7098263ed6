"""A loop that all pages share: it starts with the first, and stops a while after the last."""

from datetime import datetime

from flask import Flask

from afterload.flask import Live

app = Flask(__name__)
live = Live(app)


@live.loop
def clock():
    while True:
        yield {"#time": f"{datetime.now():%H:%M:%S}", "#viewers": live.viewers(clock)}
        live.sleep(1)


@app.get("/")
def index():
    return live.page("clock.html", clock)
