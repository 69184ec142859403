"""Words in messages."""

import pytest

from viewfinder.wording import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "object", "0 objects"),
        (1, "object", "1 object"),
        (2000, "point", "2,000 points"),
        (2, "query", "2 queries"),
    ],
)
def test_a_count_agrees_with_its_noun(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text
