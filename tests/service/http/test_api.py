"""The HTTP API of one replica, over a real store and a real encoder."""

import pytest

from tests.service.conftest import CAPTIONS, World
from tests.service.http.searching import an_id, image
from viewfinder.sources.uris import point_id

pytestmark = pytest.mark.slow


def test_a_caption_is_found_by_its_own_words(shared: World) -> None:
    answer = shared.client.post("/v1/search", json={"text": CAPTIONS[2], "target": "caption", "limit": 2})
    assert answer.status_code == 200
    body = answer.json()
    best = body["hits"][0]
    assert best["caption"] == CAPTIONS[2]
    assert best["score"] == pytest.approx(1.0, abs=1e-4)
    assert best["id"] == point_id("s3://bucket/2.jpg")
    assert best["uri"] == "s3://bucket/2.jpg"
    assert (best["width"], best["height"]) == (300, 50)
    assert len(body["hits"]) == 2
    assert body["took_ms"] > 0


def test_a_response_names_its_model_and_collection(shared: World) -> None:
    live = shared.store.collections.live("images")
    assert live is not None
    body = shared.client.post("/v1/search", json={"text": "a cat"}).json()
    assert (body["model"], body["collection"]) == (live.metadata.model_name, live.name)


def test_get_gives_the_same_hits_as_post(shared: World) -> None:
    by_body = shared.client.post("/v1/search", json={"text": "a dog", "limit": 3, "target": "both"}).json()
    by_address = shared.client.get("/v1/search", params={"q": "a dog", "limit": 3, "target": "both"}).json()
    assert [hit["id"] for hit in by_address["hits"]] == [hit["id"] for hit in by_body["hits"]]


def test_pages_by_offset_are_the_whole_result(shared: World) -> None:
    whole = shared.client.post("/v1/search", json={"text": "a dog", "limit": 5}).json()["hits"]
    pages = [
        shared.client.post("/v1/search", json={"text": "a dog", "limit": 2, "offset": offset}).json()["hits"]
        for offset in (0, 2, 4)
    ]
    assert [hit["id"] for page in pages for hit in page] == [hit["id"] for hit in whole]


def test_target_both_orders_by_reciprocal_ranks(shared: World) -> None:
    lists = {
        target: [
            hit["id"]
            for hit in shared.client.get("/v1/search", params={"q": "two birds", "target": target, "limit": 5}).json()[
                "hits"
            ]
        ]
        for target in ("image", "caption", "both")
    }
    ranks = {
        each: sum(1 / (60 + 1 + lists[target].index(each)) for target in ("image", "caption")) for each in lists["both"]
    }
    assert lists["both"] == sorted(ranks, key=lambda each: (-ranks[each], each))


def test_a_filter_leaves_out_images_that_do_not_match(shared: World) -> None:
    body = {"text": "a cat", "filter": {"width": {"gte": 300}}}
    hits = shared.client.post("/v1/search", json=body).json()["hits"]
    assert sorted(hit["width"] for hit in hits) == [300, 400, 500]


def test_a_score_threshold_leaves_out_lower_cosines(shared: World) -> None:
    body = {"text": CAPTIONS[0], "target": "caption", "score_threshold": 0.999}
    assert [hit["caption"] for hit in shared.client.post("/v1/search", json=body).json()["hits"]] == [CAPTIONS[0]]


def test_the_warning_for_a_long_text_counts_the_ignored_tokens(shared: World) -> None:
    body = shared.client.post("/v1/search", json={"text": "cat " * 100}).json()
    assert len(body["hits"]) == 5
    # 100 words and two marks make 102 tokens; the model reads 77.
    assert body["warnings"] == ["The text is longer than the model reads: 25 tokens beyond the first 77 were left out."]


@pytest.mark.parametrize(
    ("body", "status", "code", "named"),
    [
        ({}, 422, "invalid_request", "text"),
        ({"text": ""}, 422, "invalid_request", "text"),
        ({"text": "x" * 5000}, 422, "invalid_request", "text"),
        ({"text": "a cat", "limit": 0}, 422, "invalid_request", "limit"),
        ({"text": "a cat", "limit": 201}, 422, "invalid_request", "limit"),
        ({"text": "a cat", "offset": -1}, 422, "invalid_request", "offset"),
        ({"text": "a cat", "target": "sound"}, 422, "invalid_request", "target"),
        ({"text": "a cat", "colour": "red"}, 422, "invalid_request", "colour"),
        ({"text": "a cat", "target": "both", "score_threshold": 0.5}, 422, "invalid_request", "score_threshold"),
        ({"text": "a cat", "filter": {"colour": {"eq": "red"}}}, 400, "invalid_filter", "colour"),
        ({"text": "a cat", "filter": {"width": {"near": 3}}}, 400, "invalid_filter", "near"),
    ],
)
def test_the_error_of_an_invalid_request_names_the_field(
    shared: World, body: dict[str, object], status: int, code: str, named: str
) -> None:
    answer = shared.client.post("/v1/search", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert named in error["message"]
    assert error["hint"]
    assert error["request_id"] == answer.headers["x-request-id"]


def test_a_body_that_is_not_json_is_a_bad_request(shared: World) -> None:
    answer = shared.client.post("/v1/search", content=b"{text: cat", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    "filter", ['{"width": {"gte": 300}, "width": {"lte": 100}}', '{"width": {"gte": 300, "gte": 100}}']
)
def test_a_name_that_is_given_twice_is_refused(shared: World, filter: str) -> None:
    """Regression: the first condition was dropped silently."""
    body = f'{{"text": "a cat", "filter": {filter}}}'
    form = {"files": {"image": image()}, "data": {"options": f'{{"filter": {filter}}}'}}
    answers = [
        shared.client.post("/v1/search", content=body, headers={"content-type": "application/json"}),
        shared.client.get("/v1/search", params={"q": "a cat", "filter": filter}),
        shared.client.get("/v1/facets", params={"field": "format", "filter": filter}),
        shared.client.post("/v1/search/image", **form),
    ]
    assert [(each.status_code, each.json()["error"]["code"]) for each in answers] == [(400, "invalid_json")] * 4
    assert all("is given twice" in each.json()["error"]["message"] for each in answers)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/docs", "/docs/start.js", "/openapi.json", "/healthz", "/v1/stats", "/v1/models", "/v1/indexes"),
        *("/v1/search?q=cat", "/v1/search", "/v1/facets?field=format", f"/v1/images/{an_id(1)}", "/nope"),
    ],
)
def test_head_is_answered_as_get_without_a_body(shared: World, path: str) -> None:
    head, get = shared.client.head(path), shared.client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_head_of_a_path_without_get_is_refused(shared: World) -> None:
    answer = shared.client.head("/v1/embed")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("PUT", "/v1/search", 405)])
def test_unknown_routes_and_methods_give_the_error_body(shared: World, method: str, path: str, status: int) -> None:
    answer = shared.client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"code", "message", "hint", "request_id", "type", "param"}


def test_a_client_may_choose_the_request_id(shared: World) -> None:
    answer = shared.client.get("/healthz", headers={"x-request-id": "mine-17"})
    assert answer.headers["x-request-id"] == "mine-17"


@pytest.mark.parametrize("path", ["/v1/search?q=cat", "/v1/stats", "/readyz"])
def test_without_an_index_the_hint_is_the_index_command(world: World, path: str) -> None:
    world.service.follower.refresh()
    answer = world.client.get(path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "no_index")
    assert "There is no index 'images' yet" in error["message"]
    assert "viewfinder index" in error["hint"]
    assert answer.headers["retry-after"] == "5"
    assert world.client.get("/healthz").status_code == 200


def test_stats_count_the_points_and_name_the_model(shared: World) -> None:
    stats = shared.client.get("/v1/stats").json()
    assert stats["points"] == len(CAPTIONS)
    assert stats["fingerprint"] == shared.checkpoints["first"].fingerprint
    assert stats["dimension"] == 32
    assert stats["behind"] is None


def test_docs_and_schema_are_served(shared: World) -> None:
    assert "swagger" in shared.client.get("/docs").text.lower()
    paths = shared.client.get("/openapi.json").json()["paths"]
    assert {"/v1/search", "/v1/stats", "/healthz", "/readyz"} <= paths.keys()
