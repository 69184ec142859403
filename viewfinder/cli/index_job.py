"""The index job on Ray: `jobs/index.py`."""

from collections.abc import Sequence

from viewfinder.cli.entry import finish
from viewfinder.indexing.options import IndexOptions, parse
from viewfinder.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; 0 done, 1 failed or too many failures, 2 wrong usage or configuration."""
    options = parse(argv)
    return finish(lambda: run(options, Settings.load(index=options.index)))


def run(options: IndexOptions, settings: Settings) -> int:
    """Check, run on Ray, and print the report."""
    # Ray and the rest take seconds to import; a misspelled flag is answered before.
    from viewfinder.cli.index_report import print_plan, print_summary
    from viewfinder.cli.progress import ConsoleProgress
    from viewfinder.cluster.executor import RayExecutor
    from viewfinder.cluster.session import join
    from viewfinder.indexing import preflight
    from viewfinder.indexing.report import Report, Summary
    from viewfinder.indexing.run import index
    from viewfinder.store import StoreAddress

    preflight.check(options, settings)
    # Opened first: a wrong destination is found before Ray is started.
    report = Report.open(settings, preflight.object_access(settings), options.report, dry_run=options.dry_run)
    with report, join(settings, StoreAddress.of(settings)) as store:
        result = index(options, settings, store, RayExecutor(), progress=ConsoleProgress(), report=report)
    if isinstance(result, Summary):
        return print_summary(result)
    print_plan(result)
    return 0
