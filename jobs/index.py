"""`viewfinder index --ray` as a Ray job.

python jobs/index.py s3://bucket/prefix
ray job submit --working-dir . -- python jobs/index.py s3://bucket/prefix

The run is in viewfinder/indexing/run.py, its stages on Ray Data are in viewfinder/cluster/executor.py:

    list ──► compare ──► fetch and decode ──► encode ──► write
             tasks       tasks on CPUs        actors     tasks
"""

import sys
from collections.abc import Sequence

from viewfinder.cli.main import main as viewfinder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit status."""
    return viewfinder(["index", "--ray=", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
