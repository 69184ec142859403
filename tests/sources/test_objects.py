"""Objects by URI: canonical URIs, local files, a real S3 endpoint, and an endpoint with planned faults."""

import hashlib
import os
import pickle
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest

from tests.sources import faulty
from tests.sources.faulty import CONTENT, ETAG, Answer, FaultyS3, error, page
from viewfinder.errors import ObjectError, SourceError, ViewfinderError
from viewfinder.sources.access import ObjectAccess, ObjectInfo
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import canonical_uri, file_path, file_uri, point_id, s3_parts
from viewfinder.sources.versions import Version
from viewfinder.testing.objects import MemoryObjects
from viewfinder.testing.s3 import S3Endpoint

pytestmark = pytest.mark.slow

ODD_NAMES = ["a b.jpg", "#1?.jpg", "100%.jpg", "%20.jpg", "größe 图.jpg", "a+b&c=d.jpg", "'\"<>.jpg", "a\\b.jpg", "~x"]
ODD_KEYS = [*ODD_NAMES, "a//b", "/a", "a/", "a/../b", "./a", "a\nb", " a ", "s3://b/c"]


@pytest.fixture(autouse=True)
def no_aws_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the AWS configuration of this machine, and send no request to a metadata service."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


# Canonical URIs


@pytest.mark.parametrize("key", ODD_KEYS)
def test_an_s3_key_is_unchanged_in_its_uri(key: str) -> None:
    uri = canonical_uri(f"s3://bucket/{key}")
    assert uri == f"s3://bucket/{key}"
    assert s3_parts(uri) == ("bucket", key)


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("s3://b", "s3://b"),
        ("s3://b/", "s3://b"),
        ("S3://b/p/", "s3://b/p/"),
        ("/data/x.jpg", "file:///data/x.jpg"),
        ("/data//y/../x.jpg/", "file:///data/x.jpg"),
        ("//data/x.jpg", "file:///data/x.jpg"),
        ("/data/a b#?%.jpg", "file:///data/a%20b%23%3F%25.jpg"),
        ("file:///data/a b.jpg", "file:///data/a%20b.jpg"),
        ("file:///data/a%20b.jpg", "file:///data/a%20b.jpg"),
        ("file://localhost/data", "file:///data"),
        ("/", "file:///"),
    ],
)
def test_each_object_has_one_canonical_uri(text: str, uri: str) -> None:
    assert canonical_uri(text) == uri
    assert canonical_uri(uri) == uri


def test_a_relative_path_is_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert canonical_uri("photos") == file_uri(str(tmp_path / "photos"))


@pytest.mark.parametrize("name", [*ODD_NAMES, os.fsdecode(b"latin-\xe9.jpg"), "a\nb"])
def test_file_names_survive_the_round_trip_through_a_uri(name: str) -> None:
    uri = file_uri(f"/data/{name}")
    assert uri.isascii()
    assert file_path(uri) == f"/data/{name}"
    assert canonical_uri(uri) == uri


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://x/y.jpg", "http:// is not supported"),
        ("gs://b/k", "supported are s3://"),
        ("s3a://b/k", "Write s3:// instead"),
        ("s3://", "has no bucket"),
        ("s3:///k", "has no bucket"),
        ("s3://b/\udc80", "not valid Unicode"),
        ("file://host/x", "three slashes"),
        ("", "empty"),
        ("a\0b", "NUL"),
    ],
)
def test_an_unsupported_source_is_refused_with_what_is_supported(text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        canonical_uri(text)


def test_point_ids_never_change() -> None:
    assert point_id("s3://bucket/a b.jpg") == "42fd512b-0975-5f1c-9b5f-e9b9f9b14b14"
    assert point_id("s3://bucket/a%20b.jpg") != point_id("s3://bucket/a b.jpg")


def test_objects_sent_to_workers_can_be_pickled_and_contain_no_credentials() -> None:
    access = ObjectAccess("http://x", threads=4)
    info = ObjectInfo("s3://b/k", "b", "k", 1, "e", "")
    assert pickle.loads(pickle.dumps((access, info))) == (access, info)
    assert not [field.name for field in fields(access) if "key" in field.name or "secret" in field.name]


# Local files


def test_the_etag_of_a_local_file_changes_with_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a b#%.jpg"
    path.write_bytes(b"one")
    uri = file_uri(str(path))
    with Objects() as objects:
        data, version = objects.read(uri, 10)
        assert (data, version) == (b"one", objects.stat(uri).version)
        path.write_bytes(b"other")
        assert objects.read(uri, 10).version.etag != version.etag


def _missing(directory: Path) -> Path:
    return directory / "missing"


def _below_a_file(directory: Path) -> Path:
    (directory / "file").touch()
    return directory / "file" / "x"


def _pipe(directory: Path) -> Path:
    os.mkfifo(directory / "pipe")
    return directory / "pipe"


def _socket(directory: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / "s"))
    return directory / "s"


def _link_to_itself(directory: Path) -> Path:
    (directory / "loop").symlink_to(directory / "loop")
    return directory / "loop"


def _large(directory: Path) -> Path:
    (directory / "large").write_bytes(b"12345")
    return directory / "large"


def _long_name(directory: Path) -> Path:
    return directory / ("x" * 300)


def _unreadable(directory: Path) -> Path:
    if os.geteuid() == 0:
        pytest.skip("root may read everything: run the tests as another user")
    (directory / "closed").touch(mode=0)
    return directory / "closed"


@pytest.mark.parametrize(
    ("make", "reason", "permanent"),
    [
        (_missing, "not_found", False),
        (_below_a_file, "not_found", False),
        (_link_to_itself, "not_found", False),
        (_long_name, "not_found", False),
        (_pipe, "not_a_file", False),
        (_socket, "not_a_file", False),
        (lambda directory: directory, "not_a_file", False),
        (_large, "too_many_bytes", True),
        (_unreadable, "access_denied", False),
    ],
)
def test_reading_an_unusable_local_file_fails_with_a_reason_and_never_blocks(make, reason, permanent, tmp_path) -> None:  # type: ignore[no-untyped-def]
    uri = file_uri(str(make(tmp_path)))
    with Objects() as objects, pytest.raises(ObjectError) as caught:
        objects.read(uri, 4)
    assert (caught.value.reason, caught.value.permanent) == (reason, permanent)
    assert repr(uri) in caught.value.message


def test_a_directory_is_listed_in_order_without_hidden_and_special_files(tmp_path: Path) -> None:
    for name in ["b/2.jpg", "b/1.jpg", "a.jpg", ".DS_Store", ".git/x", "b/.hidden", "c"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    with Objects() as objects:
        found = [file_path(info.uri) for info in objects.list(file_uri(str(tmp_path)))]
    assert [Path(path).relative_to(tmp_path).as_posix() for path in found] == [
        "a.jpg", "b/1.jpg", "b/2.jpg", "c", "link.jpg",
    ]  # fmt: skip


def test_linked_directories_are_followed_except_into_a_parent(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.jpg").touch()
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "also").symlink_to(tmp_path / "real")
    with Objects() as objects:
        found = sorted(
            Path(info.key).relative_to(tmp_path).as_posix() for info in objects.list(file_uri(str(tmp_path)))
        )
        below = [Path(info.key).name for info in objects.list(file_uri(str(tmp_path / "real")))]
    assert found == ["also/x.jpg", "real/x.jpg"]
    assert below == ["x.jpg"]


def test_a_listing_with_an_unreadable_directory_fails(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything: run the tests as another user")
    (tmp_path / "closed").mkdir(mode=0)
    with Objects() as objects, pytest.raises(SourceError, match="closed"):
        list(objects.list(file_uri(str(tmp_path))))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imgaes", "no file or directory .*imgaes.*Similar names: .*images"),
        ("empty", "no files under"),
        ("pipe", "neither"),
    ],
)
def test_check_says_what_is_wrong_with_a_local_source(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").touch()
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with Objects() as objects:
        objects.check(file_uri(str(tmp_path / "images")))
        objects.check(file_uri(str(tmp_path / "images" / "1.jpg")))
        with pytest.raises(SourceError, match=message):
            objects.check(file_uri(str(tmp_path / name)))


# A real endpoint


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


# An endpoint with planned faults


def _access(server: FaultyS3, **values: float) -> ObjectAccess:
    return ObjectAccess(endpoint_url=server.url, anonymous=True, backoff_s=0.001, **values)  # type: ignore[arg-type]


TRANSIENT = {
    "slow down": error(503, "SlowDown"),
    "too many requests": error(429, "TooManyRequests"),
    "internal error": error(500, "InternalError"),
    "bad gateway": error(502, "BadGateway"),
    "request timeout": error(400, "RequestTimeout"),
    "cut body": faulty.cut_body,
    "dropped connection": faulty.drop,
    "no answer": faulty.hang,
    "no end of the body": faulty.hang_in_body,
    "a body byte by byte": faulty.drip,
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT)
def test_transient_failures_are_retried(fault: Answer) -> None:
    with FaultyS3([fault, fault]) as server, Objects(_access(server, read_timeout_s=0.3)) as objects:
        assert objects.read("s3://b/k", 10_000) == (CONTENT, Version(ETAG, len(CONTENT)))
    assert server.paths == ["/b/k"] * 3


@pytest.mark.parametrize("fault", [error(503, "SlowDown"), faulty.cut_body, faulty.hang])
def test_a_second_attempt_is_made_even_past_the_deadline_but_no_third(fault: Answer) -> None:
    with (
        FaultyS3(then=fault) as server,
        Objects(_access(server, retry_s=0, read_timeout_s=0.3)) as objects,
        pytest.raises(ObjectError, match="after 2 attempts") as caught,
    ):
        objects.read("s3://b/k", 10_000)
    assert caught.value.reason in ("throttled", "unavailable")
    assert not caught.value.permanent
    assert len(server.paths) == 2


def test_a_body_that_arrives_too_slowly_is_a_failure() -> None:
    with (
        FaultyS3(then=faulty.drip) as server,
        Objects(_access(server, retry_s=0, read_timeout_s=0.3)) as objects,
        pytest.raises(ObjectError, match=r"after 2 attempts: .* bytes in 0\.\d s, less than 1,024 a second") as caught,
    ):
        objects.read("s3://b/k", 10_000)
    assert (caught.value.reason, caught.value.permanent) == ("unavailable", False)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (error(404, "NoSuchKey"), "not_found"),
        (error(403, "AccessDenied"), "access_denied"),
        (error(400, "ExpiredToken"), "access_denied"),
        (error(403, "InvalidObjectState"), "archived"),
        (error(400, "InvalidArgument"), "refused"),
    ],
)
def test_permanent_failures_have_a_reason_and_are_not_retried(fault: Answer, reason: str) -> None:
    with (
        FaultyS3([fault]) as server,
        Objects(_access(server)) as objects,
        pytest.raises(ObjectError, match="'s3://b/k'") as caught,
    ):
        objects.read("s3://b/k", 10_000)
    assert (caught.value.reason, caught.value.permanent) == (reason, False)
    assert len(server.paths) == 1


@pytest.mark.parametrize("answer", [faulty.content, faulty.without_length], ids=["with length", "without length"])
def test_objects_up_to_the_limit_are_read_and_larger_ones_refused(answer: Answer) -> None:
    with FaultyS3(then=answer) as server, Objects(_access(server)) as objects:
        assert objects.read("s3://b/k", len(CONTENT))[0] == CONTENT
        with pytest.raises(ObjectError, match="more than 999") as caught:
            objects.read("s3://b/k", len(CONTENT) - 1)
    assert (caught.value.reason, caught.value.permanent) == ("too_many_bytes", True)


@pytest.mark.parametrize("fault", [error(503, "SlowDown"), faulty.cut_body], ids=["slow down", "cut body"])
def test_open_fetches_again_after_a_transient_failure(fault: Answer) -> None:
    with (
        FaultyS3([fault]) as server,
        Objects(_access(server)) as objects,
        objects.open("s3://b/k") as file,
    ):
        assert file.read() == CONTENT


def test_a_listing_continues_after_a_transient_failure_and_skips_directory_markers() -> None:
    plan = [error(404, "NotFound"), page("p/", "p/1", token="t"), error(503, "SlowDown"), page("p/2", "p/d/")]
    with FaultyS3(plan) as server, Objects(_access(server)) as objects:
        found = list(objects.list("s3://b/p"))
    assert [info.key for info in found] == ["p/1", "p/2"]
    assert found[0].last_modified == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (error(503, "SlowDown"), ViewfinderError),
        (error(403, "AccessDenied"), SourceError),
        (page("2", truncated=True), ViewfinderError),  # truncated, but without a continuation token
    ],
)
def test_a_listing_is_complete_or_fails(fault: Answer, kind: type[ViewfinderError], ordered: bool) -> None:
    with (
        FaultyS3([page("1", token="t")], then=fault) as server,
        Objects(_access(server, retry_s=0)) as objects,
        pytest.raises(ViewfinderError) as caught,
    ):
        list(objects.list("s3://b", ordered=ordered))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (error(403, "AccessDenied"), "is not public"),
        (error(301, "PermanentRedirect", x_amz_bucket_region="eu-west-3"), "AWS_DEFAULT_REGION=eu-west-3"),
        (error(403, "RequestTimeTooSkewed"), "clock"),
        (error(403, "ExpiredToken"), "expired"),
        (faulty.web_page, "Is that an S3 endpoint"),
        (faulty.drop, "Cannot reach"),
        (page(), "bucket 'bucket' .* is empty"),
        (page("p/"), "is empty"),
    ],
)
def test_check_explains_each_answer_of_an_endpoint(fault: Answer, message: str) -> None:
    with (
        FaultyS3(then=fault) as server,
        Objects(_access(server)) as objects,
        pytest.raises(SourceError, match=message),
    ):
        objects.check("s3://bucket")


# In memory


def test_given_backends_replace_the_real_ones() -> None:
    memory = MemoryObjects({"s3://b/p": b"1", "s3://b/p/2": b"22", "s3://b/p/": b"", "s3://b/p2": b""})
    with Objects(s3=memory) as objects:
        assert [info.key for info in objects.list("s3://b/p")] == ["p", "p/2"]
        assert objects.read("s3://b/p/2", 2)[0] == b"22"
        with pytest.raises(ObjectError, match="more than 1"):
            objects.read("s3://b/p/2", 1)
        with pytest.raises(SourceError):
            objects.check("s3://b/q")
