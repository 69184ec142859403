"""Objects that must be restored before they can be read."""

import pytest
from botocore.httpsession import URLLib3Session

from tests.sources import faulty
from tests.sources.faulty import CONTENT, Answer, FaultyS3, error, page
from viewfinder.errors import ObjectError
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.objects import Objects

pytestmark = pytest.mark.slow


NOT_FOUND = error(404, "NoSuchKey")


@pytest.mark.parametrize(
    ("more", "archived"),
    [
        ("", False),
        ("<StorageClass>STANDARD_IA</StorageClass>", False),
        ("<StorageClass>GLACIER_IR</StorageClass>", False),
        ("<StorageClass>GLACIER</StorageClass>", True),
        ("<StorageClass>DEEP_ARCHIVE</StorageClass>", True),
        ("<StorageClass>ColdArchive</StorageClass>", True),
        ("<StorageClass>DeepColdArchive</StorageClass>", True),
        ("<StorageClass>ARCHIVE</StorageClass>", False),  # Google's can be read at once, Tencent's cannot
        ("<StorageClass>Archive</StorageClass>", False),  # Alibaba's: the bucket decides
        ("<StorageClass>COLD</StorageClass>", False),  # Yandex's can be read at once, Huawei's cannot
        ("<StorageClass>ICE</StorageClass>", False),
        (
            "<StorageClass>GLACIER</StorageClass><RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>"
            "<RestoreExpiryDate>2026-12-21T00:00:00.000Z</RestoreExpiryDate></RestoreStatus>",
            False,
        ),
        (
            "<StorageClass>GLACIER</StorageClass><RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress>"
            "</RestoreStatus>",
            True,
        ),
    ],
)
def test_the_listing_shows_archived_objects(more: str, archived: bool) -> None:
    with FaultyS3([page("1.jpg", more=more)]) as server, Objects(server.access()) as objects:
        (info,) = objects.list("s3://b")
    assert info.archived is archived
    assert server.headers[0]["x-amz-optional-object-attributes"] == "RestoreStatus"


@pytest.mark.parametrize(
    ("headers", "archived"),
    [
        ({}, False),
        ({"x_amz_storage_class": "DEEP_ARCHIVE"}, True),
        ({"x_amz_storage_class": "GLACIER", "x_amz_restore": 'ongoing-request="true"'}, True),
        ({"x_amz_storage_class": "GLACIER", "x_amz_restore": 'ongoing-request="false", expiry-date="x"'}, False),
        ({"x_amz_storage_class": "ColdArchive", "x_oss_restore": 'ongoing-request="true"'}, True),
        ({"x_amz_storage_class": "ColdArchive", "x_oss_restore": 'ongoing-request="false", expiry-date="x"'}, False),
        ({"x_amz_storage_class": "INTELLIGENT_TIERING"}, False),
        ({"x_amz_storage_class": "INTELLIGENT_TIERING", "x_amz_archive_status": "DEEP_ARCHIVE_ACCESS"}, True),
    ],
)
def test_a_stat_shows_archived_objects(headers: dict[str, str], archived: bool) -> None:
    with (
        FaultyS3(then=lambda handler: handler.send(200, CONTENT, **headers)) as server,
        Objects(server.access()) as objects,
    ):
        assert objects.stat("s3://b/k").archived is archived


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        ("InvalidObjectState", "The operation is not valid for the object's storage class", "archived"),
        ("AccessDenied", "InvalidObjectState", "archived"),
        ("AccessDenied", "Access Denied.", "access_denied"),
    ],
)
def test_an_answer_tells_that_an_object_is_archived(code: str, text: str, reason: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
    with (
        FaultyS3(then=lambda handler: handler.send(403, body, Content_Type="application/xml")) as server,
        Objects(server.access()) as objects,
        pytest.raises(ObjectError) as caught,
    ):
        objects.read("s3://b/k", 10_000)
    assert caught.value.reason == reason


def test_an_endpoint_whose_listings_do_not_show_it_is_asked_for_restored_objects() -> None:
    """A restored object stayed archived for ever."""

    def answer(handler: faulty.Handler) -> None:
        restored = {"x_amz_restore": 'ongoing-request="false", expiry-date="x"'} if handler.path == "/b/2" else {}
        (NOT_FOUND if handler.path == "/b/3" else lambda handler: handler.send(200, b"", **archived, **restored))(
            handler
        )

    archived, uris = {"x_amz_storage_class": "GLACIER"}, ["s3://b/1", "s3://b/2", "s3://b/3"]
    with FaultyS3(then=answer) as server, Objects(server.access()) as objects:
        assert objects.restored(uris) == {"s3://b/2"}
        assert objects.restored([]) == set()
        assert sorted(server.paths) == ["/b/1", "/b/2", "/b/3"]


@pytest.mark.parametrize(
    "endpoint", [None, "https://s3.eu-west-3.amazonaws.com", "https://s3.cn-north-1.amazonaws.com.cn"]
)
def test_aws_is_not_asked_for_restored_objects(endpoint: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(URLLib3Session, "send", lambda *_: pytest.fail("a request"))
    with Objects(ObjectAccess(endpoint, anonymous=True)) as objects:
        assert objects.restored(["s3://b/1"]) == set()


@pytest.mark.parametrize("fault", [error(501, "NotImplemented"), error(400, "InvalidArgument")])
def test_an_endpoint_that_does_not_know_the_state_of_restored_objects_is_listed_without(fault: Answer) -> None:
    with FaultyS3([fault, page("1", token="t"), page("2")]) as server, Objects(server.access()) as objects:
        assert [info.key for info in objects.list("s3://b")] == ["1", "2"]
    assert ["x-amz-optional-object-attributes" in headers for headers in server.headers] == [True, False, False]
