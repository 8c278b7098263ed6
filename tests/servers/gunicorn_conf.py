"""gunicorn logs "Booting worker" before that worker has imported the app; this says when it has."""


def post_worker_init(worker):
    worker.log.info("Worker ready (pid: %s)", worker.pid)
