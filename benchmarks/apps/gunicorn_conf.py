"""How gunicorn is run here: each worker says when it is ready."""

from __future__ import annotations

from gunicorn.workers.base import Worker


def post_worker_init(worker: Worker) -> None:
    print(worker.pid, flush=True)
