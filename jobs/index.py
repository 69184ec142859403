"""Index a bucket of images: list → compare with what is indexed → fetch, decode, encode → Qdrant.

python jobs/index.py --source s3://bucket/prefix
ray job submit --working-dir . -- python jobs/index.py --source s3://bucket/prefix
"""

import logging
import sys
from collections.abc import Sequence

from jobs.options import Options, parse
from viewfinder.errors import ViewfinderError
from viewfinder.settings import Settings

logger = logging.getLogger("viewfinder.index")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; 0 done, 1 failed or too many failures, 2 wrong usage or configuration."""
    options = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for noisy in ("ray", "httpx", "botocore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return run(options, Settings.load(index=options.index))
    except ViewfinderError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("Stopped. What is indexed stays; the same command goes on from here.", file=sys.stderr)
        return 1


def run(options: Options, settings: Settings) -> int:
    """The flow, from sources to report."""
    # Ray and the rest take seconds to import; a misspelled flag is told before.
    from jobs import cluster, pipeline, preflight, progress
    from jobs.prune import Prune
    from jobs.report import Report
    from jobs.stages import Compare

    reach = preflight.check_reach(options, settings)
    report = Report.open(options, settings, reach.access)
    with report, cluster.join(settings, reach.address) as store, report.workspace() as workspace:
        checkpoint = preflight.choose_model(options, settings, store)
        preflight.check_worker(options.sources, reach)

        manifest = preflight.list_objects(options, reach.access, workspace)
        collection = preflight.open_collection(store, settings, checkpoint, create=not options.dry_run)
        compare = Compare(reach, collection, captions=options.captions is not None, prune=options.prune)
        prune = Prune.of(options, store, collection, manifest)
        gone = prune.find() if prune else None
        if collection is None or options.dry_run:
            return report.dry_run(manifest, pipeline.actions(manifest, compare), gone)

        report.begin(store, collection, manifest)
        with progress.follow(manifest.listed) as counter:
            outcome = pipeline.index_objects(
                manifest, compare, collection, checkpoint, settings, report.run_id, counter
            )
        pruned = prune.carry_out() if prune else 0
        return report.finish(store, collection, manifest, outcome, pruned, options.max_failure_ratio)


if __name__ == "__main__":
    sys.exit(main())
