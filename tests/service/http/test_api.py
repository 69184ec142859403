"""The HTTP interface of one replica, over a real store and a real encoder."""

import pytest

from tests.service.conftest import CAPTIONS, World
from viewfinder.sources.uris import point_id


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


def test_an_answer_names_the_model_and_collection_that_made_it(shared: World) -> None:
    live = shared.store.collections.live("images")
    assert live is not None
    body = shared.client.post("/v1/search", json={"text": "a cat"}).json()
    assert (body["model"], body["collection"]) == (live.metadata.model_name, live.name)


def test_the_address_bar_gives_the_same_hits_as_the_body(shared: World) -> None:
    by_body = shared.client.post("/v1/search", json={"text": "a dog", "limit": 3, "target": "both"}).json()
    by_address = shared.client.get("/v1/search", params={"q": "a dog", "limit": 3, "target": "both"}).json()
    assert [hit["id"] for hit in by_address["hits"]] == [hit["id"] for hit in by_body["hits"]]


def test_pages_do_not_overlap_and_together_give_the_whole(shared: World) -> None:
    whole = shared.client.post("/v1/search", json={"text": "a dog", "limit": 5}).json()["hits"]
    pages = [
        shared.client.post("/v1/search", json={"text": "a dog", "limit": 2, "offset": offset}).json()["hits"]
        for offset in (0, 2, 4)
    ]
    assert [hit["id"] for page in pages for hit in page] == [hit["id"] for hit in whole]


def test_both_targets_rank_a_point_first_that_leads_in_one_and_is_high_in_the_other(shared: World) -> None:
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


def test_a_text_too_long_is_answered_with_a_warning_that_counts_the_cut_tokens(shared: World) -> None:
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
def test_a_wrong_request_is_refused_with_the_field_named(
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


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("PUT", "/v1/search", 405)])
def test_unknown_routes_answer_in_the_one_error_shape(shared: World, method: str, path: str, status: int) -> None:
    answer = shared.client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"code", "message", "hint", "request_id"}


def test_a_client_may_name_its_request(shared: World) -> None:
    answer = shared.client.get("/healthz", headers={"x-request-id": "mine-17"})
    assert answer.headers["x-request-id"] == "mine-17"


@pytest.mark.parametrize("path", ["/v1/search?q=cat", "/v1/stats", "/readyz"])
def test_without_an_index_the_answer_is_503_with_the_command_that_makes_one(world: World, path: str) -> None:
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
    assert stats["problem"] is None


def test_the_page_of_docs_and_the_schema_are_served(shared: World) -> None:
    assert "swagger" in shared.client.get("/docs").text.lower()
    paths = shared.client.get("/openapi.json").json()["paths"]
    assert {"/v1/search", "/v1/stats", "/healthz", "/readyz"} <= paths.keys()
