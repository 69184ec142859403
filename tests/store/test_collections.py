"""Collections and their aliases: the contract of every store."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.store.points import AXES, DIMENSION, MODEL, image_points, opened
from viewfinder.edge.engine import SharedEngine
from viewfinder.errors import CollectionMissingError, ModelMismatchError, StoreError
from viewfinder.sources.uris import point_id
from viewfinder.store import PointBatch, Store, StoreAddress, open_local
from viewfinder.store.schema import PAYLOAD_INDEXES, CollectionMetadata, ModelIdentity, vectors_config
from viewfinder.store.takedowns import held_id


def plain_collection(store: Store, name: str) -> None:
    store.connection.call("create_collection", collection_name=name, vectors_config={})


def test_a_new_index_has_no_live_collection(store: Store, index: str) -> None:
    assert store.collections.live(index) is None
    assert store.collections.all(index) == []


def test_open_creates_and_promotes_the_first_collection(store: Store, index: str) -> None:
    made = opened(store, index)
    assert made.name == f"{index}__vit-tiny__f00d__0001"
    assert made.metadata.state == "live"
    assert made.metadata.model == {**MODEL, "name": "ViT::tiny"}
    assert (made.metadata.fingerprint, made.metadata.dimension, made.metadata.index) == ("f00d", DIMENSION, index)
    assert store.collections.live(index) == made


def test_open_again_finds_the_same_collection_with_its_points(store: Store, index: str) -> None:
    store.points.upsert(opened(store, index), image_points(3), wait=True)
    again = opened(store, index)
    assert store.points.count(again) == 3
    assert [each.name for each in store.collections.all(index)] == [again.name]


def test_open_with_another_model_names_both_and_changes_nothing(store: Store, index: str) -> None:
    live = opened(store, index)
    with pytest.raises(ModelMismatchError) as caught:
        store.collections.open(index, ModelIdentity("ViT::other", "beef", 8, MODEL))
    for part in ("ViT::tiny", "f00d", "ViT::other", "beef", "viewfinder reindex", "--model"):
        assert part in str(caught.value)
    assert store.collections.all(index) == [live]


def test_open_uses_a_collection_that_a_crash_left_unpromoted(store: Store, index: str) -> None:
    left = store.collections.create(index, ModelIdentity("ViT::tiny", "f00d", DIMENSION, MODEL))
    assert store.collections.live(index) is None
    assert opened(store, index).name == left.name


def test_concurrent_opens_create_one_collection(store: Store, index: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: opened(store, index).name, range(4)))
    assert {each.name for each in store.collections.all(index)} == set(made)
    assert len(set(made)) == 1


def test_each_build_gets_its_own_collection_and_promote_moves_the_alias(store: Store, index: str) -> None:
    first = opened(store, index)
    second = store.collections.create(index, ModelIdentity("ViT::other", "beef", 8, MODEL))
    assert (first.build, second.build) == (1, 2)
    assert second.metadata.state == "building"
    assert store.collections.live(index) == first
    store.collections.promote(index, second.name)
    live = store.collections.live(index)
    assert live is not None
    assert (live.name, live.metadata.state) == (second.name, "live")


def test_promote_refuses_a_collection_that_does_not_exist(store: Store, index: str) -> None:
    live = opened(store, index)
    with pytest.raises(CollectionMissingError, match="nowhere"):
        store.collections.promote(index, "nowhere")
    assert store.collections.live(index) == live


def test_open_refuses_an_index_named_like_a_collection(store: Store, index: str) -> None:
    plain_collection(store, index)
    with pytest.raises(StoreError, match=f"collection named '{index}'"):
        opened(store, index)
    assert store.collections.all(index) == []


def test_an_alias_to_a_collection_of_another_program_is_refused(store: Store, index: str) -> None:
    plain_collection(store, f"{index}_theirs")
    store.connection.call("update_collection_aliases", change_aliases_operations=[_alias(index, f"{index}_theirs")])
    with pytest.raises(StoreError, match="not made by viewfinder"):
        store.collections.live(index)


def test_metadata_changes_keep_other_fields(store: Store, index: str) -> None:
    made = opened(store, index)
    store.collections.update_metadata(made.name, state="retired", baselined_points=7)
    store.collections.update_metadata(made.name, counts={"indexed": 3})
    (found,) = store.collections.all(index)
    assert found.metadata.state == "retired"
    assert found.metadata.baselined_points == 7
    assert found.metadata.counts == {"indexed": 3}
    assert found.metadata.created_at == made.metadata.created_at


def test_collections_of_an_index_with_the_same_prefix_are_not_included(store: Store, index: str) -> None:
    mine, other = opened(store, index), opened(store, f"{index}__b")
    assert store.collections.all(index) == [mine]
    assert store.collections.all(f"{index}__b") == [other]


def test_dropped_collections_are_gone_and_may_be_dropped_again(store: Store, index: str) -> None:
    made = opened(store, index)
    store.collections.drop(made.name)
    store.collections.drop(made.name)
    assert store.collections.live(index) is None
    with pytest.raises(CollectionMissingError):
        store.points.count(made)
    with pytest.raises(CollectionMissingError):
        store.points.upsert(made, image_points(1), wait=True)


def test_wait_ready_returns_when_nothing_is_left_to_do(store: Store, index: str) -> None:
    made = opened(store, index)
    store.points.upsert(made, image_points(5), wait=False)
    updates: list[str] = []
    store.collections.wait_ready(made, timeout_s=60, progress=updates.append, poll_s=0.05)
    assert updates[-1] == "ready; checked 2 of 3 times"


def test_wait_ready_returns_with_a_warning_if_graphs_cannot_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SharedEngine, "_status", lambda *_: ("green", "their disk has 1 MB of free space"))
    with open_local(StoreAddress(tmp_path)) as store:
        store.collections.wait_ready(opened(store, "a"), timeout_s=60, poll_s=0.01)
    assert "stay slow: their disk has 1 MB of free space" in caplog.text


def _alias(alias: str, collection: str) -> Any:
    from qdrant_client import models

    return models.CreateAliasOperation(create_alias=models.CreateAlias(alias_name=alias, collection_name=collection))


def test_an_index_of_an_older_version_gets_the_missing_payload_indexes(store: Store, index: str) -> None:
    """A server in strict mode would refuse every filter on a key, and every takedown."""
    name, model = f"{index}__vit-tiny__f00d__0001", {**MODEL, "name": "ViT::tiny"}
    metadata = CollectionMetadata(index, "f00d", model, DIMENSION, "building", "2026-01-01T00:00:00+00:00")
    config = {"vectors_config": vectors_config(DIMENSION), "metadata": metadata.as_payload()}
    store.connection.call("create_collection", collection_name=name, **config)
    for field in ("uri", "key", "bucket"):
        options = {"field_name": field, "field_schema": PAYLOAD_INDEXES[field], "wait": True}
        store.connection.call("create_payload_index", collection_name=name, **options)
    store.collections.promote(index, name)
    old = store.collections.require_live(index)
    uri, key = "s3://b/cafe\u0301.jpg", "cafe\u0301.jpg"
    store.points.upsert(old, PointBatch([point_id(uri)], [{"uri": uri, "key": key}], image=AXES[:1]), wait=True)
    assert "image_hash" in old.missing_indexes
    assert store.points.count(old, {"key": {"eq": "caf\u00e9.jpg"}}) == 1
    assert held_id(store, index, point_id("s3://b/caf\u00e9.jpg"), "s3://b/caf\u00e9.jpg") == point_id(uri)
    made = opened(store, index)
    assert made.missing_indexes == store.collections.require_live(index).missing_indexes == ()
    assert store.points.count(made, {"key": {"eq": "caf\u00e9.jpg"}}) == 1
    assert store.take_down(index, {point_id("s3://b/caf\u00e9.jpg"): ""}) == {point_id(uri)}
