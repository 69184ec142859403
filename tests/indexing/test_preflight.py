"""Mistakes that the job finds before anything is started."""

import pytest
import ray

from jobs.index import main
from tests.fixtures.indexing import World
from tests.indexing.pictures import fill

NAMES = ["00.jpg", "01.jpg"]


@pytest.mark.parametrize(
    ("flags", "environment", "status", "said"),
    [
        (["--source", "s3://no-such-bucket"], {}, 2, "no-such-bucket"),
        (["--source", "SOURCE/no/such/prefix"], {}, 2, "no/such/prefix"),
        (["--source", "/no/such/directory"], {}, 2, "/no/such/directory"),
        (["--source", "gs://bucket/x"], {}, 2, "gs://"),
        (["--source", "SOURCE", "--model", "ViT-B-23::openai"], {}, 2, "ViT-B-32::openai"),
        (["--source", "SOURCE"], {"VIEWFINDER_QDRANT_URL": "http://127.0.0.1:9"}, 1, "http://127.0.0.1:9"),
        (["--source", "SOURCE"], {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}, 2, "secret"),
        (["--source", "SOURCE"], {"VIEWFINDER_S3_ENDPOINT_URL": "http://127.0.0.1:9"}, 2, "http://127.0.0.1:9"),
        (["--source", "SOURCE"], {"VIEWFINDER_MODLE": "demo"}, 2, "VIEWFINDER_MODEL"),
        (["--source", "SOURCE", "--captions", "SOURCE/none.json"], {}, 2, "none.json"),
    ],
)
def test_a_mistake_is_one_message_before_ray_is_started(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    environment: dict[str, str],
    status: int,
    said: str,
) -> None:
    fill(world.bucket, NAMES)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = ray.is_initialized()
    assert main([flag.replace("SOURCE", world.source) for flag in flags]) == status
    error = capsys.readouterr().err
    message = error[error.index("error: ") :]
    assert said in message
    assert "Traceback" not in error
    assert ray.is_initialized() == before
    assert "not-the-secret" not in message, "a secret is never repeated"
