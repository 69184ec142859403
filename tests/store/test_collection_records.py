"""Records of a collection over every store: sources, captions files, runs and fields, each written by its own id."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tests.store.points import opened
from viewfinder.sources.uris import source_uri
from viewfinder.store import Collection, Store
from viewfinder.store.collection_records import RUNS_KEPT, CollectionRecords
from viewfinder.store.recorded import Recorded, SourceRecord


@pytest.fixture
def made(store: Store, index: str) -> Collection:
    return opened(store, index)


@pytest.fixture
def records(store: Store, made: Collection) -> CollectionRecords:
    return store.collections.records(made)


def test_a_new_collection_has_no_records(made: Collection, records: CollectionRecords) -> None:
    assert records.read() == made.recorded == Recorded(captions=[], runs=[])


def test_records_are_read_with_the_collection(store: Store, made: Collection, records: CollectionRecords) -> None:
    source = SourceRecord("s3://b/p", include=("*.jpg",), exclude=("x/*", "y"))
    records.record_sources([source])
    records.record_captions("s3://b/p", "s3://b/captions.csv")
    records.record_run("r1", {"report": "s3://b/runs/r1"})
    store.collections.add_fields(made, {"meta.year": "integer", "meta.shot by": "keyword"})
    found = store.collections.refresh(made).recorded
    assert found.sources == {"s3://b/p": source}
    assert found.captions_of("s3://b/p") == ["s3://b/captions.csv"]
    assert [(run.run_id, run.details) for run in found.runs] == [("r1", {"report": "s3://b/runs/r1"})]
    assert found.fields == {"meta.shot by": "keyword", "meta.year": "integer"}


def test_jobs_that_record_at_the_same_time_lose_nothing(store: Store, made: Collection) -> None:
    # Both read the records before either writes.
    first, second = store.collections.records(made), store.collections.records(made)
    assert first.read() == second.read()
    first.record_sources([SourceRecord("s3://b/partner-a")])
    second.record_sources([SourceRecord("s3://b/partner-b")])

    def record(number: int) -> None:
        mine = store.collections.records(made)
        mine.record_run(f"r{number}")
        mine.record_fields({f"meta.f{number}": "float"})
        mine.record_captions("s3://b/partner-a", f"s3://b/{number}.csv")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(record, range(8)))
    found = first.read()
    assert list(found.sources) == ["s3://b/partner-a", "s3://b/partner-b"]
    assert {run.run_id for run in found.runs} == {f"r{number}" for number in range(8)}
    assert set(found.fields) == {f"meta.f{number}" for number in range(8)}
    assert len(found.captions_of("s3://b/partner-a")) == 8


def test_a_source_has_one_spelling(records: CollectionRecords) -> None:
    records.record_sources([SourceRecord("s3://b/p/")])
    records.record_sources([SourceRecord("s3://b/p", include=("*.png",))])
    records.record_captions("s3://b/p/", "s3://b/c.csv")
    records.record_captions("s3://b/p", "s3://b/c.csv")
    found = records.read()
    assert found.sources == {"s3://b/p": SourceRecord("s3://b/p", include=("*.png",))}
    assert found.captions_of("s3://b/p/") == ["s3://b/c.csv"]
    records.remove_sources(["s3://b/p/"])
    assert records.read() == Recorded(captions=[], runs=[])


def test_a_limited_listing_does_not_replace_a_full_one(records: CollectionRecords) -> None:
    records.record_sources([SourceRecord("s3://b/p", max_objects=3), SourceRecord("s3://b/q", max_objects=3)])
    records.record_sources([SourceRecord("s3://b/p")])
    records.record_sources([SourceRecord("s3://b/p", include=("a*",), max_objects=9)])
    assert records.read().sources == {
        "s3://b/p": SourceRecord("s3://b/p"),
        "s3://b/q": SourceRecord("s3://b/q", max_objects=3),
    }


def test_captions_files_of_a_source_keep_the_order_in_which_they_were_recorded(records: CollectionRecords) -> None:
    for month in ("january", "february", "march", "january"):
        records.record_captions("s3://b/p", f"s3://b/{month}.csv")
    records.record_captions("s3://b/q", "s3://b/april.csv")
    assert records.read().captions_of("s3://b/p") == [f"s3://b/{each}.csv" for each in ("february", "march", "january")]
    records.remove_captions("s3://b/p", "s3://b/march.csv")
    records.remove_captions("s3://b/p", "s3://b/unknown.csv")
    assert records.read().captions_of("s3://b/p") == ["s3://b/february.csv", "s3://b/january.csv"]


def test_a_captions_file_that_was_recorded_again_is_not_removed_as_it_was_read(records: CollectionRecords) -> None:
    for month in ("january", "february"):
        records.record_captions("s3://b/p", f"s3://b/{month}.csv")
    january, february = records.read().captions
    records.record_captions("s3://b/p", january.uri)
    for each in (january, february, february):
        records.remove_captions_as_read(each)
    assert records.read().captions_of("s3://b/p") == [january.uri]


def test_a_machine_whose_clock_is_behind_records_after_earlier_records(
    store: Store, made: Collection, records: CollectionRecords
) -> None:
    ahead = CollectionRecords(
        store.control(made.index), made.metadata.collection_id, clock=lambda: datetime.now(UTC) + timedelta(minutes=9)
    )
    ahead.record_captions("s3://b/p", "s3://b/first.csv")
    records.record_captions("s3://b/p", "s3://b/second.csv")
    assert records.read().captions_of("s3://b/p") == ["s3://b/first.csv", "s3://b/second.csv"]


def test_the_last_runs_are_kept_in_order(records: CollectionRecords) -> None:
    for number in range(RUNS_KEPT + 2):
        records.record_run(f"r{number:02}")
    records.record_run("r05", {"state": "done"})
    runs = records.read().runs
    assert len(runs) == RUNS_KEPT
    assert [runs[0].run_id, runs[-1].run_id] == ["r02", "r05"]


def test_records_go_with_their_collection_and_are_not_found_by_its_successor(
    store: Store, index: str, made: Collection, records: CollectionRecords
) -> None:
    records.record_sources([SourceRecord("s3://b/p")])
    records.record_run("r1")
    store.collections.drop(made.name)
    assert records.read() == Recorded(captions=[], runs=[])
    records.record_run("late")  # by a run that did not notice
    again = opened(store, index)
    assert again.name == made.name
    assert again.recorded == Recorded(captions=[], runs=[])


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        ("s3://b/p/", "s3://b/p"),
        ("s3://b/", "s3://b"),
        ("s3://b/p//", "s3://b/p//"),  # another prefix
        ("/images/", "file:///images"),
        ("file:///images/", "file:///images"),
    ],
)
def test_a_source_is_recorded_in_one_spelling(given: str, recorded: str) -> None:
    assert source_uri(given) == source_uri(recorded) == recorded
