"""`viewfinder reindex --ray` as a Ray job.

python jobs/reindex.py --model ViT-L-14::openai
ray job submit --working-dir . -- python jobs/reindex.py --when-model-changed
"""

import sys
from collections.abc import Sequence

from viewfinder.cli.main import main as viewfinder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit status."""
    return viewfinder(["reindex", "--ray=", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
