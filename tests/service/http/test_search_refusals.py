"""Searches that are refused, and the reasons."""

import json
import threading
from typing import Any

import pytest

from tests.service.conftest import World, replica_of
from tests.service.http.searching import Body, Counted, an_id, ids, image, search, with_search
from viewfinder.settings import Settings


@pytest.mark.parametrize(
    ("searches", "named"),
    [
        ([], "searches: it is empty."),
        ([{"text": "a cat"}] * 65, "searches: 65 are too many; the maximum is 64."),
        ([{"queries": [{"image": "aaaa"}] * 16}] * 5, "80"),
    ],
)
def test_a_batch_of_the_wrong_size_is_refused(shared: World, searches: list[Body], named: str) -> None:
    answer = shared.client.post("/v1/search/batch", json={"searches": searches})
    assert answer.status_code == 422
    assert named in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("search_", "status", "code", "named"),
    [
        ({"text": "a dog", "limit": 0}, 422, "invalid_request", "limit: 0 is below the minimum of 1."),
        ({"text": "a dog", "id": an_id(1)}, 422, "invalid_request", "text and id"),
        ({"text": "a cat", "cursor": "abc"}, 422, "invalid_request", "cursor:"),
        ({"id": an_id(99)}, 404, "not_found", an_id(99)),
        ({"text": "a cat", "filter": {"colour": {"eq": 1}}}, 400, "invalid_filter", "colour"),
        ({"image": "***"}, 422, "invalid_image", "image:"),
        ("a cat", 422, "invalid_request", "expected a JSON object"),
    ],
)
def test_a_refused_search_of_a_batch_has_the_error_that_it_would_have_alone(
    shared: World, search_: Any, status: int, code: str, named: str
) -> None:
    searches = [{"text": "a dog"}, search_, {"text": "a cat"}]
    answer = shared.client.post("/v1/search/batch", json={"searches": searches})
    assert answer.status_code == 200
    first, refused, last = answer.json()["results"]
    assert [ids(each) for each in (first, last)] == [ids(search(shared, text=each)) for each in ("a dog", "a cat")]
    assert (refused["status"], refused["error"]["code"]) == (status, code)
    assert named in refused["error"]["message"]
    assert refused["error"]["request_id"] == answer.headers["x-request-id"]


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
        ({"text": "a", "min_relevance": 0.5}, 400, "no_relevance", "has not measured it"),
        ({"vector": [1.0] * 32, "min_relevance": 0.5}, 400, "no_relevance", "the query is a vector"),
        ({"queries": [{"text": "a"}, {"text": "b"}], "min_relevance": 0.5}, 400, "no_relevance", "different parts"),
        ({"text": "a", "rank": "words", "min_relevance": 0.5}, 400, "no_relevance", "rank 'words'"),
        ({"filter": {}, "min_relevance": 0.5}, 400, "no_relevance", "there is no query"),
        (
            {"order_by": "tags"},
            400,
            "invalid_filter",
            "cannot be ordered by: its type is keyword. Fields that can: hei",
        ),
        ({"order_by": "-caption"}, 400, "invalid_filter", "'caption' cannot be ordered by"),
        ({"order_by": "etag"}, 400, "invalid_filter", "etag"),
        ({"order_by": "widht"}, 400, "invalid_filter", "Closest: 'width'"),
        ({"text": "a", "order_by": "tags", "score_threshold": 0}, 400, "invalid_filter", "'tags' cannot be ordered by"),
        ({"text": "a", "order_by": "width"}, 422, "invalid_request", "order_by: with a query it needs min_relevance"),
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
    world.store.collections.add_fields(collection, {"meta.year": "integer"})
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
        (image(), '{"order_by": "width"}', 422, "invalid_request"),
        (image(), '{"min_relevance": 0.5}', 400, "no_relevance"),
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
        ({"q": "a cat", "min_relevance": "0.5"}, 400, "no_relevance"),
        ({"order_by": "tags"}, 400, "invalid_filter"),
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
    store = with_search(shared.store, Slow(shared.store.search))
    with replica_of(store, shared.service.follower, settings) as client:
        answer = client.post("/v1/search", json={"text": "a cat"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        release.set()
