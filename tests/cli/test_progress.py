"""The progress of a run as lines of a log."""

import pytest

from viewfinder.cli.progress import progress_line


@pytest.mark.parametrize(
    ("counts", "elapsed", "line"),
    [
        ({}, 20.0, "1,800 objects to go, starting workers"),
        ({"indexed": 900}, 20.0, "900 of 1,800 objects, 45/s, about 20 s left (900 indexed)"),
        ({"indexed": 18, "failed": 0}, 40.0, "18 of 1,800 objects, 0.45/s, about 3,960 s left (18 indexed)"),
        ({"unchanged": 1800}, 20.0, "1,800 of 1,800 objects (1,800 unchanged)"),
    ],
)
def test_a_line_has_the_speed_and_the_time_left_until_all_are_done(
    counts: dict[str, int], elapsed: float, line: str
) -> None:
    assert progress_line(counts, 1800, elapsed) == line
