"""Faults of S3: a run gets through, or reports what it could not read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.conftest import READ_TIMEOUT_S
from tests.chaos.table import chance
from tests.chaos.trial import NAMES, Trial, assert_same_vectors, cases, vectors
from tests.indexing.sample_images import encoded_image
from viewfinder.sources.access import ObjectAccess
from viewfinder.testing.s3 import S3Endpoint
from viewfinder.testing.s3_faults import FOREVER, S3Fault

# Images, all large enough to be cut.
IMAGE = r"^GET /[^?]+/(\d\d\.jpg|new\.png)"
JPEG = r"^GET /[^?]+/\d\d\.jpg"
LISTING = r"^GET /[^?]*\?.*list-type"
CAPTIONS = r"^GET /[^?]+captions\.json"
# Requests of each kind in a second run without faults. A fault must skip fewer than these, or it would never hit.
REQUESTS = {IMAGE: 4, JPEG: 3, LISTING: 1, CAPTIONS: 1}


def some(name: str, on: str, most: int, **kind: Any) -> S3Fault:
    """A fault that hits between half of `most` and `most` requests, after some without a fault.

    `CHAOS_SEED` determines the numbers, also which value is taken from a range.
    """
    moment = chance(name)
    drawn = {each: moment.choice(value) if isinstance(value, range) else value for each, value in kind.items()}
    return S3Fault(on, moment.randint(-(-most // 2), most), moment.randrange(REQUESTS[on]), **drawn)


TRANSIENT = {
    name: some(name, *given, **kind)
    for name, given, kind in [
        ("503 SlowDown, objects", (IMAGE, 8), {"status": 503, "code": "SlowDown"}),
        ("500 InternalError, objects", (IMAGE, 8), {"status": 500, "code": "InternalError"}),
        ("429, objects", (IMAGE, 4), {"status": 429, "code": "TooManyRequests"}),
        ("503 SlowDown, listing", (LISTING, 4), {"status": 503, "code": "SlowDown"}),
        ("503 SlowDown, captions", (CAPTIONS, 4), {"status": 503, "code": "SlowDown"}),
        ("connection cut before the answer", (IMAGE, 6), {"cut_at": -1}),
        ("connection cut in the body", (JPEG, 6), {"cut_at": range(1, 500)}),
        ("listing cut in the body", (LISTING, 4), {"cut_at": range(1, 2000)}),
        ("silence before the answer", (IMAGE, 2), {"hang_at": -1}),
        ("silence in the body", (JPEG, 2), {"hang_at": range(1, 500)}),
        ("dripping body", (JPEG, 2), {"drip_at": range(1, 500)}),
        ("Content-Length too large", (IMAGE, 6), {"length_off": range(1, 1000)}),
        ("Content-Length too small", (JPEG, 2), {"length_off": range(-500, 0)}),
    ]
}


# Others like these run always.
LONG = frozenset(
    {"500 InternalError, objects", "429, objects", "silence before the answer", "Content-Length too small"}
)


@pytest.mark.chaos("S3")
@pytest.mark.parametrize("fault", cases(TRANSIENT, LONG))
def test_a_transient_fault_changes_nothing(trial: Trial, fault: S3Fault) -> None:
    trial.with_faults([fault])


@pytest.mark.full
@pytest.mark.chaos("S3", "a storm of 7 faults")
def test_many_faults_at_once_change_nothing(trial: Trial) -> None:
    kinds = [
        each for name, each in TRANSIENT.items() if name.split()[0] not in ("silence", "dripping", "Content-Length")
    ]
    moment = chance("a storm")
    storm = [replace(each, times=1, skip=moment.randrange(REQUESTS[each.on])) for each in moment.choices(kinds, k=6)]
    trial.with_faults([S3Fault(LISTING, status=503, code="SlowDown"), *storm])


@pytest.mark.chaos("S3", "one object cannot be read for long")
def test_an_unreadable_object_fails_until_it_can_be_read(trial: Trial) -> None:
    trial.world.access = _with_short_retry(trial)
    counts = trial.sync([S3Fault(rf"^GET /[^?]+{NAMES[7]}", FOREVER, status=500, code="InternalError")])
    assert counts == trial.counts[0] | {"indexed": len(NAMES) - 1, "failed": 1}
    assert trial.world.recorded_failures([NAMES[7]]) == {NAMES[7]: "unavailable"}
    assert NAMES[7] not in trial.world.points
    trial.record_cost()
    assert trial.sync() == trial.counts[0] | {"unchanged": len(NAMES) - 1, "indexed": 1}
    trial.assert_same_as_without_faults(0)


@pytest.mark.chaos("S3", "an object always comes short")
def test_an_object_that_always_arrives_short_is_not_recorded_as_broken(trial: Trial) -> None:
    """Half an image was recorded as permanently `truncated`, although the bucket had all of it."""
    counts = trial.sync([S3Fault(rf"^GET /[^?]+{NAMES[7]}", FOREVER, length_off=-100)])
    assert counts["failed"] == 1
    assert trial.world.recorded_failures([NAMES[7]]) == {NAMES[7]: "unavailable"}
    trial.record_cost()
    trial.sync()
    trial.assert_same_as_without_faults(0)


@pytest.mark.chaos("S3", "an object is archived")
def test_an_archived_object_is_skipped_until_it_is_restored(trial: Trial) -> None:
    """Archived objects failed on every run."""
    archived = S3Fault(rf"^GET /[^?]+{NAMES[7]}", FOREVER, status=403, code="InvalidObjectState")
    assert trial.sync([archived]) == trial.counts[0] | {"indexed": len(NAMES) - 1, "skipped": 3}
    assert trial.world.recorded_failures([NAMES[7]]) == {}
    trial.record_cost()
    assert trial.sync() == trial.counts[0] | {"unchanged": len(NAMES) - 1, "indexed": 1}
    trial.assert_same_as_without_faults(0)


@pytest.mark.chaos("S3", "no access to one prefix")
def test_objects_without_access_fail_and_the_others_are_indexed(trial: Trial) -> None:
    denied = S3Fault(JPEG, FOREVER, skip=3, status=403, code="AccessDenied")
    counts = trial.sync([denied])
    assert (counts["indexed"], counts["failed"]) == (3, len(NAMES) - 3)
    assert set(trial.world.recorded_failures(NAMES).values()) == {"access_denied"}
    trial.record_cost()
    assert trial.sync() == trial.counts[0] | {"unchanged": 3, "indexed": len(NAMES) - 3}
    trial.assert_same_as_without_faults(0)


@pytest.mark.chaos("S3", "an object changes between list and get")
def test_an_object_that_changes_after_its_listing_is_indexed_with_its_new_content(trial: Trial) -> None:
    changed = trial.world.bucket / NAMES[7]
    rewrite = S3Fault(rf"^GET /[^?]+{NAMES[7]}", before=lambda: changed.write_bytes(encoded_image(900, (64, 64))))
    assert trial.sync([rewrite]) == trial.counts[0]
    trial.record_cost()
    first = trial.world.points
    assert first[NAMES[7]].payload["width"] == 64
    counts = trial.sync()
    assert (counts["unchanged"], counts["skipped"], counts["failed"]) == (len(NAMES), 2, 0), (
        "the recorded ETag is not that of the content read"
    )
    assert trial.world.points == first
    read = vectors(trial.world)
    trial.world.index = "anew"
    trial.sync()
    assert_same_vectors(read, vectors(trial.world))


@pytest.mark.chaos("S3", "credentials rotated: the old key is refused")
@pytest.mark.parametrize("refusal", ["by the endpoint", "as expired"])
def test_credentials_can_be_rotated_during_a_run(
    trial: Trial, s3: S3Endpoint, s3_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    file = tmp_path / "credentials"

    def keep(endpoint: S3Endpoint) -> None:
        text = f"[default]\naws_access_key_id = {endpoint.access_key}\naws_secret_access_key = {endpoint.secret_key}\n"
        file.write_text(text)

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    keep(s3)
    trial.world.access = _with_short_retry(trial)  # a new client, which reads the credentials file
    with S3Endpoint(s3_root) as rotated:

        def rotate() -> None:
            keep(rotated)
            trial.proxy.upstream = rotated.url

        skip = chance(f"rotated, refused {refusal}").randrange(2, 15)
        faults = [S3Fault(IMAGE, skip=skip, before=rotate)]
        if refusal == "as expired":
            later = S3Fault(IMAGE, FOREVER, skip=skip, status=400, code="ExpiredToken", key=s3.access_key)
            faults.append(later)
        assert trial.sync(faults) == trial.counts[0]
        trial.record_cost()
        trial.cost.fault = f"credentials rotated, the old key refused {refusal}"
        trial.assert_same_as_without_faults(0)


def _with_short_retry(trial: Trial) -> ObjectAccess:
    return replace(trial.world.access, retry_s=READ_TIMEOUT_S / 2)
