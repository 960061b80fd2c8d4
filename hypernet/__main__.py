"""`python -m hypernet`."""

import sys

from hypernet.cli import main

sys.exit(main())
