"""Searches over HTTP: queries, order and batches."""

import asyncio
import json
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from tests.service.conftest import CAPTIONS, World, replica_of
from tests.service.http.searching import Body, Counted, an_id, as_base64, ids, image, search, with_search
from viewfinder.query.body import parse_query
from viewfinder.query.cursor import CursorKeys
from viewfinder.query.searcher import Searcher
from viewfinder.settings import Settings
from viewfinder.store.conditions import ParsedFilter
from viewfinder.store.search import Search

pytestmark = pytest.mark.slow


def scores(answer: Body) -> dict[str, float]:
    return {hit["id"]: hit["score"] for hit in answer["hits"]}


def vector_of(world: World, text: str) -> np.ndarray[Any, Any]:
    return world.service.follower.snapshot().encoder.encode_texts([text])[0][0]


def cosines(world: World, vector: np.ndarray[Any, Any], using: Any) -> dict[str, float]:
    """The expected scores, computed without a search: the stored vectors times the query's."""
    collection = world.service.follower.snapshot().collection
    everything = [record.id for record in world.store.points.iterate(collection)]
    stored = world.store.points.vectors(collection, everything, using)
    return {each: float(own @ vector / np.linalg.norm(vector)) for each, own in stored.items()}


@pytest.mark.parametrize("target", ["image", "caption"])
@pytest.mark.parametrize("length", [3, 1e300, 1e-300])
def test_the_length_of_a_raw_vector_does_not_matter(shared: World, target: str, length: float) -> None:
    vector = vector_of(shared, "a cat").astype(np.float64)
    by_vector = search(shared, vector=(length * vector).tolist(), target=target)
    assert scores(by_vector) == pytest.approx(cosines(shared, vector, target), abs=1e-5)
    assert ids(by_vector) == ids(search(shared, text="a cat", target=target))


@pytest.mark.parametrize("target", ["image", "caption"])
def test_an_id_finds_similar_images_and_not_itself(shared: World, target: str) -> None:
    collection = shared.service.follower.snapshot().collection
    own = shared.store.points.vectors(collection, [an_id(2)], "image")[an_id(2)]
    expected = {each: score for each, score in cosines(shared, own, target).items() if each != an_id(2)}
    assert scores(search(shared, id=an_id(2), target=target)) == pytest.approx(expected, abs=1e-5)
    assert ids(search(shared, id=an_id(2).upper())) == ids(search(shared, id=an_id(2)))


def test_an_image_may_be_base64_a_data_url_or_an_upload(shared: World) -> None:
    bare = search(shared, image=as_base64())
    assert len(bare["hits"]) == len(CAPTIONS)
    assert ids(search(shared, image=f"data:image/png;base64,{as_base64()}")) == ids(bare)
    files = {"image": ("cat.png", image(), "image/png")}
    options = {"limit": 2, "filter": {"width": {"gte": 200}}}
    upload = shared.client.post("/v1/search/image", files=files, data={"options": json.dumps(options)}).json()
    assert ids(upload) == [hit["id"] for hit in bare["hits"] if hit["width"] >= 200][:2]
    assert scores(shared.client.post("/v1/search/image", files=files).json()) == pytest.approx(scores(bare), abs=1e-5)


def test_queries_are_the_weighted_sum_of_unit_vectors(shared: World) -> None:
    vector = np.random.default_rng(5).normal(size=32)
    own = shared.store.points.vectors(shared.service.follower.snapshot().collection, [an_id(0)], "image")[an_id(0)]
    total = vector_of(shared, "a dog") - 0.5 * vector_of(shared, "grass") + 2 * vector / np.linalg.norm(vector) + own
    queries = [
        {"text": "a dog"},
        {"text": "grass", "weight": -0.5},
        {"vector": (7 * vector).tolist(), "weight": 2},
        {"id": an_id(0)},
    ]
    expected = {each: score for each, score in cosines(shared, total, "image").items() if each != an_id(0)}
    assert scores(search(shared, queries=queries)) == pytest.approx(expected, abs=1e-5)


def test_words_find_captions_that_contain_them(shared: World) -> None:
    found = search(shared, text="the birds of a boat", rank="words")
    assert {hit["caption"] for hit in found["hits"]} >= {"two birds", "a boat at sea"}
    assert all(hit["relevance"] is None for hit in found["hits"])
    assert search(shared, text="!!!", rank="words")["hits"] == []


@pytest.mark.parametrize("target", ["image", "caption", "both"])
def test_every_score_of_a_hybrid_search_is_a_cosine(shared: World, target: str) -> None:
    vector = vector_of(shared, "a red boat")
    kinds = ["image", "caption"] if target == "both" else [target]
    own = [cosines(shared, vector, kind) for kind in kinds]
    expected = {each: max(kind[each] for kind in own) for each in own[0]}
    assert scores(search(shared, text="a red boat", rank="hybrid", target=target)) == pytest.approx(expected, abs=1e-5)


def test_with_clip_weight_zero_only_words_decide(shared: World) -> None:
    found = search(shared, text="boat", rank="hybrid", weights={"clip": 0, "words": 1})
    assert [hit["caption"] for hit in found["hits"]] == ["a boat at sea"]


def test_diversity_starts_with_the_nearest_and_keeps_cosines(shared: World) -> None:
    plain, diverse = search(shared, text="a cat"), search(shared, text="a cat", diversity=0.9)
    assert ids(diverse)[0] == ids(plain)[0]
    assert scores(diverse) == pytest.approx(scores(plain), abs=1e-5)
    assert ids(diverse) != ids(plain)


@pytest.mark.parametrize("options", [{}, {"rank": "hybrid"}, {"target": "both"}, {"rank": "words"}])
def test_each_group_has_one_value(shared: World, options: Body) -> None:
    text = "a cat, a dog, two birds"
    found = search(shared, text=text, group_by="width", group_size=1, limit=3, **options)
    plain = search(shared, text=text, **options)
    assert [group["value"] for group in found["groups"]] == [hit["width"] for hit in plain["hits"]][:3]
    assert [group["hits"][0] for group in found["groups"]] == found["hits"]


def test_relevance_is_the_share_of_unrelated_pairs_with_a_lower_cosine(world: World) -> None:
    collection = world.build("first")
    world.store.collections.update_metadata(
        collection.name, baselines={"text_image": [-1.0, 1.0], "image_image": [-1.0, 0.0]}
    )
    world.service.follower.refresh()
    for hit in search(world, text="a cat")["hits"]:
        assert hit["relevance"] == pytest.approx((hit["score"] + 1) / 2, abs=1e-3)
    for hit in search(world, id=an_id(0))["hits"]:
        assert hit["relevance"] == pytest.approx(min(1.0, hit["score"] + 1), abs=1e-3)
    for body in ({"text": "a cat", "target": "caption"}, {"vector": [1.0] * 32}):
        assert {hit["relevance"] for hit in search(world, **body)["hits"]} == {None}


def test_images_above_a_minimum_relevance_are_ordered_by_a_field(world: World) -> None:
    collection = world.build("first")
    world.store.collections.update_metadata(collection.name, baselines={"text_image": [-1.0, 1.0]})
    world.service.follower.refresh()
    best = search(world, text="a cat")["hits"]
    minimum = best[3]["relevance"]
    above = [hit for hit in best if hit["relevance"] >= minimum]
    assert 0 < len(above) < len(best)
    assert search(world, text="a cat", min_relevance=minimum)["hits"] == pytest.approx(above)
    body: Body = {"text": "a cat", "min_relevance": minimum, "order_by": "-width", "limit": 3}
    found = search(world, **body)
    expected = sorted(above, key=lambda hit: -hit["width"])
    assert found["hits"] == expected[:3]
    assert (found["truncated"], found["warnings"]) == (False, [])
    assert search(world, **body, cursor=found["cursor"])["hits"] == expected[3:]
    assert search(world, **body, offset=1)["hits"] == expected[1:4]
    address = {**body, "q": body["text"]}
    del address["text"]
    assert ids(world.client.get("/v1/search", params=address).json()) == ids(found)
    assert ids(batch(world, [body])[0]) == ids(found)
    refused = world.client.post("/v1/search", json={**body, "min_relevance": minimum / 2, "cursor": found["cursor"]})
    assert refused.json()["error"]["code"] == "invalid_cursor"


def test_images_are_listed_without_a_query(shared: World) -> None:
    listed = search(shared, filter={"width": {"gte": 200}}, order_by="-width", limit=2)
    assert [hit["width"] for hit in listed["hits"]] == [500, 400]
    assert {(hit["score"], hit["relevance"]) for hit in listed["hits"]} == {(None, None)}
    assert listed["hits"][0]["payload"]["caption"] == "a boat at sea"
    body: Body = {"filter": {"width": {"gte": 200}}, "order_by": "-width", "limit": 2}
    following = search(shared, **body, cursor=listed["cursor"])
    assert ([hit["width"] for hit in following["hits"]], following["cursor"]) == ([300, 200], None)
    assert [hit["width"] for hit in search(shared, **body, offset=3)["hits"]] == [200]
    by_address = shared.client.get("/v1/search", params={**body, "filter": json.dumps(body["filter"])}).json()
    assert ids(by_address) == ids(listed)
    in_batch = batch(shared, [body, {"text": "a cat"}, {"order_by": "tags"}, {"filter": {}}])
    assert ids(in_batch[0]) == ids(listed)
    assert in_batch[2]["status"] == 400
    # Without a date all are equal, and come by id.
    assert ids(in_batch[3]) == sorted(map(an_id, range(len(CAPTIONS))))


def test_a_list_without_a_query_loads_no_model(shared: World) -> None:
    class Live:
        index = "images"

        def collection(self) -> Any:
            return shared.service.follower.collection()

        async def ready(self) -> Any:
            raise AssertionError("loaded")

    searcher = Searcher(shared.store, cast(Any, Live()), cast(Any, None), CursorKeys([b"key"]))
    found = asyncio.run(searcher.search(parse_query({"order_by": "width"}), None))
    assert [hit.width for hit in found] == [100, 200, 300, 400, 500]


def test_a_language_that_the_model_does_not_know_gives_a_warning(served: World) -> None:
    encoder = served.service.follower.snapshot().encoder
    encoder.checkpoint = replace(encoder.checkpoint, spec=replace(encoder.checkpoint.spec, languages="English"))
    assert "Chinese" in " ".join(search(served, text="一只猫")["warnings"])
    assert search(served, text="a cat")["warnings"] == []


def test_the_query_string_takes_the_options_of_the_body(shared: World) -> None:
    body = {"rank": "hybrid", "target": "both", "limit": 2, "filter": {"width": {"gte": 200}}}
    by_body = search(shared, text="a cat", **body)
    by_address = {**body, "q": "a cat", "filter": json.dumps(body["filter"])}
    first = shared.client.get("/v1/search", params=by_address).json()
    assert (ids(first), first["cursor"]) == (ids(by_body), by_body["cursor"])
    following = shared.client.get("/v1/search", params={**by_address, "cursor": first["cursor"]}).json()
    assert ids(following) == ids(search(shared, text="a cat", **body, cursor=by_body["cursor"]))
    likes = shared.client.get("/v1/search", params={"id": an_id(1), "diversity": 0.2}).json()
    assert ids(likes) == ids(search(shared, id=an_id(1), diversity=0.2))


def batch(world: World, searches: list[Body]) -> list[Body]:
    answer = world.client.post("/v1/search/batch", json={"searches": searches})
    assert answer.status_code == 200, answer.text
    results: list[Body] = answer.json()["results"]
    return results


def test_a_batch_gives_the_same_results_as_single_searches(shared: World) -> None:
    searches: list[Body] = [
        {"text": "a cat", "limit": 2},
        {"text": "a dog", "target": "both"},
        {"text": "two birds", "rank": "words"},
        {"id": an_id(3), "rank": "clip", "diversity": 0.4},
        {"text": "a red car", "rank": "hybrid", "group_by": "width"},
        {"text": "a red car", "group_by": "width", "group_size": 1},
    ]
    for alone, one in zip((search(shared, **each) for each in searches), batch(shared, searches), strict=True):
        assert ids(one) == ids(alone)
        assert scores(one) == pytest.approx(scores(alone), abs=1e-5)
        assert bool(one["groups"]) == bool(alone["groups"])


def test_a_batch_is_few_requests_to_the_store(shared: World) -> None:
    counted = Counted(shared.store.search)
    store = with_search(shared.store, counted)
    with replica_of(store, shared.service.follower, Settings.load({})) as client:
        searches = [{"text": f"cat {number}", "target": "caption"} for number in range(64)]
        answer = client.post("/v1/search/batch", json={"searches": searches})
        assert answer.status_code == 200
        assert len(answer.json()["results"]) == 64
        assert counted.calls["many"] == 4  # of 16 searches each
        counted.calls.clear()
        client.post("/v1/search/batch", json={"searches": [{"text": f"cat {n}", "target": "both"} for n in range(2)]})
        assert counted.calls["many"] == 2  # fused: candidates, then the hits with their cosines


def test_a_filter_is_parsed_once_for_all_requests_of_a_query(shared: World) -> None:
    sent: list[Search] = []

    class Recorded(Counted):
        def many(self, collection: Any, searches: list[Search]) -> Any:
            sent.extend(searches)
            return self._search.many(collection, searches)

    recorded = Recorded(shared.store.search)
    store = with_search(shared.store, recorded)
    body = {"text": "a cat", "rank": "hybrid", "target": "both", "filter": {"width": {"gte": 200}}}
    with replica_of(store, shared.service.follower, Settings.load({})) as client:
        assert client.post("/v1/search", json=body).json()["hits"]
    assert recorded.calls["parse"] == 1
    assert {type(search.filter) for search in sent if search.only is None} == {ParsedFilter}


def test_similar_images_are_one_hit_on_every_route(shared: World) -> None:
    body: Body = {"collapse": "near", "collapse_threshold": 0.0, "limit": 2}
    plain = search(shared, text="a cat")
    found = search(shared, text="a cat", **body)
    first = found["hits"][0]
    vectors = shared.store.points.vectors(shared.service.follower.snapshot().collection, ids(plain))
    shown: list[str] = []
    for each in ids(plain):
        if all(float(vectors[each] @ vectors[other]) < 0 for other in shown):
            shown.append(each)
    assert ids(found) == shown[:2]
    assert sum(hit["collapsed"] + 1 for hit in search(shared, text="a cat", **body | {"limit": 200})["hits"]) == len(
        plain["hits"]
    )
    assert first["collapsed"] > 0
    uris = {hit["id"]: hit["uri"] for hit in plain["hits"]}
    for each in first["similar"]:
        assert each["uri"] == uris[each["id"]]
        assert each["cosine"] == pytest.approx(float(vectors[each["id"]] @ vectors[first["id"]]), abs=1e-5)
    address = {"q": "a cat", **body}
    assert shared.client.get("/v1/search", params=address).json()["hits"] == found["hits"]
    batch = shared.client.post("/v1/search/batch", json={"searches": [{"text": "a cat", **body}] * 4}).json()
    assert [each["hits"] for each in batch["results"]] == [found["hits"]] * 4
    listed = search(shared, filter={}, **body)["hits"]
    assert listed[0]["collapsed"] > 0
    assert listed[0]["score"] is None


def test_images_without_a_hash_are_not_collapsed_as_the_same(shared: World) -> None:
    plain, found = search(shared, text="a cat"), search(shared, text="a cat", collapse="exact")
    assert found["hits"] == plain["hits"]
    assert found["truncated"] is False
    assert [(hit["collapsed"], hit["similar"]) for hit in found["hits"]] == [(0, [])] * len(found["hits"])


def test_a_batch_takes_few_searches_that_compare_images(shared: World) -> None:
    searches = [{"text": "a cat", "collapse": "near"}] * 5
    refused = shared.client.post("/v1/search/batch", json={"searches": searches})
    assert refused.status_code == 422
    assert "up to 4 with collapse 'near'" in refused.json()["error"]["message"]
    many = [{"text": "a cat", "collapse": "exact"}] * 64
    assert shared.client.post("/v1/search/batch", json={"searches": many}).status_code == 200
