"""`viewfinder evaluate` as a Ray job.

python jobs/evaluate.py --evaluation-set queries.jsonl
ray job submit --working-dir . -- python jobs/evaluate.py --evaluation-set queries.jsonl
"""

import sys
from collections.abc import Sequence

from viewfinder.cli.main import main as viewfinder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit status."""
    return viewfinder(["evaluate", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
