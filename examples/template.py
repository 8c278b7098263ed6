"""A template that is sent while it is rendered, and patches what it has already sent."""

from flask import Flask

from afterload.flask import Live

app = Flask(__name__)
live = Live(app)


def letters():
    for number, letter in enumerate("hello" * 10):
        yield number, letter
        live.sleep(0.1)


@app.get("/")
def index():
    return live.stream_template("template.html", data=letters())
