"""Mistakes in the input of `viewfinder reindex` that are found without Ray."""

import pytest

from tests.cli.conftest import Mistake
from tests.fixtures.indexing import World

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("flags", "environment", "status", "says"),
    [
        (["--index", "nothing"], {}, 2, "viewfinder index"),
        (["--model", "ViT-B-23::openai"], {}, 2, "ViT-B-32::openai"),
        (["--rollback"], {}, 2, "no retired collection"),
        (["--evaluation-set", "/no/such/file.jsonl", "--rebuild"], {}, 2, "/no/such/file.jsonl"),
        (
            ["--dry-run"],
            {"VIEWFINDER_QDRANT_URL": "http://127.0.0.1:9", "VIEWFINDER_QDRANT_RETRY_S": "0"},
            1,
            "http://127.0.0.1:9",
        ),
    ],
)
def test_a_mistake_is_one_clear_message(
    world: World, make_mistake: Mistake, flags: list[str], environment: dict[str, str], status: int, says: str
) -> None:
    world.sync()
    make_mistake(["reindex", *flags], environment).check_message(status, says)
