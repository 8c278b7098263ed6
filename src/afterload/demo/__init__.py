"""The demo: one small module a page, each a loop and the page that follows it.

``afterload demo`` serves it; ``flask --app afterload.demo run`` does too.
"""

from . import bare, clock, hello, log, orders, progress, spinner, template
from .site import app, live

__all__ = ["app", "bare", "clock", "hello", "live", "log", "orders", "progress", "spinner", "template"]
