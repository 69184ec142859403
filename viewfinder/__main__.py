"""`python -m viewfinder` and the console script: the `viewfinder` command."""

import io
import sys


def main() -> int:
    """Run the command line of this process. Ctrl-C while it is still being imported prints no traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of images may have characters that a terminal lacks
    try:
        from viewfinder.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        return 130  # as during a command


if __name__ == "__main__":
    sys.exit(main())
