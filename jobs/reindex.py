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
    from viewfinder.cluster import session as cluster
    from viewfinder.cluster.executor import ClusterWork
    from viewfinder.indexing import preflight
    from viewfinder.reindexing import operations
    from viewfinder.reindexing.report import ReindexReport
    from viewfinder.reindexing.status import opened
    from viewfinder.reindexing.workflow import Reindex

    reach = preflight.check_target(options.model or settings.model, settings)
    for wanted, operation in (
        (options.status, operations.show),
        (options.release, operations.release),
        (options.rollback, operations.roll_back),
    ):
        if wanted:
            with opened(settings) as store:
                return operation(store, settings)

    if options.when_model_changed:
        with opened(settings) as store:
            if operations.has_model(store, settings, options.model):
                return 0

    report = ReindexReport.open(settings, reach.access, options.report, dry_run=options.dry_run)
    with report, cluster.join(settings, reach.address) as store, report.workspace() as workspace:
        work = ClusterWork(settings, reach, store, report, workspace)
        return Reindex(options, settings, reach, store, work, report).run()


if __name__ == "__main__":
    sys.exit(main())
