"""``python -m canary_release``: the command line."""

import sys

from canary_release.cli import main

sys.exit(main())
