"""A page under a strict content security policy, with Trusted Types."""

import secrets
from datetime import datetime

from flask import Flask, g

from afterload.flask import Live

app = Flask(__name__)
live = Live(app)


@live.loop
def clock():
    while True:
        yield {"#time": f"{datetime.now():%H:%M:%S}"}
        live.sleep(1)


@app.before_request
def make_nonce():
    g.nonce = secrets.token_urlsafe(16)


@app.after_request
def set_policy(response):
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'nonce-{g.nonce}'; connect-src 'self'; base-uri 'none'; "
        "require-trusted-types-for 'script'; trusted-types afterload"
    )
    return response


@app.get("/")
def index():
    return live.page("csp.html", clock)
