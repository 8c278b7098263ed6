"""systemd's part, as far as the units of the how-tos need it: what a unit says becomes a sandbox."""

from __future__ import annotations

import contextlib
import resource
import shlex
import socket
import sys
from collections import defaultdict
from pathlib import Path

from tests.deploy.pod import PYTHON, Pod, Running, Sandbox
from tests.servers.process import wait_until

USER, UID = "shop", 990
NOTIFY = "/run/notify"

# What each word makes of the file system, in this order; every one that a unit has is here or in `Service`.
_PROTECTIONS = {
    "ProtectSystem=strict": ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run"],
    "PrivateDevices=yes": ["--dev", "/dev"],
    "PrivateTmp=yes": ["--tmpfs", "/tmp", "--tmpfs", "/var/tmp"],
    "ProtectHome=yes": ["--tmpfs", "/home", "--tmpfs", "/root", "--tmpfs", "/run/user"],
}
# bubblewrap has it so always.
_ALWAYS = {"NoNewPrivileges=yes", "CapabilityBoundingSet="}
_KNOWN = set(
    "Type Restart ExecStart ExecReload KillMode User WorkingDirectory Environment LimitNOFILE StateDirectory".split()
)


class Service:
    """One unit.

    Args:
        text: of the unit.
        shop: what stands in ``/srv/shop``.
        folder: for what it keeps over its runs.
        env: what a test adds to its environment.
    """

    def __init__(self, text: str, shop: Path, folder: Path, *, env: dict[str, str] | None = None) -> None:
        self._shop = shop
        self._folder = folder
        folder.mkdir(parents=True)
        (folder / "notify").touch()
        self._env = env or {}
        self._said: dict[str, list[str]] = defaultdict(list)
        section = ""
        for line in text.splitlines():
            if line.startswith("["):
                section = line
            elif section == "[Service]" and line and line[0] not in "#;":
                name, _, value = line.partition("=")
                self._said[name].append(value)

    def sandbox(self) -> Sandbox:
        """What it is to be started in.

        Raises:
            AssertionError: the unit says something that is not known here, and so is not tested.
        """
        said = {f"{name}={value}" for name, values in self._said.items() for value in values}
        mounts: list[str] = []
        for word, made in _PROTECTIONS.items():
            assert word in said, f"the unit has no {word}"
            mounts += made
        unknown = {word.partition("=")[0] for word in said - set(_PROTECTIONS) - _ALWAYS} - _KNOWN
        assert not unknown, f"what the test does of a unit leaves out {unknown}"
        for path in PYTHON:  # the home of whoever runs the tests may have it
            mounts += ["--ro-bind", str(path), str(path)]
        mounts += ["--remount-ro", "/home", "--remount-ro", "/root"]
        mounts += ["--ro-bind", str(self._passwd()), "/etc/passwd"]
        mounts += ["--tmpfs", "/srv", "--ro-bind", str(self._shop), "/srv/shop"]
        mounts += ["--ro-bind", sys.prefix, "/srv/shop/venv", "--remount-ro", "/srv"]
        for name in self._said["StateDirectory"]:
            (self._folder / name).mkdir(exist_ok=True)
            mounts += ["--tmpfs", "/var/lib", "--bind", str(self._folder / name), f"/var/lib/{name}"]
        mounts += ["--bind", str(self._folder / "notify"), NOTIFY]
        assert self._said["User"] == [USER]
        env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": "/home/shop",
            "USER": USER,
            "NOTIFY_SOCKET": NOTIFY,
        }
        env |= dict(word.split("=", 1) for word in self._said["Environment"]) | self._env
        [command] = self._said["ExecStart"]
        [files] = map(int, self._said["LimitNOFILE"])
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return Sandbox(
            shlex.split(command),
            mounts,
            env,
            uid=UID,
            folder=self._said["WorkingDirectory"][-1] if self._said["WorkingDirectory"] else "/",
            most_files=min(files, hard),
        )

    def start(self, pod: Pod) -> Running:
        """`systemctl start`: returns when it says that it is ready."""
        assert self._said["Type"] == ["notify"]
        path = self._folder / "notify"
        path.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(path))
            notified.setblocking(False)
            running = pod.start(self.sandbox())
            said: list[bytes] = []

            def ready() -> bool:
                with contextlib.suppress(BlockingIOError):
                    said.append(notified.recv(4096))
                return running.over or any(b"READY=1" in message for message in said)

            wait_until(ready, 20, f"READY=1 of {self._said['ExecStart']}")
        assert not running.over, running.log()
        return running

    def reload(self, running: Running) -> list[str]:
        """`systemctl reload`'s command line."""
        [command] = self._said["ExecReload"]
        return shlex.split(command.replace("$MAINPID", str(running.pid)))

    def _passwd(self) -> Path:
        path = self._folder / "passwd"
        path.write_text(f"root:x:0:0::/root:/bin/sh\n{USER}:x:{UID}:{UID}::/home/shop:/usr/sbin/nologin\n")
        return path
