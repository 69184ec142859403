"""Objects by URI, on a real S3 endpoint and in memory."""

import hashlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sources.odd_names import ODD_NAMES
from viewfinder.errors import ObjectError, SourceError
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.objects import Objects
from viewfinder.sources.s3_connection import S3Connection
from viewfinder.testing.objects import MemoryObjects
from viewfinder.testing.s3 import S3Endpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    root = tmp_path_factory.mktemp("buckets")
    for name in ["images/1.jpg", "images/deep/2.jpg", "images2/3.jpg", "images.txt", "images-4.jpg", *ODD_NAMES]:
        path = root / "shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (root / "empty").mkdir()
    with S3Endpoint(root) as running:
        yield running


@pytest.fixture
def access(endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> ObjectAccess:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", endpoint.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", endpoint.secret_key)
    return ObjectAccess(endpoint_url=endpoint.url, threads=4)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_unusual_keys_are_listed_read_and_found_under_the_same_uri(name: str, access: ObjectAccess) -> None:
    uri = f"s3://shop/{name}"
    with Objects(access) as objects:
        listed = {info.uri: info for info in objects.list("s3://shop")}[uri]
        data, version = objects.read(uri, 100)
        assert (data, version) == (name.encode(), listed.version)
        assert version.etag == hashlib.md5(name.encode()).hexdigest()
        assert objects.stat(uri) == listed
        with objects.open(uri) as file:
            assert file.read() == name.encode()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ("s3://shop/images", ["images/1.jpg", "images/deep/2.jpg"]),
        ("s3://shop/images/", ["images/1.jpg", "images/deep/2.jpg"]),
        ("s3://shop/images/1.jpg", ["images/1.jpg"]),
        ("s3://shop/images2", ["images2/3.jpg"]),
        ("s3://shop/image", []),
        ("s3://empty", []),
    ],
)
def test_a_prefix_lists_the_object_itself_or_the_objects_below_it(
    source: str, keys: list[str], ordered: bool, access: ObjectAccess
) -> None:
    with Objects(access) as objects:
        assert sorted(info.key for info in objects.list(source, ordered=ordered)) == keys


def test_threads_share_one_instance(access: ObjectAccess) -> None:
    uris = [f"s3://shop/{name}" for name in ODD_NAMES] * 20
    with Objects(access) as objects, ThreadPoolExecutor(access.threads) as pool:
        contents = list(pool.map(lambda uri: objects.read(uri, 1000)[0].decode(), uris))
    assert [f"s3://shop/{content}" for content in contents] == uris


def test_a_written_object_can_be_read_back(access: ObjectAccess, endpoint: S3Endpoint, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"report")
    with Objects(access) as objects:
        objects.write("s3://empty/run/summary.json", tmp_path / "x")
        assert objects.read("s3://empty/run/summary.json", 100)[0] == b"report"
    (endpoint.root / "empty" / "run" / "summary.json").unlink()
    (endpoint.root / "empty" / "run").rmdir()


@pytest.mark.parametrize(
    ("source", "environment", "message"),
    [
        ("s3://shpo/images", {}, r"no bucket 'shpo' at http://127.*Existing buckets: 'shop'"),
        ("s3://shop/imagse", {}, r"nothing at or under 's3://shop/imagse'.*Similar names: .*'s3://shop/images/'"),
        ("s3://shop/image", {}, r"Similar names: .*'s3://shop/images/'"),
        ("s3://empty", {}, "bucket 'empty' .* is empty"),
        ("s3://Not_A_Bucket!/x", {}, "not a valid bucket name"),
        ("s3://shop", {"AWS_ACCESS_KEY_ID": "AKIAWRONG"}, "does not know the access key"),
        ("s3://shop", {"AWS_SECRET_ACCESS_KEY": "sesame-wrong"}, "secret key does not match the access key"),
        ("s3://shop", {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "No credentials.*S3_ANONYMOUS=1"),
        ("s3://shop", {"AWS_PROFILE": "missing"}, r"profile \(missing\).*Check AWS_PROFILE"),
    ],
)
def test_check_says_what_is_wrong_with_an_s3_source(
    source: str, environment: dict[str, str], message: str, access: ObjectAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Objects(access) as objects, pytest.raises(SourceError, match=message) as caught:
        objects.check(source)
    assert secret not in str(caught.value)
    assert "sesame" not in str(caught.value)
    assert "AKIAWRONG" not in str(caught.value)


@pytest.mark.parametrize("source", ["s3://shop", "s3://shop/images", "s3://shop/images/1.jpg"])
def test_check_accepts_sources_that_can_be_listed(source: str, access: ObjectAccess) -> None:
    with Objects(access) as objects:
        objects.check(source)


def test_check_reports_an_unreachable_endpoint() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://user:sesame@127.0.0.1:{unused.getsockname()[1]}"
        with (
            Objects(ObjectAccess(endpoint_url=url, anonymous=True)) as objects,
            pytest.raises(SourceError, match=r"Cannot reach http://127.*VIEWFINDER_S3_ENDPOINT_URL") as caught,
        ):
            objects.check("s3://shop")
    assert "sesame" not in str(caught.value)


def test_given_backends_replace_the_real_ones() -> None:
    memory = MemoryObjects({"s3://b/p": b"1", "s3://b/p/2": b"22", "s3://b/p/": b"", "s3://b/p2": b""})
    with Objects(s3=memory) as objects:
        assert [info.key for info in objects.list("s3://b/p")] == ["p", "p/2"]
        assert objects.read("s3://b/p/2", 2)[0] == b"22"
        with pytest.raises(ObjectError, match="more than 1"):
            objects.read("s3://b/p/2", 1)
        with pytest.raises(SourceError):
            objects.check("s3://b/q")


def test_the_readers_of_all_cores_keep_their_connections(access: ObjectAccess) -> None:
    """A job in one process has as many for each core; the others would connect anew for each object."""
    client = S3Connection(replace(access, threads=16)).connect()
    assert client.meta.config.max_pool_connections >= 16 * (os.cpu_count() or 1)
    client.close()
