"""The rules every test runs under hold: CI runs everything, and a failure brings its evidence along."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

SKIPS = {
    "mark": "import pytest\n@pytest.mark.skip(reason='by mark')\ndef test_it(): pass",
    "call": "import pytest\ndef test_it(): pytest.skip('by call')",
    "module": "import pytest\npytest.skip('by module', allow_module_level=True)",
    "fixture": "import pytest\n@pytest.fixture\ndef f(): pytest.skip('by fixture')\ndef test_it(f): pass",
    "xfail": "import pytest\n@pytest.mark.xfail(reason='known')\ndef test_it(): assert False",
}


def run(directory: Path, sources: dict[str, str], ci: str) -> subprocess.CompletedProcess[str]:
    for name, source in sources.items():
        (directory / f"test_{name}.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command += ["-p", "no:hypothesispytest", "--import-mode=importlib", "--continue-on-collection-errors"]
    return subprocess.run(
        [*command, "-c", os.devnull, "--rootdir", directory, directory],
        cwd=ROOT,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def test_a_skipped_test_is_a_skip_at_home(tmp_path):
    done = run(tmp_path, SKIPS, ci="")
    assert done.returncode == 0, done.stdout
    assert "4 skipped, 1 xfailed" in done.stdout


def test_a_skipped_test_fails_in_ci_and_says_why_but_an_expected_failure_does_not(tmp_path):
    done = run(tmp_path, SKIPS, ci="true")
    assert done.returncode == 1
    assert "1 failed, 1 xfailed, 3 errors" in done.stdout
    for way in ("mark", "call", "module", "fixture"):
        assert f"by {way}\nA skipped test is a failure when CI=true." in done.stdout


def test_a_failing_test_shows_the_log_of_its_server(tmp_path):
    source = (
        "def test_it(servers):\n"
        "    servers.command('talker', ['sh', '-c', 'echo said by the server; exec python3 -m http.server '\n"
        "        '--bind 127.0.0.1 {port}'])\n"
        "    assert False\n"
    )
    done = run(tmp_path, {"it": source}, ci="")
    assert done.returncode == 1
    assert "log of talker" in done.stdout
    assert "said by the server" in done.stdout
