"""Pages of hits: cursors."""

import pytest

from tests.service.conftest import World
from tests.service.http.searching import Body, an_id, as_base64, ids, search

pytestmark = pytest.mark.slow


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
