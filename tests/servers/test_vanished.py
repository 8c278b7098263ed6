"""A page whose machine vanishes without a word (a closed laptop, a pulled cable) is not held for long."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.deploy.pod import bubblewrap
from tests.docs.markdown import ROOT


def test_a_peer_that_vanished_is_noticed_by_its_silence() -> None:
    network = ["--unshare-net", "--unshare-user", "--cap-add", "CAP_NET_ADMIN"]
    command = [bubblewrap(), "--dev-bind", "/", "/", *network, "--chdir", str(ROOT)]
    command += [sys.executable, "-m", "tests.servers.vanished"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = json.loads(said)
    print(f"gone after {found['heartbeats']:.1f} heartbeats")
    # By itself TCP tries for a quarter of an hour.
    assert (found["before"], found["after"], found["ended_reset"]) == (1, 0, 1)
    assert found["heartbeats"] < 10
