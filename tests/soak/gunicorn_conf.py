"""Says when a worker has loaded the app and when it has ended, on the clock that all processes of a host share."""

import time


def post_worker_init(worker):
    worker.log.info("Worker ready (pid: %s) at %.3f", worker.pid, time.monotonic())


def child_exit(server, worker):
    server.log.info("Worker gone (pid: %s) at %.3f", worker.pid, time.monotonic())
