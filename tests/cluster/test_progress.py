"""Progress of write tasks, which may run more than once."""

from viewfinder.cluster.progress import WrittenRows


def counts(indexed: int, failed: int = 0, skipped: int = 0) -> dict[str, int]:
    return {"indexed": indexed, "unchanged": 0, "skipped": skipped, "failed": failed}


def test_progress_is_the_sum_of_what_all_tasks_have_stored() -> None:
    written = WrittenRows()
    assert written.counts() == counts(0)
    written.record(0, counts(4))
    written.record(1, counts(2, 1))
    written.record(0, counts(8, skipped=5))
    assert written.counts() == counts(10, 1, 5)


def test_a_task_that_runs_again_counts_once() -> None:
    """After the loss of a node its tasks ran again, and progress went beyond the total."""
    written = WrittenRows()
    written.record(0, counts(8))
    written.record(0, counts(4))
    assert written.counts() == counts(8), "what the lost attempt stored stays stored"
    written.record(0, counts(7, 1))
    assert written.counts() == counts(7, 1)
