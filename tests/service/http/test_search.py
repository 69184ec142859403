"""Searches over HTTP: queries, order, pages and refusals."""

import base64
import copy
import io
import json
import threading
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.service.conftest import CAPTIONS, World, local_client
from viewfinder.service.http.api import build_api
from viewfinder.service.search_service import SearchService
from viewfinder.settings import Settings
from viewfinder.sources.uris import point_id
from viewfinder.store import Store
from viewfinder.store.search import Searches

Body = dict[str, Any]


def image(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (48, 40), colour).save(file, "PNG")
    return file.getvalue()


def as_base64(colour: str = "red") -> str:
    return base64.b64encode(image(colour)).decode()


def an_id(number: int) -> str:
    return point_id(f"s3://bucket/{number}.jpg")


def search(world: World, **body: Any) -> Body:
    answer = world.client.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    found: Body = answer.json()
    return found


def ids(answer: Body) -> list[str]:
    return [hit["id"] for hit in answer["hits"]]


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


class Counted:
    """A store's searches, counted by method."""

    def __init__(self, search: Searches) -> None:
        self._search = search
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(self._search, name)


def with_search(store: Store, search: Any) -> Store:
    """The same store with its searches replaced."""
    twin = copy.copy(store)
    twin.search = search
    return twin


# -- Kinds of queries ------------------------------------------------------------------------------------------------


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


# -- Relevance and warnings ----------------------------------------------------------------------------------------


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


def test_a_language_that_the_model_does_not_know_gives_a_warning(served: World) -> None:
    encoder = served.service.follower.snapshot().encoder
    encoder.checkpoint = replace(encoder.checkpoint, spec=replace(encoder.checkpoint.spec, languages="English"))
    assert "Chinese" in " ".join(search(served, text="一只猫")["warnings"])
    assert search(served, text="a cat")["warnings"] == []


# -- Pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        {"text": "a cat"},
        {"text": "a cat", "target": "both"},
        {"text": "a cat in the snow", "rank": "words"},
        {"text": "a cat", "rank": "hybrid", "filter": {"width": {"gte": 200}}},
        {"text": "a cat", "diversity": 0.5},
        {"text": "a cat", "group_by": "width"},
        {"id": an_id(1)},
        {"image": as_base64()},
        {"queries": [{"text": "a cat"}, {"text": "snow", "weight": -0.3}]},
    ],
)
def test_a_cursor_leads_through_all_hits_once(shared: World, query: Body) -> None:
    whole = ids(search(shared, **query))
    # With diversity the candidates depend on the limit, so the page size must stay the same.
    sizes = [2, 2, 2] if "diversity" in query else [1, 2, 3]
    page = search(shared, **query, limit=sizes[0])
    found = ids(page)
    for size in sizes[1:]:
        if page["cursor"]:
            page = search(shared, **query, limit=size, cursor=page["cursor"])
            found += ids(page)
    assert found == whole
    assert page["cursor"] is None


def test_a_cursor_continues_after_an_offset(shared: World) -> None:
    whole = ids(search(shared, text="a cat"))
    page = search(shared, text="a cat", offset=1, limit=2)
    assert ids(page) + ids(search(shared, text="a cat", cursor=page["cursor"])) == whole[1:]


def test_a_cursor_stays_in_its_collection_after_a_change_of_model(served: World) -> None:
    whole = search(served, text="a cat")
    page = search(served, text="a cat", limit=2)
    served.build("second")
    served.service.follower.refresh()
    following = search(served, text="a cat", cursor=page["cursor"])
    assert ids(page) + ids(following) == ids(whole)
    assert (following["model"], following["collection"]) == (whole["model"], whole["collection"])
    assert search(served, text="a cat")["collection"] != whole["collection"]


def test_a_replica_that_never_served_the_collection_continues_in_it(served: World) -> None:
    whole = search(served, text="a cat")
    page = search(served, text="a cat", limit=2)
    for model in ("second", "first", "second"):  # the follower keeps one generation besides the current one
        served.build(model)
        served.service.follower.refresh()
    following = search(served, text="a cat", cursor=page["cursor"])
    assert ids(page) + ids(following) == ids(whole)
    assert following["collection"] == whole["collection"]


@pytest.mark.parametrize("refreshed", [True, False])
def test_a_cursor_into_a_dropped_collection_is_410(served: World, refreshed: bool) -> None:
    page = search(served, text="a cat", limit=2)
    served.build("second")
    if refreshed:
        served.service.follower.refresh()
    served.store.collections.drop(page["collection"])
    answer = served.client.post("/v1/search", json={"text": "a cat", "cursor": page["cursor"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "collection_gone")


@pytest.mark.parametrize(
    "change",
    [
        {"text": "a dog"},
        {"target": "caption"},
        {"filter": {"width": {"gte": 1}}},
        {"cursor": "nonsense"},
        {"cursor": None, "damage": True},
    ],
)
def test_a_cursor_of_another_query_or_a_damaged_one_is_refused(shared: World, change: Body) -> None:
    token = search(shared, text="a cat", limit=2)["cursor"]
    body: Body = {"text": "a cat", "cursor": token, **change}
    if body.pop("damage", False):
        body["cursor"] = token[:-1] + ("A" if token[-1] != "A" else "B")
    answer = shared.client.post("/v1/search", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor")


# -- The query string ------------------------------------------------------------------------------------------------


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


# -- Batches ---------------------------------------------------------------------------------------------------------


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


def test_a_batch_is_one_request_to_the_store_and_one_to_the_encoder(shared: World) -> None:
    counted = Counted(shared.store.search)
    service = SearchService(with_search(shared.store, counted), shared.service.follower, Settings.load({}))
    with local_client(build_api(service)) as client:
        searches = [{"text": f"cat {number}", "target": "caption"} for number in range(64)]
        answer = client.post("/v1/search/batch", json={"searches": searches})
        assert answer.status_code == 200
        assert len(answer.json()["results"]) == 64
        assert counted.calls["many"] == 1
        client.post("/v1/search/batch", json={"searches": [{"text": f"cat {n}", "target": "both"} for n in range(9)]})
        assert counted.calls["many"] == 3  # fused: candidates, then the hits with their cosines
    service.images.close()


@pytest.mark.parametrize(
    ("searches", "status", "named"),
    [
        ([], 422, "searches"),
        ([{"text": "a cat"}] * 65, 422, "searches"),
        ([{"text": "a cat"}, {"text": "a dog", "limit": 0}], 422, "searches.1.limit"),
        ([{"text": "a cat"}, {"text": "a dog", "id": an_id(1)}], 422, "searches.1"),
        ([{"text": "a cat", "cursor": "abc"}], 422, "searches.0.cursor"),
        ([{"queries": [{"image": "aaaa"}] * 16}] * 5, 422, "80"),
        ([{"text": "a cat"}, {"id": an_id(99)}], 404, an_id(99)),
    ],
)
def test_the_error_of_a_batch_names_the_invalid_search(
    shared: World, searches: list[Body], status: int, named: str
) -> None:
    answer = shared.client.post("/v1/search/batch", json={"searches": searches})
    assert answer.status_code == status
    assert named in answer.json()["error"]["message"]


# -- Refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code", "named"),
    [
        ({"text": "a cat", "id": an_id(1)}, 422, "invalid_request", "text and id"),
        ({"queries": []}, 422, "invalid_request", "queries"),
        ({"queries": [{"weight": 2}]}, 422, "invalid_request", "exactly one of"),
        ({"queries": [{"text": "a cat", "weight": "heavy"}]}, 422, "invalid_request", "queries.0.weight"),
        (
            {"queries": [{"text": "a cat"}, {"text": "a cat", "weight": -1}]},
            422,
            "invalid_request",
            "cancel each other out",
        ),
        ({"queries": [{"text": "a cat", "weight": 0}]}, 422, "invalid_request", "cancel each other out"),
        ({"vector": [1.0, 2.0, 3.0]}, 422, "invalid_request", "vectors of 32 finite numbers"),
        ({"vector": [0.0] * 32}, 422, "invalid_request", "only zeros"),
        ({"vector": []}, 422, "invalid_request", "vector"),
        ({"id": "../../etc/passwd"}, 422, "invalid_request", "id"),
        ({"id": an_id(77)}, 404, "not_found", an_id(77)),
        ({"image": "bm90IGEgcGljdHVyZQ=="}, 422, "invalid_image", "image"),
        ({"image": "***"}, 422, "invalid_image", "image"),
        ({"image_url": "https://example.org/cat.jpg"}, 422, "image_url_disabled", "image_url"),
        ({"id": an_id(1), "rank": "words"}, 422, "invalid_request", "rank"),
        ({"id": an_id(1), "rank": "hybrid"}, 422, "invalid_request", "rank"),
        ({"text": "a", "rank": "words", "score_threshold": 0.1}, 422, "invalid_request", "by rank"),
        ({"text": "a", "rank": "hybrid", "score_threshold": 0.1}, 422, "invalid_request", "by rank"),
        ({"text": "a", "weights": {"clip": 2}}, 422, "invalid_request", "weights"),
        ({"text": "a", "rank": "hybrid", "weights": {"clip": 0, "words": 0}}, 422, "invalid_request", "weights"),
        ({"text": "a", "target": "both", "diversity": 0.5}, 422, "invalid_request", "diversity"),
        ({"text": "a", "group_by": "width", "diversity": 0.5}, 422, "invalid_request", "diversity"),
        ({"text": "a", "group_by": "colour"}, 400, "invalid_filter", "colour"),
        ({"text": "a", "group_by": "caption", "rank": "hybrid"}, 400, "invalid_filter", "caption"),
        ({"text": "a", "target": "both", "offset": 500}, 422, "invalid_request", "offset"),
        ({"text": "a", "offset": 1, "cursor": "abc"}, 422, "invalid_request", "offset"),
        ({"text": "a", "filter": {"uri": {"eq": "\ud800"}}}, 400, "invalid_filter", "uri"),
    ],
)
def test_invalid_combinations_are_refused_with_the_reason(
    shared: World, body: Body, status: int, code: str, named: str
) -> None:
    answer = shared.client.post("/v1/search", content=json.dumps(body), headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert named in error["message"]


def test_the_error_of_an_unknown_captions_field_names_it(world: World) -> None:
    collection = world.build("first")
    world.store.collections.update_metadata(collection.name, fields={"meta.year": "integer"})
    world.service.follower.refresh()
    assert search(world, text="a cat", filter={"meta.year": {"eq": 2020}})["hits"] == []
    answer = world.client.post("/v1/search", json={"text": "a cat", "filter": {"meta.yaer": {"eq": 2020}}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_filter")
    assert "meta.year" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "options", "status", "code"),
    [
        (b"no image", "{}", 422, "invalid_image"),
        (b"", "{}", 422, "invalid_image"),
        (image(), "{", 400, "invalid_json"),
        (image(), '{"text": "a cat"}', 422, "invalid_request"),
        (image(), '{"rank": "words"}', 422, "invalid_request"),
        (image(), '{"limit": 0}', 422, "invalid_request"),
    ],
)
def test_an_upload_that_cannot_be_searched_is_refused(
    shared: World, content: bytes, options: str, status: int, code: str
) -> None:
    answer = shared.client.post("/v1/search/image", files={"image": content}, data={"options": options})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("parameters", "status", "code"),
    [
        ({}, 422, "invalid_request"),
        ({"q": "a cat", "id": an_id(1)}, 422, "invalid_request"),
        ({"q": "a cat", "filter": "{"}, 400, "invalid_filter"),
        ({"q": "a cat", "filter": "[]"}, 400, "invalid_filter"),
        ({"q": "a cat", "filter": "[" * 4_000}, 400, "invalid_filter"),
        ({"q": "a cat", "filter": "[" * 4_001}, 422, "invalid_request"),
        ({"q": "a cat", "filter": '{"colour": {"eq": 1}}'}, 400, "invalid_filter"),
        ({"q": "a cat", "cursor": "abc"}, 400, "invalid_cursor"),
    ],
)
def test_an_invalid_query_string_is_refused(shared: World, parameters: dict[str, str], status: int, code: str) -> None:
    answer = shared.client.get("/v1/search", params=parameters)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_search_that_takes_too_long_is_504(shared: World) -> None:
    release = threading.Event()

    class Slow(Counted):
        def many(self, *arguments: Any) -> Any:
            release.wait(30)
            return self._search.many(*arguments)

    settings = Settings.load({}, request_timeout_s=0.2)
    service = SearchService(with_search(shared.store, Slow(shared.store.search)), shared.service.follower, settings)
    with local_client(build_api(service)) as client:
        answer = client.post("/v1/search", json={"text": "a cat"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    release.set()
    service.images.close()
