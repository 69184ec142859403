"""Bring an index up to date, or change its model: build a collection beside the live one → verify → promote.

python jobs/reindex.py [--model NAME]
ray job submit --working-dir . -- python jobs/reindex.py --when-model-changed
"""

import sys
from collections.abc import Sequence

from viewfinder.cli.entry import finish, stdout
from viewfinder.reindexing.options import Action, ReindexOptions, parse_action
from viewfinder.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; 0 done or nothing to do, 1 failed or refused, 2 wrong usage or configuration."""
    action, options = parse_action(argv)
    return finish(lambda: run(action, options, Settings.load(index=options.index)))


def run(action: Action, options: ReindexOptions, settings: Settings) -> int:
    """Carry out one action; only a re-index needs the cluster."""
    # Ray and the rest take seconds to import; a misspelled flag is answered before.
    from viewfinder.cli import reindex_report, status_table
    from viewfinder.cli.progress import ConsoleProgress
    from viewfinder.cluster import session as cluster
    from viewfinder.cluster.executor import RayExecutor
    from viewfinder.indexing import preflight
    from viewfinder.indexing.report import Report
    from viewfinder.indexing.run import Indexer
    from viewfinder.reindexing import rollback, status, workflow
    from viewfinder.sources.objects import ObjectAccess
    from viewfinder.store import StoreAddress

    preflight.check_target(options.model or settings.model, settings)
    if action != "reindex":
        with cluster.open_store(settings) as store:
            match action:
                case "rollback":
                    reindex_report.show_rollback(rollback.roll_back(settings, store))
                case "release":
                    reindex_report.show_release(rollback.release(settings, store), settings.index)
                case "status":
                    found = status.read(store, settings.index)
                    for part in (status_table.table(found), *status_table.notes(found)):
                        stdout().print(part)
        return 0

    if options.when_model_changed:
        # A scheduler asks often.
        with cluster.open_store(settings) as store:
            if workflow.has_wanted_model(options, settings, store):
                return 0

    report = Report.open(settings, ObjectAccess.of(settings), options.report, dry_run=options.dry_run)
    with report, cluster.join(settings, StoreAddress.of(settings)) as store, report.workspace() as workspace:
        indexer = Indexer(settings, store, RayExecutor(), report.run_id, workspace, progress=ConsoleProgress())
        result = workflow.reindex(options, settings, store, indexer, report)
    reindex_report.show(result)
    return result.exit_status


if __name__ == "__main__":
    sys.exit(main())
