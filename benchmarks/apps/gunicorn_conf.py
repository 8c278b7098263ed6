"""How gunicorn is run here: each worker says when it is ready."""

from __future__ import annotations

import os

from gunicorn.workers.base import Worker


def post_worker_init(worker: Worker) -> None:
    os.write(1, f"{worker.pid}\n".encode())  # at once: others say so at the same moment
