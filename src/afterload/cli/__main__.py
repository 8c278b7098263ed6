"""``python -m afterload.cli``."""

import sys

from . import main

sys.exit(main())
