"""A key with a filter sees only the images that match it, whatever it asks for."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.dependencies.models import Dependant

from tests.service.conftest import World, load, open_world
from tests.service.http.gallery import encoded
from viewfinder.errors import ConfigurationError
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.service.app import application
from viewfinder.service.http.guard import is_open_path
from viewfinder.service.http.keys import KeyRing, key_filter, require_all_indexes, require_whole_index
from viewfinder.settings import Settings
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import canonical_uri, point_id
from viewfinder.store.recorded import SourceRecord
from viewfinder.store.records import PointBatch

pytestmark = pytest.mark.slow

MINE = {"tags": {"eq": "mine"}}
SECRET = "zebra"
"""A word in everything that is stored of the images of others, and in no request."""


@dataclass(frozen=True)
class Subject:
    """An image by its names; `missing` is in no index."""

    id: str
    uri: str


@dataclass
class Tenant:
    """A client whose key has the filter `MINE`, in an index of two images of its own and three of others."""

    world: World
    mine: list[Subject]
    theirs: list[Subject]
    missing: Subject

    def ask(self, method: str, path: str, *, key: str = "tenant", **options: Any) -> httpx.Response:
        headers = {"x-api-key": key, **options.pop("headers", {})}
        return self.world.client.request(method, path, headers=headers, follow_redirects=False, **options)

    def search(self, key: str, **body: Any) -> Any:
        answer = self.ask("POST", "/v1/search", key=key, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


KEYS = {
    "tenant": ("admin", MINE),
    "other": ("read", {"tags": {"eq": "theirs"}}),
    "lost": ("read", {"meta.x": {"ne": 1}}),
}


def keys_file(directory: Path, keys: list[dict[str, Any]]) -> Path:
    path = directory / "keys.json"
    path.write_text(json.dumps({"keys": keys}))
    return path


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture(scope="module")
def tenant(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Checkpoint]) -> Iterator[Tenant]:
    directory = tmp_path_factory.mktemp("tenants")
    entries: list[dict[str, Any]] = [
        {"digest": digest(name), "scope": scope, "filter": condition} for name, (scope, condition) in KEYS.items()
    ]
    configured = {"api_keys_file": str(keys_file(directory, entries)), "api_keys": f"{digest('free')}:admin"}
    with open_world(directory / "store", checkpoints, configured) as world:
        collection = world.build("first", ())
        encoder = load(world.checkpoints["first"])
        rng = np.random.default_rng(3)
        made: dict[str, list[Subject]] = {"mine": [], "theirs": []}
        for number in range(5):
            owner = "mine" if number < 2 else "theirs"
            name = f"{number}.jpg" if number < 2 else f"{SECRET} {number}.jpg"
            (directory / name).write_bytes(encoded())
            uri = canonical_uri(str(directory / name))
            with Objects() as objects:
                info = objects.stat(uri)
            source = "file:///mine" if number < 2 else f"file:///{SECRET}"
            payload = {
                "uri": uri,
                "key": name,
                "etag": info.etag,
                "size": info.size,
                "format": "jpeg",
                "image_hash": "00000000-0000-0000-0000-000000000001",
                "tags": [owner, *([SECRET] if number >= 2 else [])],
                "sources": [source],
                "width": 100 + number,
                "last_modified": f"2026-01-0{number + 1}T00:00:00Z",
                "caption": f"a cat {number}" if number < 2 else f"a cat and a {SECRET} {number}",
            }
            vectors, _ = encoder.encode_texts([payload["caption"]])
            images = rng.normal(size=vectors.shape).astype(np.float32)
            batch = PointBatch([point_id(uri)], [payload], image=images, caption=vectors)
            world.store.points.upsert(collection, batch, wait=True)
            made[owner].append(Subject(point_id(uri), uri))
        records = world.store.collections.records(collection)
        records.record_sources([SourceRecord("file:///mine"), SourceRecord(f"file:///{SECRET}")])
        world.service.follower.refresh()
        gone = canonical_uri(str(directory / "gone 9.jpg"))
        yield Tenant(world, made["mine"], made["theirs"], Subject(point_id(gone), gone))


FILTERS: list[dict[str, Any] | None] = [
    None,
    {},
    {"tags": {"eq": "theirs"}},
    {"tags": {"ne": "mine"}},
    {"not": MINE},
    {"or": [MINE, {"not": MINE}]},
    {"or": [{"tags": {"eq": "theirs"}}, {"width": {"gte": 0}}]},
    {"and": [{"or": [{"tags": {"in": ["mine", "theirs"]}}]}]},
    {"not": {"not": {"tags": {"eq": "theirs"}}}},
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"target": "both"},
    {"target": "caption"},
    {"rank": "hybrid"},
    {"rank": "words"},
    {"diversity": 0.5},
    {"group_by": "tags", "group_size": 5},
    {"group_by": "tags", "rank": "hybrid"},
    {"group_by": "uri", "target": "both"},
    {"score_threshold": -1, "order_by": "width"},
    {"limit": 1},
    {"offset": 1},
    {"collapse": "exact"},
    {"collapse": "near", "collapse_threshold": 0.0, "target": "both"},
]
BODIES = [{"text": "a cat", "filter": each} for each in FILTERS] + [{"text": "a cat", **each} for each in OPTIONS]
BROWSES: list[dict[str, Any]] = [{"order_by": "-width", "filter": each} for each in FILTERS] + [
    {"filter": {"width": {"gte": 0}}},
    {"order_by": "last_modified", "limit": 1},
    {"order_by": "-width", "collapse": "exact"},
]
Request = dict[str, Any]
VECTOR = [1.0] * 32

SEARCHES: dict[str, list[Request]] = {
    "POST /v1/search": [
        {"json": each} for each in (*BODIES, *BROWSES, {"vector": VECTOR}, {"vector": VECTOR, "offset": 1})
    ],
    "GET /v1/search": [{"params": {"q": "a cat", "filter": json.dumps(each)}} for each in FILTERS if each is not None]
    + [{"params": {"q": "a cat", "target": "both"}}, {"params": {"order_by": "-width"}}],
    "POST /v1/search/image": [
        {"files": {"image": encoded()}, "data": {"options": json.dumps(each)}}
        for each in ({}, {"filter": {"not": MINE}}, {"target": "both"}, {"group_by": "tags"})
    ],
    "POST /v1/search/batch": [{"json": {"searches": [*BODIES, *BROWSES]}}],
    "GET /v1/facets": [{"params": {"field": each}} for each in ("tags", "sources", "format", "width")]
    + [{"params": {"field": "tags", "filter": json.dumps({"not": MINE})}}],
    "POST /v1/facets": [{"json": {"field": "tags", "filter": each}} for each in FILTERS],
    "GET /v1/stats": [{}],
}


def named(path: str, **parameters: str) -> Callable[[Subject], tuple[str, Request]]:
    """A request that names an image in its path and parameters, as `{id}` and `{uri}`."""
    return lambda subject: (
        path.format(id=subject.id),
        {"params": {name: value.format(id=subject.id, uri=subject.uri) for name, value in parameters.items()}},
    )


def posted(path: str, body: Any) -> Callable[[Subject], tuple[str, Request]]:
    """A request that names an image as `ID` in its body."""
    return lambda subject: (path, {"json": json.loads(json.dumps(body).replace("ID", subject.id))})


def with_header(
    request: Callable[[Subject], tuple[str, Request]], **headers: str
) -> Callable[[Subject], tuple[str, Request]]:
    def made(subject: Subject) -> tuple[str, Request]:
        path, options = request(subject)
        return path, {**options, "headers": {name.replace("_", "-"): value for name, value in headers.items()}}

    return made


NO_IMAGE = point_id("s3://no-image/1.jpg")
CONTENT = [
    named("/v1/images/{id}/content"),
    named("/v1/images/{id}/content", width="64"),
    named("/v1/images/{id}/content", uri="{uri}"),
    named(f"/v1/images/{NO_IMAGE}/content", uri="{uri}", width="64"),
    with_header(named("/v1/images/{id}/content"), range="bytes=0-9"),
    with_header(named("/v1/images/{id}/content"), if_none_match="*"),
    with_header(named("/v1/images/{id}/content", width="64"), if_none_match="*"),
]
NAMED: dict[str, list[Callable[[Subject], tuple[str, Request]]]] = {
    "POST /v1/search": [
        posted("/v1/search", {"id": "ID"}),
        posted("/v1/search", {"queries": [{"id": "ID"}, {"text": "a cat"}], "filter": {"not": MINE}}),
    ],
    "GET /v1/search": [named("/v1/search", id="{id}")],
    "POST /v1/search/batch": [posted("/v1/search/batch", {"searches": [{"id": "ID"}, {"text": "a cat"}]})],
    "GET /v1/images/{id}": [
        named("/v1/images/{id}"),
        named("/v1/images/{id}", uri="{uri}"),
        named(f"/v1/images/{NO_IMAGE}", uri="{uri}"),
    ],
    "GET /v1/images/{id}/content": CONTENT,
    "HEAD /v1/images/{id}/content": CONTENT,
    "DELETE /v1/images/{id}": [
        named("/v1/images/{id}"),
        named("/v1/images/{id}", uri="{uri}"),
        named(f"/v1/images/{NO_IMAGE}", uri="{uri}"),
    ],
    "POST /v1/thumbnails": [posted("/v1/thumbnails", {"ids": ["ID"]})],
    "POST /v1/embeddings": [posted("/v1/embeddings", {"input": [{"text": "a cat"}, {"id": "ID"}]})],
    "POST /v1/rerank": [
        posted("/v1/rerank", {"query": "a cat", "documents": [{"id": "ID"}]}),
        posted("/v1/rerank", {"query": {"id": "ID"}, "documents": ["a cat"]}),
    ],
    "POST /v2/rerank": [posted("/v2/rerank", {"query": "a cat", "documents": [{"id": "ID"}]})],
    "POST /v1/rank": [
        posted("/v1/rank", {"id": "ID", "texts": ["a cat"]}),
        posted("/v1/rank", {"text": "a cat", "images": [{"id": "ID"}]}),
    ],
}
REFUSED = {"GET /v1/takedowns", "DELETE /v1/takedowns/{id}", "GET /metrics", "POST /v1/images"}
"""Routes about all images, which need a key without a filter."""
WITHOUT_IMAGES = {"GET /v1/indexes", "GET /v1/models", "GET /v1/models/{name:path}", "POST /v1/embed"}
"""Routes that take and give nothing that the index holds of an image."""


def all_routes(parent: Any) -> Iterator[Any]:
    for each in parent.routes:
        included = getattr(each, "original_router", None)
        yield from [each] if included is None else all_routes(included)


def routes(tenant: Tenant) -> dict[str, Any]:
    """Every route that needs a key, also those that the schema hides."""
    return {
        f"{method} {each.path}": each
        for each in all_routes(tenant.world.client.app)
        if not is_open_path(each.path)
        for method in each.methods
    }


def test_every_route_is_listed_here(tenant: Tenant) -> None:
    """A new route must say what a key with a filter may see through it."""
    assert set(routes(tenant)) == {*SEARCHES, *NAMED, *REFUSED, *WITHOUT_IMAGES}


def calls(dependant: Dependant) -> Iterator[Any]:
    yield dependant.call
    for each in dependant.dependencies:
        yield from calls(each)


def test_every_route_about_images_takes_the_filter_of_the_key(tenant: Tenant) -> None:
    found = routes(tenant)
    assert len(found) > 20
    for name, route in found.items():
        if name not in WITHOUT_IMAGES:
            assert {key_filter, require_all_indexes, require_whole_index} & set(calls(route.dependant)), name


def test_the_index_holds_what_must_stay_hidden(tenant: Tenant) -> None:
    assert SECRET in json.dumps(tenant.search("free", text="a cat"))
    counts = {key: len(tenant.search(key, text="a cat", limit=9)["hits"]) for key in ("free", "tenant", "other")}
    assert counts == {"free": 5, "tenant": 2, "other": 3}


@pytest.mark.parametrize("route", SEARCHES)
def test_nothing_of_others_is_found(tenant: Tenant, route: str) -> None:
    method, path = route.split()
    ids = {each.id for each in tenant.theirs}
    for request in SEARCHES[route]:
        answer = tenant.ask(method, path, **request)
        assert answer.status_code == 200, answer.text
        assert SECRET not in answer.text, request
        assert "theirs" not in answer.text, request
        assert not ids & set(re.findall(r"[0-9a-f-]{36}", answer.text)), request


def plain(answer: httpx.Response, subject: Subject) -> tuple[int, str, str | None]:
    """An answer without its names of the image, its time and its id."""
    text = answer.text.replace(subject.id, "ID").replace(json.dumps(subject.uri)[1:-1], "URI")
    text = re.sub(r'"(took_ms|request_id|id|expires)": ?("[^"]*"|[\d.]+)', r'"\1":0', text)
    text = re.sub(r'"score": ?-?[\d.e-]+', '"score":0', text)
    return answer.status_code, text, answer.headers.get("content-type")


@pytest.mark.parametrize("route", NAMED)
def test_images_of_others_are_answered_like_those_that_do_not_exist(tenant: Tenant, route: str) -> None:
    method, _ = route.split()
    for number, request in enumerate(NAMED[route]):
        answers = []
        for subject in (tenant.missing, tenant.theirs[0]):
            path, options = request(subject)
            answers.append(plain(tenant.ask(method, path, **options), subject))
        assert answers[0] == answers[1], number
        if path not in ("/v1/search/batch", "/v1/thumbnails"):
            assert answers[0][0] == 404, number
        if method != "DELETE":
            path, options = request(tenant.mine[0])
            assert tenant.ask(method, path, **options).status_code in (200, 206, 304), number


def test_takedowns_reach_only_what_the_key_sees(tenant: Tenant) -> None:
    for subject in (*tenant.theirs, tenant.missing):
        assert tenant.ask("DELETE", f"/v1/images/{subject.id}", params={"uri": subject.uri}).status_code == 404
    assert tenant.ask("GET", "/v1/takedowns", key="free").json()["takedowns"] == []
    assert len(tenant.search("free", text="a cat")["hits"]) == 5


@pytest.mark.parametrize("route", sorted(REFUSED))
def test_routes_about_all_images_are_refused(tenant: Tenant, route: str) -> None:
    method, path = route.split()
    answer = tenant.ask(method, path.format(id=tenant.mine[0].id))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_a_cursor_belongs_to_the_filter_of_its_key(tenant: Tenant) -> None:
    text = {"text": "a cat", "limit": 1}
    for body in (text, {"order_by": "width", "limit": 1}, {**text, "target": "both"}, {**text, "rank": "hybrid"}):
        for maker in ("free", "other"):
            cursor = tenant.search(maker, **body)["cursor"]
            answer = tenant.ask("POST", "/v1/search", json={**body, "cursor": cursor})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor")
        first = tenant.search("tenant", **body)
        second = tenant.search("tenant", **body, cursor=first["cursor"])
        assert {first["hits"][0]["id"], second["hits"][0]["id"]} == {each.id for each in tenant.mine}
        assert second["cursor"] is None


def test_a_cursor_of_the_same_search_with_the_filter_written_out_is_not_accepted(tenant: Tenant) -> None:
    cursor = tenant.search("free", text="a cat", limit=1, filter=MINE)["cursor"]
    for body in ({"filter": MINE}, {}):
        answer = tenant.ask("POST", "/v1/search", json={"text": "a cat", "limit": 1, "cursor": cursor, **body})
        assert answer.json()["error"]["code"] == "invalid_cursor"


@pytest.mark.parametrize("name", ["within", "key_filter", "seen"])
def test_no_parameter_sets_the_filter_of_the_key(tenant: Tenant, name: str) -> None:
    assert tenant.ask("GET", "/v1/search", params={"q": "a cat", name: "{}"}).status_code == 400
    assert tenant.ask("POST", "/v1/search", json={"text": "a cat", name: None}).status_code == 422
    assert tenant.ask("GET", f"/v1/images/{tenant.theirs[0].id}", params={name: ""}).status_code == 400
    assert tenant.ask("POST", "/v1/thumbnails", json={"ids": [tenant.theirs[0].id], name: None}).status_code == 422


def test_a_signed_path_of_another_key_does_not_widen_a_request_with_a_key(tenant: Tenant) -> None:
    theirs = tenant.theirs[0].id
    path = tenant.ask("POST", "/v1/thumbnails", key="free", json={"ids": [theirs]}).json()["paths"][theirs]
    assert tenant.ask("GET", path).status_code == 404
    assert tenant.world.client.get(path).status_code == 200
    mine = tenant.mine[0].id
    path = tenant.ask("POST", "/v1/thumbnails", json={"ids": [theirs, mine]}).json()["paths"][mine]
    assert tenant.world.client.get(path).status_code == 200
    assert tenant.world.client.get(path.replace(mine, theirs)).status_code == 401
    assert tenant.world.client.get(f"{path}&uri={tenant.theirs[0].uri}").status_code == 401


def test_statistics_count_what_the_key_sees(tenant: Tenant) -> None:
    counts = {key: tenant.ask("GET", "/v1/stats", key=key).json() for key in ("free", "tenant", "other", "tenant")}
    assert {key: (each["points"], each["captions"]) for key, each in counts.items()} == {
        "free": (5, 5),
        "tenant": (2, 2),
        "other": (3, 3),
    }
    assert {key: each["sources"] for key, each in counts.items()} == {
        "free": ["file:///mine", f"file:///{SECRET}"],
        "tenant": ["file:///mine"],
        "other": [f"file:///{SECRET}"],
    }
    values = tenant.ask("GET", "/v1/facets", params={"field": "tags"}).json()["values"]
    assert values == [{"value": "mine", "count": 2}]


def test_a_filter_on_a_field_that_the_index_does_not_have_shows_nothing(tenant: Tenant) -> None:
    """`ne` matches images without the field: taken literally, the key would see everything."""
    tried = 0
    for route, requests in SEARCHES.items():
        method, path = route.split()
        answers = [tenant.ask(method, path, key="lost", **each) for each in requests]
        assert {(each.status_code, each.json()["error"]["code"]) for each in answers} == {(403, "key_filter_mismatch")}
        assert not any("meta.x" in each.text for each in answers)
        tried += len(answers)
    for route in NAMED.keys() - {"DELETE /v1/images/{id}", "HEAD /v1/images/{id}/content"}:
        for request in NAMED[route]:
            path, options = request(tenant.mine[0])
            answer = tenant.ask(route.split()[0], path, key="lost", **options)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "key_filter_mismatch"), route
            tried += 1
    assert tried > 50


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ([], "keys"),
        ([{"digest": "hunter2"}], "keys.0.digest"),
        ([{"digest": digest("a"), "filtre": MINE}], "keys.0.filtre"),
        ([{"digest": digest("a"), "filter": {}}], "keys.0.filter"),
        ([{"digest": digest("a"), "filter": None}], "keys.0"),
        ([{"digest": digest("a"), "scope": "metrics", "filter": MINE}], "keys.0"),
        ([{"digest": digest("a"), "scope": "root"}], "keys.0.scope"),
        ([{"digest": digest("a")}, {"digest": digest("a").upper()}], "keys.1"),
        ([{"digest": digest("free")}], "VIEWFINDER_API_KEYS_FILE"),
    ],
)
def test_a_wrong_file_is_refused_without_repeating_a_key(tmp_path: Path, keys: list[Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(
            {"VIEWFINDER_API_KEYS": digest("free"), "VIEWFINDER_API_KEYS_FILE": str(keys_file(tmp_path, keys))}
        )
    assert named in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert digest("a")[:12] not in str(raised.value)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"keys": [{"digest": "hunter2"', '{"keys": [], "keys": []}', "\ud800", "[" * 100_000]
)
def test_a_file_that_cannot_be_parsed_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(text.encode(errors="surrogatepass"))
    for each in (path, tmp_path / "missing.json", tmp_path):
        with pytest.raises(ConfigurationError, match="VIEWFINDER_API_KEYS_FILE") as raised:
            Settings.load({"VIEWFINDER_API_KEYS_FILE": str(each)})
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "condition",
    [{"tag": {"eq": "mine"}}, {"width": {"eq": "wide"}}, {"tags": {"equal": "mine"}}, {"and": []}, {"not": {}}],
)
def test_a_filter_that_cannot_match_stops_the_start(tmp_path: Path, condition: dict[str, Any]) -> None:
    path = keys_file(tmp_path, [{"digest": digest("a"), "filter": condition}])
    settings = Settings.load({}, api_keys_file=str(path))
    with pytest.raises(ConfigurationError, match="VIEWFINDER_API_KEYS_FILE") as raised:
        application(settings)
    assert digest("a")[:12] not in str(raised.value)
    assert digest("a") not in repr(settings)


def test_a_filter_that_anonymous_clients_would_evade_is_refused(tmp_path: Path) -> None:
    given = {"VIEWFINDER_API_KEYS_FILE": str(keys_file(tmp_path, [{"digest": digest("a"), "filter": MINE}]))}
    assert len(Settings.load(given).api_keys) == 1
    with pytest.raises(ConfigurationError, match="VIEWFINDER_ALLOW_ANONYMOUS"):
        Settings.load({**given, "VIEWFINDER_ALLOW_ANONYMOUS": "1"})


def test_a_key_of_the_file_counts_as_a_key(tmp_path: Path) -> None:
    """A service with such keys alone must not answer without one."""
    settings = Settings.load({}, api_keys_file=str(keys_file(tmp_path, [{"digest": digest("a"), "filter": MINE}])))
    ring = KeyRing(settings.api_keys)
    found = ring.find(b"a")
    assert ring
    assert found is not None
    assert (found.scope, found.filter) == ("read", MINE)
