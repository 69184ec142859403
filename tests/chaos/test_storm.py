"""A job on Ray that meets faults of S3 and of Qdrant at once: the index is that of a run in peace."""

import time

import pytest

from tests.chaos.table import chance
from tests.chaos.trial import Trial, strikes
from viewfinder.testing.qdrant import Fault
from viewfinder.testing.s3_faults import S3Fault

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.usefixtures("ray_session")]

UPSERT = r"^PUT /collections/images__(?!control).*/points$"


@pytest.mark.chaos("Ray", "a storm of S3 and Qdrant faults over the job")
def test_a_storm_over_the_job_changes_nothing(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = chance("a storm over the job")
    picture, listing, caption = r"^GET /[^?]+/\d\d\.jpg", r"^GET /[^?]*\?.*list-type", r"^GET /[^?]+captions\.json"
    refused, cut = {"status": 503, "code": "SlowDown"}, {"cut_at": moment.randrange(1, 500)}
    s3 = [
        S3Fault(picture, 4, moment.randrange(16), **refused),
        S3Fault(picture, 3, moment.randrange(16), **cut),
        S3Fault(picture, 2, moment.randrange(16), cut_at=-1),
        S3Fault(picture, 2, moment.randrange(16), length_off=moment.randrange(1, 1000)),
        S3Fault(listing, 1, 1, **refused),  # the first only looks whether there is anything
        S3Fault(caption, 1, **refused),
    ]
    store = [
        *[Fault(status=503, on=UPSERT)] * 3,
        Fault(status=429, retry_after="1", on=UPSERT),
        *[Fault(drop="before", on=UPSERT)] * 2,
        *[Fault(drop="after", on=UPSERT)] * 2,
        *[Fault(late=2, on=UPSERT)] * 2,
        *[Fault(on=UPSERT)] * 4,
    ]
    monkeypatch.setenv("VIEWFINDER_QDRANT_RETRY_S", "60")
    trial.proxy.inject(*s3)
    trial.qdrant.faults.extend(moment.sample(store, k=len(store)))
    began = time.perf_counter()
    assert run(trial, monkeypatch) == 0
    trial.cost.seconds = time.perf_counter() - began
    left = strikes(trial.qdrant.faults)
    trial.qdrant.faults.clear()
    trial.cost.injected = trial.proxy.injected + strikes(store) - left
    assert trial.cost.injected == sum(each.times for each in s3) + strikes(store), "a fault was not met"
    assert trial.world.counts == trial.counts[0]
    trial.same_as_calm(0)


def run(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> int:
    """The job on Ray, through the proxy, in small batches; its exit status."""
    for name in ("FETCH_BATCH_SIZE", "ENCODE_BATCH_SIZE", "WRITE_BATCH_SIZE"):
        monkeypatch.setenv(f"VIEWFINDER_{name}", "2")
    monkeypatch.setenv("VIEWFINDER_S3_ENDPOINT_URL", trial.proxy.url)
    return trial.world.run("--captions", f"{trial.world.source}/captions.json", "--max-failure-ratio", "0.5")
