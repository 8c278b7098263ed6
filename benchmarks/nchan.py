"""A hub process beside nginx with nchan, which is C and does the same: one publish to many event streams."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .bench import Bench, Subject, caveat, fitted, in_turns, looper, middle, ratio
from .holding import idle
from .hubs import KEEPING
from .publisher import Http
from .servers import BLOCK, Server, wait
from .system import BenchError, Process, children, listening
from .table import Row

INTERVAL = 0.05
# One worker, as a hub is one process; as many messages as our history has entries, and they do not expire either. What
# is not named has its default. The publisher's connection is kept, as it is here.
CONFIGURATION = """\
daemon off;
worker_processes 1;
load_module {module};
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {directory}/temp;
    proxy_temp_path {directory}/temp;
    fastcgi_temp_path {directory}/temp;
    uwsgi_temp_path {directory}/temp;
    scgi_temp_path {directory}/temp;
    keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{port};
        location = /bench {{
            nchan_subscriber eventsource;
            nchan_channel_id bench;
        }}
        location = /publish {{
            nchan_publisher http;
            nchan_channel_id bench;
            nchan_store_messages on;
            nchan_message_buffer_length 1000;
            nchan_message_timeout 0;
        }}
        location = /version {{ nchan_stub_status; }}
        location = /plain {{ return 200 "ok"; }}
    }}
}}
"""


def found() -> tuple[str, Path, str] | None:
    """The program, nchan's module and the program's version, where both are installed."""
    # not in everybody's path
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        return None
    said = subprocess.run([program, "-V"], capture_output=True, text=True).stderr
    modules, version = (re.search(form, said) for form in (r"--modules-path=(\S+)", r"nginx/(\S+)"))
    if modules is None or version is None:
        return None
    module = Path(modules[1]) / "ngx_nchan_module.so"
    return (program, module, version[1]) if module.exists() else None


@contextlib.contextmanager
def nginx(bench: Bench) -> Iterator[Server]:
    """nginx with nchan, and one worker.

    Raises:
        BenchError: it is not installed, or does not begin.
    """
    installed = found()
    if installed is None:
        raise BenchError("there is no nginx with nchan (Debian: apt-get install nginx libnginx-mod-nchan)")
    program, module, _ = installed
    directory = bench.directory / "nginx"
    directory.mkdir(exist_ok=True)
    with listening() as (fd, port):
        written = directory / "nginx.conf"
        written.write_text(
            CONFIGURATION.format(
                module=module, directory=directory, port=port, connections=min(bench.files, 20_000) - 100
            )
        )
        command = [program, "-e", "stderr", "-c", str(written)]
        # The socket it inherits is the one that its configuration names: this is how it is given to a new nginx
        # by an old one (https://nginx.org/en/docs/control.html#upgrade).
        with Process(command, env={"NGINX": f"{fd};"}, pass_fds=(fd,)) as process:
            wait(process, port)
            workers = children(process.pid)
            if len(workers) != 1:
                raise BenchError(f"nginx has {len(workers)} children instead of one worker")
            yield Server(port, workers[0], process)


def nchan(bench: Bench) -> Iterator[Row]:
    """A hub process beside nginx with nchan: CPU for each value that reaches a viewer, and memory for each viewer.

    nginx has one worker, its messages in memory, as many of them as our history has entries, and no access log.
    The same blocks go to as many viewers as often, in turns, the C loop among them. The CPU is that of the
    process that sends: nginx's worker, which takes the POSTs that publish itself, and the hub, for which a gunicorn
    worker takes them; what that one uses is said beside it. The memory is what is private to the same process,
    and grows with idle viewers.
    """
    viewers = bench.size(2000)
    bench.note(f"a hub process beside nginx with nchan, {viewers:,} viewers")
    with (
        bench.hubbed(1, *KEEPING) as hub,
        nginx(bench) as peer,
        bench.reference() as c,
        bench.hold(hub, viewers) as hub_load,
        bench.hold(peer, viewers) as peer_load,
        bench.hold(c, viewers) as c_load,
        fitted(hub, hub_load, viewers) as ours,
        fitted(peer, peer_load, viewers) as theirs,
    ):
        named = name(peer)
        reference = Subject(c, c_load, viewers, looper(c))
        reference.turn(5, INTERVAL)
        count = 5 if bench.small else 25
        turns, peers, references = in_turns((ours, theirs, reference), bench.rounds(12), count, INTERVAL)
    yield from _cpu(viewers, named, turns, peers, references)
    with bench.hubbed(1, *KEEPING) as hub:
        held, each, _ = idle(bench, hub)
    with nginx(bench) as peer:
        _, of_peer, _ = idle(bench, peer)
    yield Row(
        f"user memory per idle viewer of a hub process, {held:,} viewers",
        "≤ 0.125 × nginx with nchan",
        f"{each / of_peer:.3f} × ({each / 1024:.2f} KB; {named} {of_peer / 1024:.2f} KB)",
        each <= of_peer / 8,
        {"bytes": each, "nchan": of_peer},
        short=f"{each / of_peer:.3f} × ({each / 1024:.2f} KB)",
    )


def _cpu(
    viewers: int,
    named: str,
    turns: list[dict[str, Any]],
    peers: list[dict[str, Any]],
    references: list[dict[str, Any]],
) -> Iterator[Row]:
    details = {"turns": turns, "nchan": peers, "references": references}
    found = ratio(turns, peers)
    ours, theirs, least, workers = (
        middle(of, what)
        for of, what in ((turns, "micros"), (peers, "micros"), (references, "micros"), (turns, "workers"))
    )
    yield Row(
        f"CPU per delivery of a hub process, {BLOCK} B every 50 ms, {viewers:,} viewers",
        "≤ 0.55 × nginx with nchan",
        f"{found:.2f} × ({ours:.1f} µs, and {workers:.1f} µs in the worker that publishes; {named} {theirs:.1f} µs; "
        f"C loop {least:.1f} µs, which is {ratio(references, peers):.2f} ×){caveat(turns)}",
        found <= 0.55,
        details,
        short=f"{found:.2f} × (C loop: {ratio(references, peers):.2f} ×)",
    )
    yield Row(
        "the same, of what is beyond the C loop",
        "",
        f"{(ours - least) / (theirs - least):.2f} × ({ours - least:.1f} µs; {named} {theirs - least:.1f} µs)",
        None,
        details,
        short=f"{(ours - least) / (theirs - least):.2f} ×",
    )


def name(server: Server) -> str:
    """Which nginx with which nchan it is."""
    with contextlib.closing(Http(server.port)) as http:
        nchan = re.search(r"nchan version: (\S+)", http.ask("GET", "/version"))
    installed = found()
    assert installed is not None
    assert nchan is not None
    return f"nginx {installed[2]} with nchan {nchan[1]}"
