"""Index runs against MinIO, a second real S3 server: what rclone's has not, such as versions and policies."""

import gzip
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import httpx
import pytest
from botocore.config import Config

from tests.fixtures.indexing import World
from tests.indexing.sample_images import encoded_image
from viewfinder.errors import SourceError
from viewfinder.indexing.executor import InProcessExecutor
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.objects import Objects
from viewfinder.store import StoreAddress, connect
from viewfinder.testing.minio import INSTALL, MinIOServer, find_minio
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.full

CAFE = unicodedata.normalize("NFC", "café")
ODD_NAMES = [
    *(
        "a+b",
        "50%",
        "100%25",
        "a#b",
        "what?",
        "two  spaces",
        " first",
        "a&b=c",
        "semi;colon",
        "quote'\"",
        "tilde~",
        "@:,$",
    ),
    *(
        CAFE,
        unicodedata.normalize("NFD", CAFE),
        "写真",
        "🎈",
        "new\nline",
        "tab\tend",
        "[brackets]",
        "{curly}",
        "back\\slash",
    ),
]


class Bucket:
    """One bucket of MinIO, written by its owner."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name
        client.create_bucket(Bucket=name)

    def put(self, key: str, content: bytes, **options: Any) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content, **options)

    def allow(self, *resources: str) -> None:
        """Let anyone list the bucket, and read the objects in `resources`."""
        whole = f"arn:aws:s3:::{self.name}"
        anyone = {"Effect": "Allow", "Principal": {"AWS": ["*"]}}
        statements: list[Any] = [{**anyone, "Action": ["s3:ListBucket"], "Resource": [whole]}]
        if resources:
            read = [f"{whole}/{each}" for each in resources]
            statements.append({**anyone, "Action": ["s3:GetObject"], "Resource": read})
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        self.client.put_bucket_policy(Bucket=self.name, Policy=policy)


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinIOServer]:
    program = find_minio()
    if program is None:
        pytest.skip(f"MinIO is not installed: {INSTALL}")
    with MinIOServer(program, tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture
def bucket(minio: MinIOServer, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=minio.url, config=Config(s3={"addressing_style": "path"}))
    return Bucket(client, f"bucket-{uuid4().hex[:8]}")


@pytest.fixture
def world(
    minio: MinIOServer,
    bucket: Bucket,
    qdrant: QdrantDouble,
    tiny_model: str,
    executor: InProcessExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    monkeypatch.setenv("VIEWFINDER_S3_ENDPOINT_URL", minio.url)
    monkeypatch.setenv("VIEWFINDER_QDRANT_URL", qdrant.url)
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("VIEWFINDER_MODEL", tiny_model)
    access = ObjectAccess(endpoint_url=minio.url)
    with connect(StoreAddress(data_dir=tmp_path / "data", url=qdrant.url, retry_s=5)) as store:
        yield World(Path(), f"s3://{bucket.name}", access, store, tiny_model, tmp_path, executor)


def test_a_presigned_address_answers_with_the_headers_that_were_signed(minio: MinIOServer, bucket: Bucket) -> None:
    key = "a b+c/café (1).jpg"
    bucket.put(key, encoded_image(1), ContentType="text/html")
    with Objects(ObjectAccess(endpoint_url=minio.url)) as objects:
        address = objects.presigned_url(f"s3://{bucket.name}/{key}", 60, "image/jpeg", 'attachment; filename="a.jpg"')
    assert address is not None
    answer = httpx.get(address)
    assert answer.content == encoded_image(1)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["content-disposition"] == 'attachment; filename="a.jpg"'
    assert httpx.get(address.replace("jpeg", "png")).status_code == 403, "the headers are signed"


def listed_and_indexed(counts: dict[str, int]) -> tuple[int, int]:
    assert counts["listed"] == counts["unchanged"] + counts["indexed"] + counts["skipped"] + counts["failed"]
    return counts["listed"], counts["indexed"]


def test_a_run_indexes_changes_and_prunes_and_a_rerun_fetches_nothing(world: World, bucket: Bucket) -> None:
    for number in range(12):
        bucket.put(f"{number:02}.jpg", encoded_image(number))
    assert listed_and_indexed(world.sync()) == (12, 12)
    assert listed_and_indexed(world.sync()) == (12, 0)
    assert world.images == 0
    bucket.put("03.jpg", encoded_image(99, (64, 64)))
    bucket.client.delete_object(Bucket=bucket.name, Key="11.jpg")
    after = world.sync("--prune")
    assert (listed_and_indexed(after), after["pruned"]) == ((11, 1), 1)
    assert world.points["03.jpg"].payload["width"] == 64
    assert "11.jpg" not in world.points


def test_captions_belong_to_their_images(world: World, bucket: Bucket) -> None:
    bucket.put("a+b.jpg", encoded_image(1))
    bucket.put("50%.jpg", encoded_image(2))
    bucket.put("captions.csv", b"key, Caption\na+b.jpg,a sum\n50%.jpg,a half\n", ContentType="text/csv")
    world.sync("--captions", f"{world.source}/captions.csv", "--exclude", "*.csv")
    assert {key: point.payload["caption"] for key, point in world.points.items()} == {
        "a+b.jpg": "a sum",
        "50%.jpg": "a half",
    }


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_key_with_odd_characters_is_indexed_as_it_is(world: World, bucket: Bucket, name: str) -> None:
    key = f"{name}/{name}.jpg"
    bucket.put(key, encoded_image(1))
    bucket.put(f"{name}2/other.jpg", encoded_image(2))
    assert listed_and_indexed(world.sync()) == (2, 2)
    assert set(world.points) == {key, f"{name}2/other.jpg"}
    assert listed_and_indexed(world.sync()) == (2, 0)
    with Objects(world.access) as objects:
        source = f"{world.source}/{name}"
        assert [info.key for info in objects.list(source)] == [key]
        assert [info.key for info in objects.list(source, ordered=False)] == [key]


def test_a_gzipped_object_is_decoded_and_not_read_again(world: World, bucket: Bucket) -> None:
    bucket.put("a.jpg", gzip.compress(encoded_image(1)), ContentEncoding="gzip")
    assert listed_and_indexed(world.sync()) == (1, 1)
    assert listed_and_indexed(world.sync()) == (1, 0)


def test_an_object_in_parts_keeps_its_version(world: World, bucket: Bucket) -> None:
    content = encoded_image(1) + b"\0" * 6_000_000
    upload = bucket.client.create_multipart_upload(Bucket=bucket.name, Key="a.jpg")["UploadId"]
    of = {"Bucket": bucket.name, "Key": "a.jpg", "UploadId": upload}
    parts = [
        {
            "PartNumber": number,
            "ETag": bucket.client.upload_part(**of, PartNumber=number, Body=content[start : start + 5_242_880])["ETag"],
        }
        for number, start in enumerate(range(0, len(content), 5_242_880), start=1)
    ]
    bucket.client.complete_multipart_upload(**of, MultipartUpload={"Parts": parts})
    assert listed_and_indexed(world.sync()) == (1, 1)
    assert world.points["a.jpg"].payload["etag"].endswith("-2")
    assert listed_and_indexed(world.sync()) == (1, 0)


def test_a_deleted_version_is_gone_and_an_older_one_can_return(world: World, bucket: Bucket) -> None:
    versioning = {"Status": "Enabled"}
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration=versioning)
    for number in range(5):
        bucket.put(f"{number}.jpg", encoded_image(number))
    bucket.put("0.jpg", encoded_image(99, (64, 64)))
    assert listed_and_indexed(world.sync()) == (5, 5)
    assert world.points["0.jpg"].payload["width"] == 64
    marker = bucket.client.delete_object(Bucket=bucket.name, Key="0.jpg")["VersionId"]
    after = world.sync("--prune")
    assert (listed_and_indexed(after), after["pruned"]) == ((4, 0), 1)
    bucket.client.delete_object(Bucket=bucket.name, Key="0.jpg", VersionId=marker)
    newest = next(
        each["VersionId"]
        for each in bucket.client.list_object_versions(Bucket=bucket.name)["Versions"]
        if each["Key"] == "0.jpg" and each["IsLatest"]
    )
    bucket.client.delete_object(Bucket=bucket.name, Key="0.jpg", VersionId=newest)
    assert listed_and_indexed(world.sync()) == (5, 1)
    assert world.points["0.jpg"].payload["width"] == 48


def test_objects_denied_by_a_policy_are_failures_until_they_are_allowed(world: World, bucket: Bucket) -> None:
    for number in range(30):
        bucket.put(f"{'open' if number % 2 else 'closed'}/{number:02}.jpg", encoded_image(number))
    bucket.allow("open/*")
    world.access = ObjectAccess(endpoint_url=world.access.endpoint_url, anonymous=True)
    denied = world.sync()
    assert (listed_and_indexed(denied), denied["failed"]) == ((30, 15), 15)
    assert set(world.recorded_failures(["closed/00.jpg"]).values()) == {"access_denied"}
    bucket.allow("*")
    assert listed_and_indexed(world.sync()) == (30, 15)


def test_a_bucket_that_may_not_be_listed_is_refused_with_the_reason(world: World, bucket: Bucket) -> None:
    bucket.put("a.jpg", encoded_image(1))
    world.access = ObjectAccess(endpoint_url=world.access.endpoint_url, anonymous=True)
    with pytest.raises(SourceError, match="AccessDenied"):
        world.sync()


def test_a_missing_bucket_is_refused_by_its_name(world: World) -> None:
    with pytest.raises(SourceError, match="no-such-bucket"):
        world.sync(source="s3://no-such-bucket")


def test_a_listing_of_several_pages_is_whole_in_any_order(world: World, bucket: Bucket) -> None:
    keys = [f"{number % 7}/{number:04}.jpg" for number in range(2100)]
    for key in keys:
        bucket.put(key, b"x")
    bucket.put("0/", b"")  # a folder marker
    with Objects(world.access) as objects:
        for ordered in (True, False):
            assert sorted(info.key for info in objects.list(world.source, ordered=ordered)) == sorted(keys)
