"""nginx in a pod, with a configuration of the how-to."""

from __future__ import annotations

from pathlib import Path

from tests.deploy.pod import Pod, Running, Sandbox, installed
from tests.handover.certificate import make_certificate
from tests.servers.process import wait_until


def start_nginx(pod: Pod, configuration: str, port: int) -> Running:
    """Start it; returns when it answers on a port of the pod."""
    folder = pod.folder / "nginx"
    folder.mkdir()
    path = folder / "nginx.conf"
    path.write_text(configuration)
    mounts = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for place in ("/run", "/tmp", "/var/log/nginx", "/var/lib/nginx", "/etc/ssl"):
        mounts += ["--tmpfs", place]
    cert, key = make_certificate(folder)
    mounts += ["--ro-bind", str(path), "/etc/nginx/nginx.conf"]
    mounts += ["--ro-bind", cert, "/etc/ssl/shop.pem", "--ro-bind", key, "/etc/ssl/shop.key"]
    command = [installed("nginx", "nginx"), "-g", "daemon off; error_log stderr;"]
    running = pod.start(Sandbox(command, mounts, uid=33))
    wait_until(lambda: running.over or _listens(running.pid, port), 20, f"nginx on port {port}")
    assert not running.over, running.log()
    return running


def _listens(pid: int, port: int) -> bool:
    """Whether somebody in the network of a process does."""
    rows = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "0A" for row in rows)
