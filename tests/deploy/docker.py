"""Docker's part, as far as the how-tos need it: an image's Dockerfile and a ``docker run`` line become a sandbox."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.pod import PYTHON, Sandbox

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ssl", "/etc/ld.so.cache", "/etc/alternatives")


@dataclass(frozen=True)
class Image:
    """What a Dockerfile makes, of a folder.

    Attributes:
        workdir: where the folder's files are, and the command is started.
        user: number of a user that ``/etc/passwd`` does not know.
        env: what it adds to the environment.
        command: what it runs.
    """

    workdir: str
    user: int
    env: dict[str, str]
    command: list[str]


def image(text: str) -> Image:
    """The image of a Dockerfile; a line that is not known here is not tested, and so an error."""
    said: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line:
            word, _, rest = line.partition(" ")
            said.setdefault(word, []).append(rest)
    assert set(said) == {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "CMD"}
    assert said["COPY"][-1] == ". ."
    [workdir], [user], [command] = said["WORKDIR"], said["USER"], said["CMD"]
    return Image(workdir, int(user), dict(env.split("=", 1) for env in said["ENV"]), json.loads(command))


@dataclass(frozen=True)
class Container:
    """What a ``docker run`` line starts.

    Attributes:
        sandbox: how.
        network: of which other container it is, or "".
    """

    name: str
    sandbox: Sandbox
    network: str


def container(line: str, image: Image, folder: Path, volumes: Path) -> Container:
    """What a ``docker run`` line starts.

    Args:
        line: as it stands in a how-to.
        image: which it is to start.
        folder: that the image was made of.
        volumes: where the volumes are kept.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--read-only", action="store_true", required=True)
    parser.add_argument("--init", action="store_true")
    parser.add_argument("--publish", default="")
    parser.add_argument("--network", default="")
    parser.add_argument("--volume", default="")
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("image", choices=["shop"])
    parser.add_argument("command", nargs=argparse.REMAINDER)
    docker, run, *arguments = shlex.split(line.replace("\\\n", " "))
    assert (docker, run) == ("docker", "run")
    said = parser.parse_args(arguments)
    mounts: list[str] = []
    for path in _SYSTEM:
        if os.path.islink(path):
            mounts += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            mounts += ["--ro-bind", path, path]
    for found in PYTHON:
        mounts += ["--ro-bind", str(found), str(found)]
    # No home: there is no /home, no /root, and no entry for the user. Nothing can be written but /dev/shm.
    passwd = volumes / "passwd"
    passwd.write_text("root:x:0:0::/root:/bin/sh\n")
    mounts += ["--ro-bind", str(passwd), "/etc/passwd", "--dir", "/tmp"]
    mounts += ["--ro-bind", str(folder), image.workdir]
    if said.volume:
        name, _, inside = said.volume.partition(":")
        (volumes / name).mkdir(exist_ok=True)
        mounts += ["--bind", str(volumes / name), inside]
    mounts += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/"]
    env = {
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "HOME": "/",
        **image.env,
        **dict(each.split("=", 1) for each in said.env),
    }
    command = said.command or image.command
    sandbox = Sandbox(command, mounts, env, uid=image.user, folder=image.workdir, first=not said.init)
    return Container(said.name, sandbox, said.network.removeprefix("container:"))
