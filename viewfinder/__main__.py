"""`python -m viewfinder` is the `viewfinder` command."""

import sys

from viewfinder.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
