"""Several indexes in one service: a request is answered from the index that it names; a key may see only some."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.dependencies.models import Dependant

from benchmarks.clients import Answer, Clients
from tests.fixtures.services import listening
from tests.service.conftest import World, load, open_world
from tests.service.http.gallery import encoded
from tests.service.http.test_key_filters import all_routes, digest, keys_file
from viewfinder.errors import ConfigurationError
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.reindexing.promote import wait_for_service
from viewfinder.service.app import application
from viewfinder.service.http.guard import is_open_path
from viewfinder.service.http.keys import require_all_indexes, visible_indexes
from viewfinder.settings import Settings
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import canonical_uri, point_id
from viewfinder.store.recorded import SourceRecord
from viewfinder.store.records import PointBatch
from viewfinder.testing.models import tiny_checkpoint

pytestmark = pytest.mark.slow

MODELS = {"a": "first", "b": "second", "c": "first"}
"""Indexes that exist, and their models. Index `d` is served, but does not exist."""
SECRET = "zebra"
"""A word in everything that index `a` stores, and in no request."""
MINE = {"tags": {"eq": "mine"}}


@dataclass
class Served:
    """A service with the indexes `MODELS`; the files of each hold three images."""

    world: World
    ids: dict[str, list[str]]

    def ask(self, method: str, path: str, *, key: str = "free", **options: Any) -> httpx.Response:
        headers = {"x-api-key": key, **options.pop("headers", {})}
        return self.world.client.request(method, path, headers=headers, follow_redirects=False, **options)

    def search(self, *, key: str = "free", **body: Any) -> Any:
        answer = self.ask("POST", "/v1/search", key=key, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


KEYS: dict[str, dict[str, Any]] = {
    "b": {"scope": "admin", "indexes": ["b"]},
    "bc": {"indexes": ["c", "b"], "filter": MINE},
    "none": {"indexes": ["other"]},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Checkpoint]) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("indexes")
    entries = [{"digest": digest(name), **limits} for name, limits in KEYS.items()]
    configured = {"api_keys_file": str(keys_file(directory, entries)), "api_keys": f"{digest('free')}:admin"}
    ids: dict[str, list[str]] = {}
    with open_world(directory / "store", checkpoints, configured, indexes=(*MODELS, "d")) as world:
        for index, model in MODELS.items():
            collection = world.build(model, (), index=index)
            word = SECRET if index == "a" else "horse"
            for number in range(3):
                path = directory / f"{word} {index} {number}.jpg"
                path.write_bytes(encoded())
                uri = canonical_uri(str(path))
                with Objects() as objects:
                    info = objects.stat(uri)
                payload = {
                    "uri": uri,
                    "key": path.name,
                    "etag": info.etag,
                    "size": info.size,
                    "format": "jpeg",
                    "tags": ["mine" if number < 2 else "theirs"],
                    "sources": [f"file:///{word}"],
                    "width": 100 + number,
                    "last_modified": f"2026-01-0{number + 1}T00:00:00Z",
                    "caption": f"a {word} {number}",
                }
                vectors, _ = load(checkpoints[model]).encode_texts([payload["caption"]])
                batch = PointBatch([point_id(uri)], [payload], image=vectors, caption=vectors)
                world.store.points.upsert(collection, batch, wait=True)
                ids.setdefault(index, []).append(point_id(uri))
            world.store.collections.records(collection).record_sources([SourceRecord(f"file:///{word}")])
        for each in world.service.indexes:
            each.follower.refresh()
        yield Served(world, ids)


PIXELS = base64.b64encode(encoded()).decode()
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/search": [
        {"text": "a cat"},
        {"image": PIXELS},
        {"text": "a cat", "rank": "hybrid", "target": "both"},
        {"text": "a cat", "rank": "words"},
        {"order_by": "-width"},
        {"filter": {"width": {"gte": 0}}},
        {"text": "a cat", "group_by": "tags"},
    ],
    "/v1/facets": [{"field": "tags"}, {"field": "sources"}, {"field": "tags", "filter": {"width": {"gte": 0}}}],
    "/v1/embed": [{"texts": ["a cat"], "images": [PIXELS]}],
    "/v1/embeddings": [{"input": "a cat"}, {"input": [{"image": PIXELS}], "model": "viewfinder"}],
    "/v1/rank": [{"image": PIXELS, "texts": ["a cat"]}],
    "/v1/rerank": [{"query": "a cat", "documents": ["a dog"]}],
    "/v2/rerank": [{"query": "a cat", "documents": ["a dog"]}],
}
PARAMETERS: dict[str, list[dict[str, str]]] = {
    "/v1/search": [{"q": "a cat"}, {"order_by": "width"}],
    "/v1/facets": [{"field": "tags"}],
    "/v1/stats": [{}],
}
IMAGES = ("/v1/images/{id}", "/v1/images/{id}/content", "/v1/images/{id}/content?width=64")
BY_ID: dict[str, dict[str, Any]] = {
    "/v1/search": {"id": "ID"},
    "/v1/thumbnails": {"ids": ["ID"]},
    "/v1/embeddings": {"input": [{"id": "ID"}]},
    "/v1/rank": {"id": "ID", "texts": ["a cat"]},
    "/v1/rerank": {"query": "a cat", "documents": [{"id": "ID"}]},
}
NAMING = {
    *(f"POST {path}" for path in (*BODIES, *BY_ID)),
    *(f"GET {path}" for path in PARAMETERS),
    "POST /v1/search/image",
    "POST /v1/search/batch",
    "POST /v1/images",
    "GET /v1/images/{id}",
    "DELETE /v1/images/{id}",
    "GET /v1/images/{id}/content",
    "HEAD /v1/images/{id}/content",
    "GET /v1/takedowns",
    "DELETE /v1/takedowns/{id}",
}
"""Routes that take `index`."""
OTHERS = {"GET /metrics", "GET /v1/indexes", "GET /v1/models", "GET /v1/models/{name:path}"}


def with_id(body: dict[str, Any], id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(body).replace("ID", id))
    return found


def requests(served: Served, index: str | None, *, of: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every kind of request to `index`, None for the default; ids are those of images in the index `of`."""
    given = {} if index is None else {"index": index}
    id = served.ids[of][0]
    for path, bodies in BODIES.items():
        for body in bodies:
            yield "POST", path, {"json": {**body, **given}}
    for path, each in PARAMETERS.items():
        for parameters in each:
            yield "GET", path, {"params": {**parameters, **given}}
    for path, body in BY_ID.items():
        yield "POST", path, {"json": {**with_id(body, id), **given}}
    for path in IMAGES:
        path = path.format(id=id)
        yield "GET", path + ("" if index is None else f"{'&' if '?' in path else '?'}index={index}"), {}
    yield "HEAD", f"/v1/images/{id}/content", {"params": given}
    yield "POST", "/v1/search/image", {"files": {"image": encoded()}, "data": {"options": json.dumps(given)}}


def calls(dependant: Dependant) -> Iterator[Any]:
    yield dependant.call
    for each in dependant.dependencies:
        yield from calls(each)


def test_every_route_takes_the_indexes_of_the_key(served: Served) -> None:
    """A new route must say which index it is about."""
    found = {
        f"{method} {each.path}": each
        for each in all_routes(served.world.client.app)
        if not is_open_path(each.path)
        for method in each.methods
    }
    assert set(found) == NAMING | OTHERS
    for name, route in found.items():
        assert {visible_indexes, require_all_indexes} & set(calls(route.dependant)), name


@pytest.mark.parametrize("index", MODELS)
def test_every_request_is_answered_from_the_index_that_it_names(served: Served, index: str) -> None:
    name = served.world.checkpoints[MODELS[index]].name
    for method, path, options in requests(served, index, of=index):
        answer = served.ask(method, path, **options)
        assert answer.status_code == 200, (path, answer.text)
        if "json" not in answer.headers["content-type"] or path == "/v1/thumbnails":
            continue
        body = answer.json()
        assert body.get("collection", f"{index}__").startswith(f"{index}__"), path
        assert body.get("model", name) == name, path
        if path == "/v1/search" and "hits" in body:
            assert {each["id"] for each in body["hits"]} <= set(served.ids[index]), options


def test_without_a_name_the_first_index_that_the_key_may_see_is_asked(served: Served) -> None:
    for key, index in (("free", "a"), ("b", "b"), ("bc", "b")):
        for method, path, options in requests(served, None, of=index):
            answer = served.ask(method, path, key=key, **options)
            assert answer.status_code == 200, (key, path, answer.text)
            if "collection" in answer.text and "json" in answer.headers["content-type"]:
                assert answer.json()["collection"].startswith(f"{index}__"), path


@pytest.mark.parametrize("key", ["b", "bc"])
def test_a_key_reaches_no_index_but_its_own(served: Served, key: str) -> None:
    tried = 0
    for hidden, missing in zip(requests(served, "a", of="a"), requests(served, "no-such-index", of="a"), strict=True):
        method, path, options = hidden
        answer = served.ask(method, path, key=key, **options)
        other = served.ask(missing[0], missing[1], key=key, **missing[2])
        assert (answer.status_code, other.status_code) == (404, 404), path
        if method == "HEAD":
            continue
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("index_not_found", "index"), path
        assert error["message"] == other.json()["error"]["message"].replace("no-such-index", "a"), path
        assert SECRET not in answer.text
        assert "'d'" not in answer.text
        tried += 1
    assert tried > 20


def test_ids_of_another_index_do_not_exist(served: Served) -> None:
    for index in (None, "b"):
        for method, path, options in requests(served, index, of="a"):
            if path.startswith("/v1/images/") or ("json" in options and served.ids["a"][0] in json.dumps(options)):
                answer = served.ask(method, path, key="b", **options)
                if path == "/v1/thumbnails":  # of a key without a filter: the address opens nothing
                    [address] = answer.json()["paths"].values()
                    assert served.world.client.get(address).status_code == 404
                    continue
                assert answer.status_code == 404, (path, answer.text)
                assert SECRET not in answer.text


def test_the_index_cannot_be_given_twice(served: Served) -> None:
    """In the address and in the body, or twice in either: the second one could be another index."""
    for path, bodies in BODIES.items():
        answer = served.ask("POST", path, key="b", params={"index": "a"}, json={**bodies[0], "index": "b"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_parameter"), path
    id = served.ids["a"][0]
    for path in ("/v1/stats?", "/v1/search?q=cat&", f"/v1/images/{id}?", f"/v1/images/{id}/content?"):
        for order in ("index=a&index=b", "index=b&index=a"):
            assert served.ask("GET", path + order, key="b").status_code == 400, path
    text = '{"text": "a cat", "index": "b", "index": "a"}'
    answer = served.ask("POST", "/v1/search", key="b", content=text, headers={"content-type": "application/json"})
    assert answer.json()["error"]["code"] == "invalid_json"


def test_each_search_of_a_batch_has_its_index(served: Served) -> None:
    searches = [{"text": "a cat", "index": each} for each in ("a", "b", "c", "a")] + [
        {"text": "a cat"},
        {"text": "a cat", "index": "d"},
        {"text": "a cat", "index": "x"},
        {"limit": 0},
        {"order_by": "width", "index": "b"},
    ]
    answer = served.ask("POST", "/v1/search/batch", json={"searches": searches})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [each["collection"][0] if "collection" in each else each["error"]["code"] for each in results] == [
        *("a", "b", "c", "a", "a"),
        "no_index",
        "index_not_found",
        "invalid_request",
        "b",
    ]
    alone = served.search(text="a cat", index="b")
    assert [each["id"] for each in results[1]["hits"]] == [each["id"] for each in alone["hits"]]
    limited = served.ask("POST", "/v1/search/batch", key="bc", json={"searches": searches}).json()["results"]
    assert SECRET not in json.dumps(limited)
    assert [each["collection"][0] if "collection" in each else each["status"] for each in limited] == [
        *(404, "b", "c", 404, "b"),
        *(404, 404, 422),
        "b",
    ]
    assert all(hit["payload"]["tags"] == ["mine"] for each in limited for hit in each.get("hits", ()))


def test_a_batch_to_an_index_that_does_not_exist_yet_is_refused_as_a_search_is(served: Served) -> None:
    for path, body in (
        ("/v1/search", {"text": "a cat", "index": "d"}),
        ("/v1/search/batch", {"searches": [{"text": "a cat", "index": "d"}]}),
    ):
        answer = served.ask("POST", path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_index")
        assert "'d'" in answer.json()["error"]["message"]
        assert "retry-after" in answer.headers


def test_a_cursor_belongs_to_its_index(served: Served) -> None:
    for body in ({"text": "a horse", "limit": 1}, {"order_by": "width", "limit": 1}):
        cursor = served.search(index="b", **body)["cursor"]
        for other in ("a", "c", None):
            given = {**body, "cursor": cursor} | ({} if other is None else {"index": other})
            answer = served.ask("POST", "/v1/search", json=given)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor")
        first = served.search(index="b", **body)
        second = served.search(index="b", cursor=cursor, **body)
        assert first["hits"][0]["id"] != second["hits"][0]["id"]
        assert served.search(key="b", cursor=cursor, **body)["hits"] == second["hits"], "its default index"
        hidden = served.search(index="a", **body)["cursor"]
        for given in ({}, {"index": "b"}):
            answer = served.ask("POST", "/v1/search", key="b", json={**body, "cursor": hidden, **given})
            assert answer.json()["error"]["code"] == "invalid_cursor"


def test_a_signed_address_opens_one_image_of_one_index(served: Served) -> None:
    id = served.ids["b"][0]
    path = served.ask("POST", "/v1/thumbnails", key="b", json={"ids": [id]}).json()["paths"][id]
    assert "index=b&" in path
    client = served.world.client
    assert client.get(path).status_code == 200
    for changed in (
        path.replace("index=b", "index=a"),
        path.replace("index=b&", ""),
        f"{path}&index=a",
        path.replace("index=b", "index=b&index=a"),
        path.replace(id, served.ids["a"][0]),
    ):
        assert client.get(changed).status_code == 401, changed
    hidden = served.ids["a"][0]
    path = served.ask("POST", "/v1/thumbnails", json={"ids": [hidden], "index": "a"}).json()["paths"][hidden]
    assert client.get(path).status_code == 200
    assert served.ask("GET", path, key="b").status_code == 404


def test_images_are_added_to_no_index_but_those_of_the_key(served: Served) -> None:
    images = [{"uri": f"file:///{SECRET}/new.jpg"}]
    for index in ("a", "no-such-index"):
        answer = served.ask("POST", "/v1/images", key="b", json={"images": images, "index": index})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "index_not_found")


def test_takedowns_belong_to_an_index(served: Served) -> None:
    id = served.ids["c"][2]
    assert served.ask("DELETE", f"/v1/images/{id}", key="b", params={"index": "c"}).status_code == 404
    assert served.ask("DELETE", f"/v1/images/{id}", params={"index": "c"}).json()["removed"]
    listed = {
        index: served.ask("GET", "/v1/takedowns", params={"index": index}).json()["takedowns"] for index in MODELS
    }
    assert {index: [each["id"] for each in found] for index, found in listed.items()} == {"a": [], "b": [], "c": [id]}
    assert served.ask("GET", "/v1/takedowns", key="b").json()["takedowns"] == []
    for path in ("/v1/takedowns", f"/v1/takedowns/{id}"):
        method = "DELETE" if id in path else "GET"
        assert served.ask(method, path, key="b", params={"index": "c"}).status_code == 404
    assert not served.ask("DELETE", f"/v1/takedowns/{id}", key="b").json()["restored"]
    assert served.ask("DELETE", f"/v1/takedowns/{id}", params={"index": "c"}).json()["restored"]


def test_the_indexes_that_a_key_may_see_are_listed(served: Served) -> None:
    def listed(key: str) -> tuple[list[str], str | None]:
        body = served.ask("GET", "/v1/indexes", key=key).json()
        return [each["name"] for each in body["indexes"]], body["default"]

    assert listed("free") == (["a", "b", "c", "d"], "a")
    assert listed("b") == (["b"], "b")
    assert listed("bc") == (["b", "c"], "b")
    assert listed("none") == ([], None)
    states = {each["name"]: each for each in served.ask("GET", "/v1/indexes").json()["indexes"]}
    assert states["b"]["model"] == served.world.checkpoints["second"].name
    assert states["b"]["in_memory"]
    assert states["b"]["behind"] is None
    assert states["d"]["model"] is None
    assert "no index 'd' yet" in states["d"]["behind"]


def test_a_key_for_no_index_of_this_service_sees_nothing(served: Served) -> None:
    for method, path, options in (*requests(served, None, of="a"), *requests(served, "a", of="a")):
        answer = served.ask(method, path, key="none", **options)
        assert answer.status_code == 404, path
        assert SECRET not in answer.text
    assert served.ask("GET", "/v1/models", key="none").json()["data"] == []


def test_the_name_of_a_model_picks_the_index(served: Served) -> None:
    names = {model: served.world.checkpoints[model].name for model in ("first", "second")}
    listed = served.ask("GET", "/v1/models").json()
    assert [each["id"] for each in listed["data"]] == [names["first"], names["second"], "viewfinder"]
    assert listed["live"] == names["first"]
    for model, size in (("first", 32), ("second", 16)):
        for name in (names[model], served.world.checkpoints[model].fingerprint):
            answer = served.ask("POST", "/v1/embeddings", json={"input": "a cat", "model": name}).json()
            assert (answer["model"], len(answer["data"][0]["embedding"])) == (names[model], size)
            assert served.ask("GET", f"/v1/models/{name}").json()["id"] == name
    answer = served.ask("POST", "/v1/embeddings", json={"input": "a cat", "model": names["first"], "index": "b"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert [each["id"] for each in served.ask("GET", "/v1/models", key="b").json()["data"]] == [
        names["second"],
        "viewfinder",
    ]
    for path, body in (
        ("/v1/embeddings", {"input": "a cat"}),
        ("/v1/rerank", {"query": "a cat", "documents": ["a dog"]}),
    ):
        hidden = served.ask("POST", path, key="b", json={**body, "model": names["first"]})
        assert (hidden.status_code, hidden.json()["error"]["code"]) == (404, "model_not_found")
    assert served.ask("GET", f"/v1/models/{names['first']}", key="b").status_code == 404


def test_a_key_with_indexes_sees_no_metrics(served: Served) -> None:
    assert served.ask("GET", "/metrics").status_code == 200
    answer = served.ask("GET", "/metrics", key="b")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_requests_are_counted_by_index(served: Served) -> None:
    served.search(index="b", text="a cat")
    served.ask("POST", "/v1/search", json={"text": "a cat", "index": "x" * 50})
    text = served.world.service.metrics.text()
    assert re.search(r'viewfinder_request_seconds_count\{index="b",method="POST",route="/v1/search"', text)
    assert "xxx" not in text, "a client must not be able to make series"


def test_an_index_without_its_model_leaves_the_others_and_the_replica_healthy(
    tmp_path: Path, checkpoints: dict[str, Checkpoint]
) -> None:
    lost = tiny_checkpoint(tmp_path / "lost", seed=3)
    known = {**checkpoints, "lost": locate(str(lost))}
    with open_world(tmp_path / "store", known, {}, indexes=("a", "b")) as world:
        world.build("first", index="a")
        world.build("lost", index="b")
        shutil.rmtree(lost)
        for each in world.service.indexes:
            each.follower.refresh()
        client = world.client
        answer = client.post("/v1/search", json={"text": "a cat", "index": "b"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
        assert "its weights cannot be found" in answer.json()["error"]["message"]
        assert "retry-after" in answer.headers
        assert str(tmp_path) not in answer.text
        for state in (
            client.get("/v1/stats", params={"index": "b"}).json(),
            client.get("/v1/indexes").json()["indexes"][1],
        ):
            assert "its weights cannot be found" in state["behind"]
        assert client.post("/v1/search", json={"order_by": "width", "index": "b"}).json()["hits"]
        assert client.post("/v1/search", json={"text": "a cat"}).status_code == 200
        for path in ("/healthz", "/readyz"):
            assert client.get(path).status_code == 200


def test_readiness_tells_of_a_collection_to_who_knows_its_name(served: Served) -> None:
    names = [f"{index}__" for index in MODELS]
    answer = served.world.client.get("/readyz")
    assert answer.json()["collection"].startswith("a__")
    assert not any(each in answer.text for each in names[1:])
    live = served.world.store.collections.live("b")
    assert live is not None
    for name, searched in ((live.name, True), ("b", False), (f"{live.name}1", False)):
        assert served.world.client.get("/readyz", params={"searched": name}).json()["is_searched"] is searched
    with listening(served.world.service) as url:
        assert wait_for_service(url, live.name, timeout_s=30)
        assert not wait_for_service(url, "b__next", timeout_s=0.1)


CLIENTS, SWAPS, RESPONSES_BETWEEN = 2, 2, 8


@pytest.mark.chaos("Service", "the model of one index changes while another answers")
def test_one_index_changes_its_model_while_the_other_answers(
    tmp_path: Path, checkpoints: dict[str, Checkpoint]
) -> None:
    with open_world(tmp_path / "store", checkpoints, {}, indexes=("a", "b")) as world:
        still = world.build("first", index="a")
        changing = {model: world.build(model, promote=model == "first", index="b") for model in ("first", "second")}
        for each in world.service.indexes:
            each.follower.refresh()
        a, b = (each.follower for each in world.service.indexes)
        texts = [f"a cat {number}" for number in range(400)]
        with listening(world.service) as url:
            quiet = Clients(url, texts, CLIENTS, {"limit": 5})
            busy = Clients(url, texts, CLIENTS, {"limit": 5, "index": "b"})
            with quiet.asking(), busy.asking():
                for number in range(SWAPS):
                    to = changing["second" if number % 2 == 0 else "first"]
                    world.store.collections.promote("b", to.name)
                    b.refresh()
                    busy.wait_for(partial(_names, to.name), RESPONSES_BETWEEN)
        assert quiet.failed == []
        assert busy.failed == []
        assert {each.body["collection"] for each in quiet.answers} == {still.name}
        models = {each.name: checkpoints[model].name for model, each in changing.items()}
        assert {each.body["collection"] for each in busy.answers} == set(models)
        assert all(each.body["model"] == models[each.body["collection"]] for each in busy.answers)
        assert a.current is not None


def _names(collection: str, answer: Answer) -> bool:
    return answer.body.get("collection") == collection


@pytest.mark.parametrize(
    ("given", "indexes"),
    [
        ({}, ("images",)),
        ({"VIEWFINDER_INDEX": "a"}, ("a",)),
        ({"VIEWFINDER_INDEXES": "a, b"}, ("a", "b")),
        ({"VIEWFINDER_INDEXES": "a,b", "VIEWFINDER_INDEX": "b"}, ("b", "a")),
        ({"VIEWFINDER_INDEXES": "a,b", "VIEWFINDER_INDEX": "c"}, ("a", "b")),
    ],
)
def test_the_settings_name_the_indexes_and_the_default(given: dict[str, str], indexes: tuple[str, ...]) -> None:
    assert Settings.load(given).served_indexes == indexes


def test_an_index_that_the_service_would_not_answer_stops_the_start() -> None:
    given = {"VIEWFINDER_INDEXES": "a,b"}
    with pytest.raises(ConfigurationError, match=r"VIEWFINDER_INDEX .* is 'c', which is not in VIEWFINDER_INDEXES"):
        application(Settings.load(given, index="c"))
    application(Settings.load(given, index="b"))
    application(Settings.load(given))


@pytest.mark.parametrize(
    ("given", "named"), [({"VIEWFINDER_INDEXES": "a,B"}, "'B'"), ({"VIEWFINDER_INDEXES": "a,a"}, "twice")]
)
def test_wrong_names_of_indexes_are_refused(given: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Settings.load(given)


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"indexes": []}, "keys.0.indexes"),
        ({"indexes": None}, "indexes is null"),
        ({"indexes": "a"}, "keys.0.indexes"),
        ({"indexes": ["A*"]}, "keys.0.indexes.0"),
        ({"indexes": ["a"], "scope": "metrics"}, "keys.0"),
        ({"index": ["a"]}, "keys.0.index"),
    ],
)
def test_wrong_indexes_of_a_key_are_refused(tmp_path: Path, limits: dict[str, Any], named: str) -> None:
    path = keys_file(tmp_path, [{"digest": digest("a"), **limits}])
    with pytest.raises(ConfigurationError, match=re.escape(named)):
        Settings.load({"VIEWFINDER_API_KEYS_FILE": str(path)})


def test_indexes_that_anonymous_clients_would_evade_are_refused(tmp_path: Path) -> None:
    path = keys_file(tmp_path, [{"digest": digest("a"), "indexes": ["a"]}])
    with pytest.raises(ConfigurationError, match="VIEWFINDER_ALLOW_ANONYMOUS"):
        Settings.load({"VIEWFINDER_API_KEYS_FILE": str(path), "VIEWFINDER_ALLOW_ANONYMOUS": "1"})
