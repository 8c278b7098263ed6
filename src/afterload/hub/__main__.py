"""``python -m afterload.hub``: the hub process that an app starts; by hand it is ``afterload hub``."""

from __future__ import annotations

import argparse
import sys

from ..settings import Settings
from .process import run


def main() -> int:
    """Runs the hub of a namespace."""
    parser = argparse.ArgumentParser(prog="python -m afterload.hub")
    parser.add_argument("namespace")
    parser.add_argument("--idle", type=float, default=None)
    parser.add_argument("--detach", action="store_true")
    arguments = parser.parse_args()
    settings = Settings(namespace=arguments.namespace)
    return run(arguments.namespace, settings, idle=arguments.idle, detach=arguments.detach)


if __name__ == "__main__":
    sys.exit(main())
