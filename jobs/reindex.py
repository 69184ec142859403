"""Keep an index up to date, and change its model without an outage: build beside the live one → verify → switch.

python jobs/reindex.py [--model NAME]
ray job submit --working-dir . -- python jobs/reindex.py --when-model-changed
"""

import sys
from collections.abc import Sequence

from viewfinder.cli.entry import finish
from viewfinder.reindexing.options import ReindexOptions, parse
from viewfinder.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; 0 done or nothing to do, 1 failed or refused, 2 wrong usage or configuration."""
    options = parse(argv)
    return finish(lambda: run(options, Settings.load(index=options.index)))


def run(options: ReindexOptions, settings: Settings) -> int:
    """Answer what can be answered at once; all else is `viewfinder.reindexing.workflow`, with Ray."""
    # Ray and the rest take seconds to import; a misspelled flag is told before.
    from viewfinder.cli.progress import ConsoleProgress
    from viewfinder.cluster import session as cluster
    from viewfinder.cluster.executor import RayExecutor
    from viewfinder.indexing import preflight
    from viewfinder.indexing.run import Indexer
    from viewfinder.reindexing import operations
    from viewfinder.reindexing.report import ReindexReport
    from viewfinder.reindexing.workflow import Reindex
    from viewfinder.store import StoreAddress

    preflight.check_target(options.model or settings.model, settings)
    for wanted, operation in (
        (options.status, operations.show),
        (options.release, operations.release),
        (options.rollback, operations.roll_back),
    ):
        if wanted:
            with cluster.open_store(settings) as store:
                return operation(store, settings)

    if options.when_model_changed:
        with cluster.open_store(settings) as store:
            if operations.has_model(store, settings, options.model):
                return 0

    access = preflight.object_access(settings)
    report = ReindexReport.open(settings, access, options.report, dry_run=options.dry_run)
    with report, cluster.join(settings, StoreAddress.of(settings)) as store, report.workspace() as workspace:
        indexer = Indexer(settings, store, RayExecutor(), report.run_id, workspace, progress=ConsoleProgress())
        return Reindex(options, settings, access, store, indexer, report).run()


if __name__ == "__main__":
    sys.exit(main())
