"""The status routes: facets, models, statistics."""

import json

import pytest

from tests.service.conftest import CAPTIONS, INDEX, World
from viewfinder.models.registry import REGISTRY
from viewfinder.sources.uris import point_id
from viewfinder.store.field_names import FIELDS
from viewfinder.store.recorded import SourceRecord


def test_facets_count_the_values_of_a_field(shared: World) -> None:
    answer = shared.client.get("/v1/facets", params={"field": "width", "limit": 2})
    live = shared.store.collections.live(INDEX)
    assert live is not None
    assert answer.json() == {
        "field": "width",
        "values": [{"value": 100, "count": 1}, {"value": 200, "count": 1}],
        "collection": live.name,
    }
    (all_of_them,) = shared.client.get("/v1/facets", params={"field": "sources"}).json()["values"]
    assert all_of_them == {"value": "s3://bucket", "count": len(CAPTIONS)}


def test_facets_take_a_filter_of_any_length_in_a_body(shared: World) -> None:
    # Regression: the page's chips vanished when the filters of a query grew beyond 4,000 characters.
    uri = shared.client.post("/v1/search", json={"text": "a", "limit": 1}).json()["hits"][0]["uri"]
    many = [uri, *(f"s3://bucket/{number:060}.jpg" for number in range(100))]
    body = {"field": "sources", "filter": {"uri": {"in": many}}}
    assert shared.client.post("/v1/facets", json=body).json()["values"] == [{"value": "s3://bucket", "count": 1}]
    refused = shared.client.post("/v1/facets", json={"feild": "tags"}).json()["error"]
    assert "did you mean 'field'?" in refused["message"]


def test_facets_count_only_images_that_match_the_filter(shared: World) -> None:
    params = {"field": "sources", "filter": json.dumps({"width": {"gte": 300}})}
    assert shared.client.get("/v1/facets", params=params).json()["values"] == [{"value": "s3://bucket", "count": 3}]


@pytest.mark.parametrize(
    ("params", "status", "code", "named"),
    [
        ({}, 422, "invalid_request", "field"),
        ({"field": ""}, 422, "invalid_request", "field"),
        ({"field": "width", "limit": "0"}, 422, "invalid_request", "limit"),
        ({"field": "width", "limit": "1000"}, 422, "invalid_request", "limit"),
        ({"field": "colour"}, 400, "invalid_filter", "colour"),
        ({"field": "caption"}, 400, "invalid_filter", "caption"),
        ({"field": "width", "filter": "{"}, 400, "invalid_filter", "filter"),
        ({"field": "width", "filter": "[]"}, 400, "invalid_filter", "filter"),
        ({"field": "width", "filter": "[" * 4000}, 400, "invalid_filter", "filter"),
        ({"field": "width", "filter": "x" * 4001}, 422, "invalid_request", "filter"),
        ({"field": "width", "filter": '{"colour": {"eq": 1}}'}, 400, "invalid_filter", "colour"),
    ],
)
def test_the_error_of_an_uncountable_facet_names_the_field(
    shared: World, params: dict[str, str], status: int, code: str, named: str
) -> None:
    answer = shared.client.get("/v1/facets", params=params)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert named in answer.json()["error"]["message"]


def test_models_are_those_of_the_registry_and_the_live_one(shared: World) -> None:
    body = shared.client.get("/v1/models").json()
    by_name = {model["name"]: model for model in body["models"]}
    assert by_name.keys() == {*REGISTRY, body["live"]}
    assert by_name["ViT-B-32::openai"]["dimension"] == 512
    assert by_name[body["live"]]["dimension"] == 32
    assert all("directory" not in model for model in body["models"])


def test_models_are_listed_before_there_is_an_index(world: World) -> None:
    body = world.client.get("/v1/models").json()
    assert (body["live"], len(body["models"])) == (None, len(REGISTRY))


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_may_be_asked_with_head(shared: World, path: str) -> None:
    answer = shared.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_stats_describe_the_index_without_secrets(served: World) -> None:
    live = served.store.collections.live(INDEX)
    assert live is not None
    records = served.store.collections.records(live)
    records.record_sources([SourceRecord("s3://bucket")])
    records.record_captions("s3://bucket", "s3://private/captions.csv")
    records.record_fields({"meta.year": "integer"})
    for run_id in ("one", "two"):
        records.record_run(run_id)
    served.store.collections.update_metadata(live.name, baselines={"image_image": [0.0] * 101})
    served.service.follower.refresh()
    stats = served.client.get("/v1/stats").json()
    assert (stats["points"], stats["captions"]) == (len(CAPTIONS), len(CAPTIONS))
    assert (stats["sources"], stats["fields"]) == (["s3://bucket"], {**FIELDS, "meta.year": "integer"})
    assert (stats["last_run"], stats["relevance"]) == ("two", True)
    assert "private" not in json.dumps(stats)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/healthz", "GET, HEAD"),
        ("/readyz", "GET, HEAD"),
        (f"/v1/images/{point_id('s3://bucket/0.jpg')}/content", "GET, HEAD"),
        ("/v1/facets", "GET, HEAD, POST"),
        ("/v1/search", "GET, HEAD, POST"),
        (f"/v1/images/{point_id('s3://bucket/0.jpg')}", "DELETE, GET, HEAD"),
    ],
)
def test_a_wrong_method_names_all_that_the_path_has(shared: World, path: str, methods: str) -> None:
    answer = shared.client.put(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, methods)
