"""A certificate for a server that does TLS itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificate(directory: Path) -> tuple[str, str]:
    """Make a self-signed certificate and its key; return their paths."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is missing, and makes the certificate")
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=50)
    return str(cert), str(key)
