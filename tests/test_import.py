"""`import afterload` costs what its words cost: no framework, no socket, no thread."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {
    "asyncio", "concurrent.futures", "logging", "selectors", "socket", "ssl", "subprocess", "threading",
    "click", "django", "flask", "gevent", "gunicorn", "jinja2", "starlette", "uvicorn", "werkzeug",
}  # fmt: skip


def test_importing_the_words_imports_no_framework_socket_or_thread() -> None:
    code = "import sys; before = set(sys.modules); import afterload; print(*(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50
    )
    imported = set(done.stdout.split())
    assert "afterload.patch" in imported
    assert not imported & HEAVY
    # the core behind the words is not needed for them either
    assert {name for name in imported if name.startswith("afterload.")} == {
        "afterload.errors", "afterload.patch", "afterload.values"
    }  # fmt: skip
