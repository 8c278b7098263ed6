"""Text that comes in parts, as a language model gives it."""

import random

from flask import Flask, request

from afterload import append_text
from afterload.flask import Live

app = Flask(__name__)
live = Live(app)


def model(question):
    for word in f"You ask: {question} I have thought about it, and the answer is: <maybe>.".split(" "):
        live.sleep(random.uniform(0.02, 0.2))
        yield word + " "


def answer(question):
    for token in model(question):
        yield append_text("#answer", token)


@app.get("/")
def index():
    question = request.args.get("q", "Why?")
    return live.page("tokens.html", answer(question), restart=False, question=question)
