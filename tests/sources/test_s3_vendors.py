"""Endpoints, uploaders and credentials that differ from the documentation of S3."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError

from tests.sources import faulty
from tests.sources.faulty import CONTENT, ETAG, Answer, FaultyS3, encoded, error, page
from viewfinder.errors import ObjectError, SourceError, ViewfinderError
from viewfinder.sources import s3_connection
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.objects import Objects
from viewfinder.sources.s3_connection import S3Connection
from viewfinder.sources.uris import canonical_uri, s3_parts

pytestmark = pytest.mark.slow


def test_a_proxy_of_the_environment_is_not_asked_for_an_endpoint_on_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Regression: HTTP_PROXY caught the calls.
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with FaultyS3(then=encoded(CONTENT, "")) as server, Objects(server.access(retry_s=0.0)) as objects:
        assert objects.read("s3://b/k", 10_000).data == CONTENT


# Listings that would not end or not be complete


@pytest.mark.parametrize("ordered", [True, False], ids=["sequential", "parallel"])
@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([page("1", token="t"), page("2", token="t")], "repeated the continuation token 't'"),
        ([page("1", token="t"), page("2", token="u"), page("3", token="t")], "repeated the continuation token 't'"),
        ([page("1", token="t"), page("1", token="u")], "repeated a page"),
        ([page("1", truncated=True)], "no continuation token"),
        ([page("1", token="t"), page("2", truncated=True)], "no continuation token"),
    ],
    ids=["same token", "tokens in a circle", "same page", "no token", "no second token"],
)
def test_an_endless_or_incomplete_listing_is_an_error(answers: list[Answer], message: str, ordered: bool) -> None:
    """A server that repeats its token was listed for ever."""
    # The parallel listing asks twice for the first page: once to see if it is the only one.
    plan = answers if ordered else [answers[0], *answers]
    with (
        FaultyS3(plan, then=answers[-1]) as server,
        Objects(server.access(threads=4)) as objects,
        pytest.raises(ViewfinderError, match=rf"http://127.*'s3://b/'.*{message}"),
    ):
        list(objects.list("s3://b", ordered=ordered))
    assert len(server.paths) <= len(plan) + 1


def test_a_page_without_is_truncated_goes_on_if_it_has_a_token() -> None:
    with (
        FaultyS3([page("1", token="t", truncated=""), page("2", truncated="")]) as server,
        Objects(server.access()) as objects,
    ):
        assert [info.key for info in objects.list("s3://b")] == ["1", "2"]


def test_folder_markers_before_the_first_image_are_not_an_empty_bucket() -> None:
    """Twelve folder markers before the first image made a full bucket "empty"."""
    first, second = page(*(f"{number:04}/" for number in range(1000)), token="t"), page("a/", "b/1.jpg")
    with FaultyS3([first, second]) as server, Objects(server.access()) as objects:
        objects.check("s3://b")
    only = page(*(f"{number:02}/" for number in range(12)))
    with FaultyS3(then=only) as server, Objects(server.access()) as objects, pytest.raises(SourceError, match="empty"):
        objects.check("s3://b")


# Addressing and payment

FORBIDDEN = error(403, "SecondLevelDomainForbidden")


def _in_host_name(answer: Answer) -> Answer:
    """Answer if the bucket is in the host name, as Alibaba's endpoint does. Requests come through a proxy."""
    return lambda handler: (answer if handler.headers["Host"] == "photos.oss.example" else FORBIDDEN)(handler)


@pytest.fixture
def oss(monkeypatch: pytest.MonkeyPatch) -> Callable[[FaultyS3], None]:
    def use(server: FaultyS3) -> None:
        monkeypatch.setenv("HTTP_PROXY", server.url)

    return use


@pytest.mark.parametrize("addressing", ["auto", "virtual"])
def test_virtual_hosts_are_used_where_they_are_set_or_demanded(
    addressing: str, oss: Callable[[FaultyS3], None]
) -> None:
    with FaultyS3(then=_in_host_name(page("1.jpg"))) as server:
        oss(server)
        access = ObjectAccess("http://oss.example", anonymous=True, backoff_s=0.001, addressing=addressing)  # type: ignore[arg-type]
        with Objects(access) as objects:
            objects.check("s3://photos")
            assert [info.key for info in objects.list("s3://photos")] == ["1.jpg"]
        refused = sum(headers["Host"] == "oss.example" for headers in server.headers)
    assert refused == (1 if addressing == "auto" else 0), "the addressing is not remembered"


def test_a_head_without_a_body_finds_out_about_virtual_hosts_too(oss: Callable[[FaultyS3], None]) -> None:
    with FaultyS3(then=_in_host_name(faulty.content)) as server:
        oss(server)
        with Objects(ObjectAccess("http://oss.example", anonymous=True, backoff_s=0.001)) as objects:
            assert objects.stat("s3://photos/k").etag == ETAG


def test_path_addressing_that_is_set_is_kept_and_the_setting_is_named(oss: Callable[[FaultyS3], None]) -> None:
    with FaultyS3(then=_in_host_name(page("1.jpg"))) as server:
        oss(server)
        access = ObjectAccess("http://oss.example", anonymous=True, backoff_s=0.001, addressing="path")
        with Objects(access) as objects, pytest.raises(SourceError, match="VIEWFINDER_S3_ADDRESSING=virtual"):
            objects.check("s3://photos")


@pytest.mark.parametrize("pays", [True, False])
def test_requester_pays_is_sent_with_every_request(pays: bool) -> None:
    with FaultyS3([page("1")] * 2) as server, Objects(server.access(requester_pays=pays)) as objects:
        objects.check("s3://b")
        list(objects.list("s3://b"))
        objects.stat("s3://b/k")
        objects.read("s3://b/k", 10_000)
        objects.open("s3://b/k").close()
    assert len(server.headers) == 5
    assert {headers.get("x-amz-request-payer") for headers in server.headers} == {"requester" if pays else None}


# Signed addresses


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")


def _address(objects: Objects, uri: str = "s3://photos/k") -> str | None:
    return objects.presigned_url(uri, 300, "image/jpeg", "inline")


@pytest.mark.usefixtures("keys")
def test_an_address_holds_the_consent_to_pay() -> None:
    """A header that is signed must be sent, which a browser does not do."""
    with FaultyS3() as server, Objects(server.access(anonymous=False, requester_pays=True)) as objects:
        query = parse_qs(urlsplit(_address(objects) or "").query)
    assert query["X-Amz-SignedHeaders"] == ["host"]
    assert query["x-amz-request-payer"] == ["requester"]


@pytest.mark.usefixtures("keys")
def test_an_address_has_the_bucket_in_the_host_name_where_this_is_demanded(oss: Callable[[FaultyS3], None]) -> None:
    with FaultyS3(then=_in_host_name(faulty.content)) as server:
        oss(server)
        with Objects(ObjectAccess("http://oss.example", backoff_s=0.001)) as objects:
            assert urlsplit(_address(objects) or "").netloc == "photos.oss.example"


@pytest.mark.usefixtures("keys")
def test_an_address_is_signed_for_the_region_of_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: Any, **_: object) -> AWSResponse:
        if ".eu-west-3." in request.url:
            return AWSResponse(request.url, 200, {"content-length": "5"}, _NoBody())
        return AWSResponse(request.url, 400, {"x-amz-bucket-region": "eu-west-3"}, _NoBody())

    def connect(connection: S3Connection, **options: bool) -> Any:
        client = connected(connection, **options)
        client.meta.events.register("before-send.s3", answer)
        return client

    connected = S3Connection.connect
    monkeypatch.setattr(S3Connection, "connect", connect)
    with Objects(ObjectAccess()) as objects:
        parts = urlsplit(_address(objects) or "")
    assert parts.netloc == "photos.s3.eu-west-3.amazonaws.com"
    assert "/eu-west-3/s3/" in parse_qs(parts.query)["X-Amz-Credential"][0]


class _NoBody(io.BytesIO):
    def stream(self, **_: object) -> Iterator[bytes]:
        return iter(())


@pytest.mark.usefixtures("keys")
def test_an_object_that_a_client_cannot_read_as_it_is_has_no_address() -> None:
    archived: Answer = lambda handler: handler.send(200, CONTENT, x_amz_storage_class="GLACIER")  # noqa: E731
    faults = [archived, encoded(CONTENT, "gzip"), error(404, "NoSuchKey")]
    with FaultyS3(faults) as server, Objects(server.access(anonymous=False)) as objects:
        with pytest.raises(ObjectError, match="is archived") as caught:
            _address(objects)
        assert caught.value.reason == "archived"
        assert _address(objects) is None
        with pytest.raises(ObjectError) as caught:
            _address(objects)
        assert caught.value.reason == "not_found"


ARN = "arn:aws:s3:eu-west-1:123456789012:accesspoint/photos"


@pytest.mark.parametrize(
    ("text", "bucket", "key"),
    [
        (f"s3://{ARN}", ARN, ""),
        (f"s3://{ARN}/", ARN, ""),
        (f"s3://{ARN}/2024/a b.jpg", ARN, "2024/a b.jpg"),
        (f"s3://{ARN.replace('/', ':')}/x", ARN, "x"),
        ("s3://arn:aws:s3::123456789012:accesspoint/m.mrap/x", "arn:aws:s3::123456789012:accesspoint/m.mrap", "x"),
    ],
)
def test_the_arn_of_an_access_point_is_a_bucket(text: str, bucket: str, key: str) -> None:
    uri = canonical_uri(text)
    assert s3_parts(uri) == (bucket, key)
    assert canonical_uri(uri) == uri


@pytest.mark.parametrize("text", ["s3://arn:aws:s3:::bucket/x", "s3://arn:aws:s3:eu-west-1:1:accesspoint/"])
def test_another_arn_is_refused(text: str) -> None:
    with pytest.raises(SourceError, match="not the ARN of an access point"):
        canonical_uri(text)


# Credentials


def test_credentials_that_come_late_are_used(tmp_path: Path) -> None:
    """One slow answer of the credentials endpoint left a worker without credentials for life."""
    text = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n"
    timer = threading.Timer(0.2, lambda: (tmp_path / "credentials").write_text(text))
    with FaultyS3() as server, Objects(server.access(anonymous=False)) as objects:
        timer.start()
        assert objects.read("s3://b/k", 10_000).data == CONTENT
    timer.join()


def _credential_process(directory: Path, failures: int) -> None:
    """Configure a program that fails so many times before it prints credentials."""
    counter, keys = directory / "calls", {"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b"}
    program = directory / "program"
    enough = f"[ $(wc -l < {counter}) -gt {failures} ]"
    program.write_text(f"#!/bin/sh\necho x >> {counter}\n{enough} || exit 1\necho '{json.dumps(keys)}'\n")
    program.chmod(0o755)
    (directory / "config").write_text(f"[default]\ncredential_process = {program}\n")


def test_credentials_that_fail_a_few_times_are_fetched_again(tmp_path: Path) -> None:
    _credential_process(tmp_path, failures=3)
    with FaultyS3() as server, Objects(server.access(anonymous=False)) as objects:
        assert objects.read("s3://b/k", 10_000).data == CONTENT


def test_a_check_fetches_credentials_again(tmp_path: Path) -> None:
    _credential_process(tmp_path, failures=1)
    with FaultyS3(then=page("1")) as server, Objects(server.access(anonymous=False)) as objects:
        objects.check("s3://b")


def test_a_key_that_is_refused_is_tried_until_it_is_rotated(tmp_path: Path) -> None:
    """The old key may end before the file has the new one."""
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = old\naws_secret_access_key = b\n")

    def rotate(handler: faulty.Handler) -> None:
        text = "[default]\naws_access_key_id = new\naws_secret_access_key = b\n"
        (tmp_path / "credentials").write_text(text)
        error(403, "InvalidAccessKeyId")(handler)

    expired = error(400, "ExpiredToken")
    with FaultyS3([expired, expired, rotate]) as server, Objects(server.access(anonymous=False)) as objects:
        assert objects.read("s3://b/k", 10_000).data == CONTENT
    assert "Credential=new/" in server.headers[-1]["Authorization"]


def test_credentials_that_the_service_of_roles_refuses_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its refusal, while newer credentials were looked for, ended the run with a traceback."""

    def refuse(_: object) -> None:
        raise ClientError({"Error": {"Code": "Throttling", "Message": "Rate exceeded"}}, "AssumeRole")

    monkeypatch.setattr(botocore.session.Session, "get_credentials", refuse)
    assert s3_connection._current_credentials(botocore.session.Session()) is None


def test_missing_credentials_are_denied_access_in_the_end() -> None:
    with (
        FaultyS3() as server,
        Objects(server.access(anonymous=False, retry_s=0.05)) as objects,
        pytest.raises(ObjectError, match=r"after .* attempts: NoCredentialsError") as caught,
    ):
        objects.read("s3://b/k", 10_000)
    assert (caught.value.reason, caught.value.permanent) == ("access_denied", False)
