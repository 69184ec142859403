"""The clients against the real application on a real socket."""

from typing import Any

import pytest

from tests.client.conftest import Ask
from tests.fixtures.services import CAPTIONS, INDEX, Running
from viewfinder.errors import ServiceError, ServiceUnavailableError
from viewfinder.sources.uris import point_id

pytestmark = pytest.mark.slow


def test_a_search_finds_what_was_described(running: Running, ask: Ask) -> None:
    result = ask(running.url, "search", "a red car", limit=2)
    assert (result.model, result.collection, result.warnings) == (running.model, running.collection, ())
    assert len(result) == 2
    first = result.hits[0]
    assert (first.id, first.uri, first.caption) == (point_id("s3://bucket/2.jpg"), "s3://bucket/2.jpg", "a red car")
    assert (first.width, first.height, first.payload["has_image"]) == (300, 50, True)
    assert first.score == pytest.approx(1, abs=1e-5)
    assert [hit.score for hit in result] == sorted((hit.score for hit in result), reverse=True)


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"filter": {"width": {"gte": 400}}}, {3, 4}),
        ({"score_threshold": 0.9999}, {2}),
        ({"offset": 4}, set()),
        ({"target": "caption", "limit": 1}, {2}),
        ({"score_threshold": -1.0, "order_by": "-width", "limit": 2}, {3, 4}),
        ({"target": "both", "limit": 1}, {2}),
    ],
)
def test_every_option_reaches_the_service(
    running: Running, ask: Ask, options: dict[str, Any], numbers: set[int]
) -> None:
    uris = {hit.uri for hit in ask(running.url, "search", "a red car", **options)}
    if "offset" in options:
        assert len(uris) == 1
        assert "s3://bucket/2.jpg" not in uris
    else:
        assert uris == {f"s3://bucket/{number}.jpg" for number in numbers}


def test_images_are_listed_without_a_query(running: Running, ask: Ask) -> None:
    result = ask(running.url, "search", filter={"width": {"gte": 200}}, order_by="-width", limit=2)
    assert [(hit.width, hit.score, hit.relevance) for hit in result] == [(500, None, None), (400, None, None)]


def test_a_minimum_relevance_without_baselines_is_refused(running: Running, ask: Ask) -> None:
    with pytest.raises(ServiceError, match="min_relevance: the hits have no relevance") as refused:
        ask(running.url, "search", "a cat", min_relevance=0.9)
    assert (refused.value.status, refused.value.code) == (400, "no_relevance")


def test_a_truncated_text_has_a_warning(running: Running, ask: Ask) -> None:
    assert "beyond the first 77" in ask(running.url, "search", "cat " * 200).warnings[0]


def test_stats_describe_the_live_collection(running: Running, ask: Ask) -> None:
    stats = ask(running.url, "stats")
    assert (stats.index, stats.points, stats.state, stats.behind) == (INDEX, len(CAPTIONS), "live", None)
    assert (stats.model, stats.fingerprint, stats.dimension) == (running.model, running.fingerprint, 32)


def test_a_service_with_an_index_is_healthy_and_ready(running: Running, ask: Ask) -> None:
    assert ask(running.url, "healthy") is True
    assert ask(running.url, "ready") is True


def test_a_service_without_an_index_is_healthy_but_not_ready(without_index: str, ask: Ask) -> None:
    assert ask(without_index, "healthy") is True
    assert ask(without_index, "ready") is False
    with pytest.raises(ServiceUnavailableError) as raised:
        ask(without_index, "search", "a cat", client={"retries": 0})
    assert (raised.value.code, raised.value.status, raised.value.exit_status) == ("no_index", 503, 1)
    assert "There is no index 'photos' yet. Index images: viewfinder index" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "options", "code", "says"),
    [
        ("a cat", {"filter": {"width": {"near": 3}}}, "invalid_filter", "near"),
        ("", {}, "invalid_request", "text"),
        ("\ud800", {}, "invalid_", "text"),
        ("a cat", {"limit": 201}, "invalid_request", "limit"),
    ],
)
def test_a_refused_request_has_a_reason_and_counts_as_wrong_usage(
    running: Running, ask: Ask, text: str, options: dict[str, Any], code: str, says: str
) -> None:
    with pytest.raises(ServiceError, match=says) as raised:
        ask(running.url, "search", text, **options)
    assert raised.value.code.startswith(code)
    assert len(raised.value.request_id) == 32
    assert raised.value.request_id in str(raised.value)
    assert raised.value.exit_status == 2


def test_an_unknown_option_is_refused_before_a_request_is_sent(ask: Ask) -> None:
    with pytest.raises(TypeError, match="top_k"):
        ask("http://127.0.0.1:1", "search", "a cat", top_k=5)


def test_many_texts_are_answered_in_their_order(running: Running, ask: Ask) -> None:
    texts = list(CAPTIONS) * 4
    results = ask(running.url, "search_many", texts, concurrency=3, limit=1)
    assert [result.hits[0].caption for result in results] == texts
