"""`python -m tests.hostile`."""

import sys

from hostile.cli import main

sys.exit(main())
