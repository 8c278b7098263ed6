"""What the present request asks for."""

from __future__ import annotations

from urllib.parse import parse_qsl

from flask import request

from ..negotiate import Request, latin1_to_utf8, negotiate


def asked() -> Request:
    """What it wants of a page, and by which wire."""
    headers = {name.lower(): latin1_to_utf8(value) for name, value in request.headers}
    return negotiate(request.method, headers, query())


def query() -> dict[str, str]:
    """The query, of each name the first. `request.args` fails on bytes that are no UTF-8."""
    pairs = parse_qsl(request.query_string.decode("utf-8", "replace"), errors="replace")
    return dict(reversed(pairs))
