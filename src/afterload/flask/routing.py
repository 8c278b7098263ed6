"""Requests to open a WebSocket, as Flask's routing sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import HTTPException

if TYPE_CHECKING:
    from werkzeug.routing import MapAdapter


def routing_pages(create: Callable[..., MapAdapter | None]) -> Callable[..., MapAdapter | None]:
    """Has a request to open a WebSocket found a page's view, which Flask refuses, unless there is a WebSocket's route.

    The header is left where it is: what else is around the app or in it may have WebSockets of its own.
    """

    def create_url_adapter(request: Any) -> MapAdapter | None:
        adapter = create(request)
        if adapter is not None and adapter.websocket and not _is_websockets(adapter):
            adapter.websocket = False
            adapter.url_scheme = "https" if adapter.url_scheme == "wss" else "http"
        return adapter

    return create_url_adapter


def _is_websockets(adapter: MapAdapter) -> bool:
    try:
        rule, _ = adapter.match(return_rule=True)
    except HTTPException:
        return False
    return rule.websocket
