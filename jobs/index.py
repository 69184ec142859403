"""Index a bucket of images: list → compare with what is indexed → fetch, decode, encode → Qdrant.

python jobs/index.py --source s3://bucket/prefix
ray job submit --working-dir . -- python jobs/index.py --source s3://bucket/prefix
"""

import sys

from viewfinder.cli.index_job import main

__all__ = ["main"]


if __name__ == "__main__":
    sys.exit(main())
