"""Index a bucket of images: list → compare with what is indexed → fetch, decode, encode → Qdrant.

python jobs/index.py --source s3://bucket/prefix
ray job submit --working-dir . -- python jobs/index.py --source s3://bucket/prefix
"""

import sys
from collections.abc import Sequence

from viewfinder.cli.entry import finish
from viewfinder.indexing.options import Options, parse
from viewfinder.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; 0 done, 1 failed or too many failures, 2 wrong usage or configuration."""
    options = parse(argv)
    return finish(lambda: run(options, Settings.load(index=options.index)))


def run(options: Options, settings: Settings) -> int:
    """The flow, from sources to report."""
    # Ray and the rest take seconds to import; a misspelled flag is told before.
    from viewfinder.cluster import session as cluster
    from viewfinder.indexing import preflight
    from viewfinder.indexing.report import Report
    from viewfinder.indexing.run import Sync

    reach = preflight.check_reach(options, settings)
    report = Report.open(settings, reach.access, options.report, dry_run=options.dry_run)
    with report, cluster.join(settings, reach.address) as store, report.workspace() as workspace:
        checkpoint = preflight.choose_model(options, settings, store)
        preflight.check_worker(options.sources, reach)

        manifest = preflight.list_objects(options, reach.access, workspace)
        collection = preflight.open_collection(store, settings, checkpoint, create=not options.dry_run)
        sync = Sync(options, settings, reach, store, collection, manifest)
        if collection is None or options.dry_run:
            return report.dry_run(*sync.plan())
        return report.finish(store, collection, sync.carry_out(checkpoint, report), options.max_failure_ratio)


if __name__ == "__main__":
    sys.exit(main())
