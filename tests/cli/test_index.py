"""Mistakes in the input of `viewfinder index` that only a bucket, a store or a model can reveal; without Ray."""

import pytest

from tests.cli.conftest import Mistake

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
    make_mistake: Mistake, flags: list[str], environment: dict[str, str], status: int, says: str
) -> None:
    done = make_mistake(["index", *flags], environment)
    done.check_message(status, says)
    assert "not-the-secret" not in done.err, "a secret is never repeated"
