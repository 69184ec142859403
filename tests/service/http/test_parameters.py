"""Parameters in an address: unknown and repeated ones are refused on every route, and what GET /v1/search takes."""

import json
from typing import Any

import pytest

from tests.service.conftest import World
from tests.service.http.searching import an_id, ids, search
from viewfinder.query.body import SearchBody
from viewfinder.service.http.guard import is_open_path


def routes(world: World) -> list[tuple[str, str]]:
    paths: dict[str, Any] = world.client.get("/openapi.json").json()["paths"]
    return [
        (method, path.replace("{id}", an_id(1)))
        for path, methods in paths.items()
        for method in methods
        if not is_open_path(path)
    ]


def test_every_route_refuses_a_parameter_that_it_does_not_have(shared: World) -> None:
    found = routes(shared)
    assert {("get", "/v1/search"), ("post", "/v1/search"), ("get", "/v1/facets"), ("get", "/v1/stats")} <= set(found)
    accepted = []
    for method, path in found:
        answer = shared.client.request(method, path, params={"colour": "red"})
        body = answer.json()
        if (answer.status_code, body["error"]["code"]) != (400, "invalid_parameter") or "colour" not in str(body):
            accepted.append((method, path, answer.text))
    assert accepted == []


@pytest.mark.parametrize(
    ("path", "parameters", "nearest"),
    [
        ("/v1/search", {"q": "a cat", "limt": "1"}, "limit"),
        ("/v1/search", {"q": "a cat", "group_sise": "1"}, "group_size"),
        ("/v1/facets", {"field": "tags", "filer": "{}"}, "filter"),
        ("/v1/takedowns", {"ofset": "3"}, "offset"),
        (f"/v1/images/{an_id(1)}/content", {"widht": "40"}, "width"),
    ],
)
def test_a_misspelled_parameter_is_refused_with_the_nearest(
    shared: World, path: str, parameters: dict[str, str], nearest: str
) -> None:
    answer = shared.client.get(path, params=parameters)
    assert answer.status_code == 400
    assert f"did you mean '{nearest}'?" in answer.json()["error"]["message"]


def test_a_field_of_the_body_in_the_address_is_refused_with_where_it_belongs(shared: World) -> None:
    answer = shared.client.post("/v1/search?limit=1", json={"text": "a cat"})
    assert answer.status_code == 400
    assert "body" in answer.json()["error"]["hint"]


def test_a_parameter_given_twice_is_refused(shared: World) -> None:
    answer = shared.client.get("/v1/search?q=a+cat&limit=1&limit=2")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "The parameter 'limit' is given twice.")


def test_probes_and_the_page_take_any_parameter(shared: World) -> None:
    for path in ("/healthz", "/readyz", "/"):
        assert shared.client.get(path, params={"q": "a cat"}).status_code == 200


def test_the_query_string_takes_every_option_of_the_body(shared: World) -> None:
    (operation,) = (shared.client.get("/openapi.json").json()["paths"]["/v1/search"][each] for each in ("get",))
    taken = {each["name"] for each in operation["parameters"]}
    # An image, a vector or several parts are too large for an address; a text is `q` there.
    assert taken == {*SearchBody.model_fields, "q"} - {"text", "image", "vector", "queries"}
    weights = {"clip": 0.0, "words": 1.0}
    by_address = {
        "q": "a cat",
        "rank": "hybrid",
        "weights": json.dumps(weights),
        "group_by": "width",
        "group_size": "1",
    }
    found = shared.client.get("/v1/search", params=by_address).json()
    same = search(shared, text="a cat", rank="hybrid", weights=weights, group_by="width", group_size=1)
    assert (ids(found), found["groups"]) == (ids(same), same["groups"])


@pytest.mark.parametrize("weights", ["clip=1", "[1, 2]", '{"word": 1}', '{"clip": "1"}'])
def test_invalid_weights_in_a_query_string_are_refused(shared: World, weights: str) -> None:
    answer = shared.client.get("/v1/search", params={"q": "a cat", "rank": "hybrid", "weights": weights})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    assert answer.json()["error"]["message"].startswith("weights")
