"""Objects of an S3 endpoint with planned faults: what is retried, and what is a failure."""

import pytest

from tests.sources import faulty
from tests.sources.faulty import CONTENT, ETAG, Answer, FaultyS3, error, page
from viewfinder.errors import ObjectError, SourceError, ViewfinderError
from viewfinder.sources.objects import Objects
from viewfinder.sources.versions import Version

pytestmark = pytest.mark.slow


TRANSIENT = {
    "slow down": error(503, "SlowDown"),
    "too many requests": error(429, "TooManyRequests"),
    "internal error": error(500, "InternalError"),
    "bad gateway": error(502, "BadGateway"),
    "request timeout": error(400, "RequestTimeout"),
    "cut body": faulty.cut_body,
    "cut chunks": faulty.cut_chunks,
    "dropped connection": faulty.drop,
    "no answer": faulty.hang,
    "no end of the body": faulty.hang_in_body,
    "a body byte by byte": faulty.drip,
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT)
def test_transient_failures_are_retried(fault: Answer) -> None:
    with FaultyS3([fault, fault]) as server, Objects(server.access(read_timeout_s=0.3)) as objects:
        assert objects.read("s3://b/k", 10_000) == (CONTENT, Version(ETAG, len(CONTENT)))
    assert server.paths == ["/b/k"] * 3


@pytest.mark.parametrize("fault", [error(503, "SlowDown"), faulty.cut_body, faulty.hang])
def test_a_second_attempt_is_made_even_past_the_deadline_but_no_third(fault: Answer) -> None:
    with (
        FaultyS3(then=fault) as server,
        Objects(server.access(retry_s=0, read_timeout_s=0.3)) as objects,
        pytest.raises(ObjectError, match="after 2 attempts") as caught,
    ):
        objects.read("s3://b/k", 10_000)
    assert caught.value.reason in ("throttled", "unavailable")
    assert not caught.value.permanent
    assert len(server.paths) == 2


def test_a_body_that_arrives_too_slowly_is_a_failure() -> None:
    with (
        FaultyS3(then=faulty.drip) as server,
        Objects(server.access(retry_s=0, read_timeout_s=0.3)) as objects,
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
        Objects(server.access()) as objects,
        pytest.raises(ObjectError, match="'s3://b/k'") as caught,
    ):
        objects.read("s3://b/k", 10_000)
    assert (caught.value.reason, caught.value.permanent) == (reason, False)
    assert len(server.paths) == 1


@pytest.mark.parametrize("answer", [faulty.content, faulty.without_length], ids=["with length", "without length"])
def test_objects_up_to_the_limit_are_read_and_larger_ones_refused(answer: Answer) -> None:
    with FaultyS3(then=answer) as server, Objects(server.access()) as objects:
        assert objects.read("s3://b/k", len(CONTENT))[0] == CONTENT
        with pytest.raises(ObjectError, match="more than 999") as caught:
            objects.read("s3://b/k", len(CONTENT) - 1)
    assert (caught.value.reason, caught.value.permanent) == ("too_many_bytes", True)


@pytest.mark.parametrize("fault", [error(503, "SlowDown"), faulty.cut_body], ids=["slow down", "cut body"])
def test_open_fetches_again_after_a_transient_failure(fault: Answer) -> None:
    with (
        FaultyS3([fault]) as server,
        Objects(server.access()) as objects,
        objects.open("s3://b/k") as file,
    ):
        assert file.read() == CONTENT


def test_a_listing_continues_after_a_transient_failure_and_skips_directory_markers() -> None:
    plan = [error(404, "NotFound"), page("p/", "p/1", token="t"), error(503, "SlowDown"), page("p/2", "p/d/")]
    with FaultyS3(plan) as server, Objects(server.access()) as objects:
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
        Objects(server.access(retry_s=0)) as objects,
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
        Objects(server.access()) as objects,
        pytest.raises(SourceError, match=message),
    ):
        objects.check("s3://bucket")
