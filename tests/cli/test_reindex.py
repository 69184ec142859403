"""Mistakes in the input of `viewfinder reindex` that are found without Ray."""

import pytest

from tests.cli.conftest import Viewfinder
from tests.fixtures.indexing import World
from tests.indexing.sample_images import fill

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
    world: World,
    viewfinder: Viewfinder,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    environment: dict[str, str],
    status: int,
    says: str,
) -> None:
    fill(world.bucket, ["00.jpg", "01.jpg"])
    world.sync()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = viewfinder("reindex", *flags)
    done.check_message(status, says)
