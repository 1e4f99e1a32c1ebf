"""`python -m flows` is the `eraflow` command."""

import sys

from flows.command import main

sys.exit(main())
