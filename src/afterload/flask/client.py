"""The client's script, and its URL."""

from __future__ import annotations

import hashlib
import importlib.resources
from functools import cache

from flask import Response, current_app, request

from .asked import query

PATH = "/_afterload/afterload.js"
ENDPOINT = "afterload_client"


@cache
def script() -> tuple[str, str]:
    """The client's text, and a hash of it."""
    text = importlib.resources.files("afterload").joinpath("static/afterload.js").read_text("utf-8")
    return text, hashlib.sha256(text.encode()).hexdigest()[:12]


def answer(afterload_host: str = "") -> Response:
    """Answers the request for it; whichever host it is for."""
    text, version = script()
    response = current_app.response_class(text, content_type="text/javascript; charset=utf-8")
    if query().get("v") == version:
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    else:
        response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.set_etag(version)
    response.make_conditional(request)
    return response
