"""A document that goes on updating itself: one response, no client file, complete after five letters."""

from flask import Flask

from afterload.flask import Live

app = Flask(__name__)
live = Live(app)


def letters():
    for letter in "hello":
        yield {"#data": letter}
        live.sleep(1)


@app.get("/")
def index():
    return live.document("hello.html", letters())
