"""gunicorn reads this by itself in the folder that it is started in: `gunicorn app:app`."""

bind = "127.0.0.1:8000"
workers = 4
threads = 4
control_socket_disable = True  # else it looks for a home directory to put one into
