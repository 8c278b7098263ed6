"""Lines that are added at the end; the page keeps the last 500, and follows unless the reader scrolled up."""

import itertools
import random
from datetime import datetime

from flask import Flask
from markupsafe import Markup

from afterload import append
from afterload.flask import Live

app = Flask(__name__)
live = Live(app)
LINE = Markup("<div>{} {} <b>#{}</b></div>")


@live.loop
def lines():
    for number in itertools.count(1):
        user = random.choice(["ann", "bob", "<anonymous>"])
        yield append("#log", LINE.format(f"{datetime.now():%H:%M:%S}", user, number), keep=500)
        live.sleep(0.2)


@app.get("/")
def index():
    return live.page("log.html", lines)
