"""Mistakes in the input of `viewfinder index` that only a bucket, a store or a model can reveal; without Ray."""

import pytest

from tests.cli.conftest import Viewfinder
from tests.fixtures.indexing import World
from tests.indexing.sample_images import fill

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("flags", "environment", "status", "says"),
    [
        (["s3://no-such-bucket"], {}, 2, "no-such-bucket"),
        (["SOURCE/no/such/prefix"], {}, 2, "no/such/prefix"),
        (["/no/such/directory"], {}, 2, "/no/such/directory"),
        (["gs://bucket/x"], {}, 2, "gs://"),
        (["SOURCE", "--model", "ViT-B-23::openai"], {}, 2, "ViT-B-32::openai"),
        (["SOURCE"], {"VIEWFINDER_QDRANT_URL": "http://127.0.0.1:9"}, 1, "http://127.0.0.1:9"),
        (["SOURCE"], {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}, 2, "secret"),
        (["SOURCE"], {"VIEWFINDER_S3_ENDPOINT_URL": "http://127.0.0.1:9"}, 2, "http://127.0.0.1:9"),
        (["SOURCE"], {"VIEWFINDER_MODLE": "demo"}, 2, "VIEWFINDER_MODEL"),
        (["SOURCE", "--captions", "SOURCE/none.json"], {}, 2, "none.json"),
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
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = viewfinder("index", *(flag.replace("SOURCE", world.source) for flag in flags))
    done.check_message(status, says)
    assert "not-the-secret" not in done.err, "a secret is never repeated"
