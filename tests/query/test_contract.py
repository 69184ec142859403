"""One contract for searches: the service over HTTP and the engine in this process, over one store and model."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pydantic import TypeAdapter

from tests.service.conftest import load, local_client
from viewfinder.client.requests import Part, search_body
from viewfinder.client.results import FailedSearch, SearchResult, SearchResults, Stats
from viewfinder.errors import ViewfinderError
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.query.local import LocalSearch
from viewfinder.service.generation.follower import Follower
from viewfinder.service.generation.models import Models
from viewfinder.service.http.api import build_api
from viewfinder.service.http.errors import http_error_of
from viewfinder.service.search_service import SearchService
from viewfinder.settings import Settings
from viewfinder.sources.uris import point_id
from viewfinder.store import Store, StoreAddress, open_local
from viewfinder.store.baselines import update_baselines
from viewfinder.store.records import PointBatch
from viewfinder.store.schema import ModelIdentity
from viewfinder.testing.models import tiny_checkpoint

pytestmark = pytest.mark.slow

SETTINGS = Settings.load({}, cursor_keys="a key of both programs")
COUNT = 60
ANIMALS = ("cat", "dog", "bird", "horse")
PLACES = ("beach", "snow", "grass")


class RefusedError(Exception):
    """A search was refused: code, message and hint as the service sends them."""


class Service:
    """The service, searched over HTTP."""

    def __init__(self, store: Store, settings: Settings) -> None:
        follower = Follower(store, settings.index, Models(load, batch_size=8), refresh_s=3600)
        self._service = SearchService(store, [follower], settings)
        follower.refresh()
        self._client: TestClient = local_client(build_api(self._service))

    def search(self, request: Mapping[str, Any]) -> SearchResult:
        return TypeAdapter(SearchResult).validate_json(self._send("POST", "/v1/search", search_body(request)))

    def search_batch(self, requests: list[Mapping[str, Any]]) -> list[SearchResult | RefusedError]:
        body = {"searches": [search_body(request) for request in requests]}
        content = self._send("POST", "/v1/search/batch", body)
        return [
            RefusedError(each.error.code, each.error.message, each.error.hint)
            if isinstance(each, FailedSearch)
            else each
            for each in TypeAdapter(SearchResults).validate_json(content).results
        ]

    def stats(self) -> Stats:
        return TypeAdapter(Stats).validate_json(self._send("GET", "/v1/stats", None))

    def close(self) -> None:
        self._client.close()
        self._service.follower.close()
        self._service.images.close()
        self._service.content.close()

    def _send(self, method: str, path: str, body: object) -> bytes:
        answer = self._client.request(method, path, json=body)
        if answer.status_code != 200:
            error = answer.json()["error"]
            raise RefusedError(error["code"], error["message"], error["hint"])
        return answer.content


class InProcess:
    """The engine's local mode, with the errors that the service would send."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._local = LocalSearch(store, settings, load, model_name=None)

    def search(self, request: Mapping[str, Any]) -> SearchResult:
        return self._translated(lambda: self._local.search(request))

    def search_batch(self, requests: list[Mapping[str, Any]]) -> list[SearchResult | RefusedError]:
        answers = self._translated(lambda: self._local.search_batch(requests))
        return [each if isinstance(each, SearchResult) else _as_sent(each) for each in answers]

    def stats(self) -> Stats:
        return self._local.stats()

    def close(self) -> None:
        self._local.close()

    def _translated(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except ViewfinderError as error:
            raise _as_sent(error) from error


def _as_sent(error: Exception) -> RefusedError:
    sent = http_error_of(error)
    return RefusedError(sent.code, sent.message, sent.hint)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return locate(str(tiny_checkpoint(tmp_path_factory.mktemp("model"), seed=3, dimension=32)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Iterator[Store]:
    """60 points with captions, tags, sizes and baselines; every tenth has a caption only."""
    with open_local(StoreAddress(data_dir=tmp_path_factory.mktemp("store"))) as store:
        collection = store.collections.open("images", ModelIdentity.of(checkpoint))
        encoder = load(checkpoint)
        captions = [f"a {ANIMALS[n % 4]} in the {PLACES[n % 3]} number {n}" for n in range(COUNT)]
        texts, _ = encoder.encode_texts(captions)
        images = np.random.default_rng(7).normal(size=texts.shape).astype(np.float32)
        has_image = np.array([n % 10 != 9 for n in range(COUNT)])
        payloads = [
            {
                "uri": uri_of(n),
                "caption": captions[n],
                "width": 100 + n,
                "height": 80,
                "tags": [ANIMALS[n % 4], PLACES[n % 3]],
                "bucket": f"bucket-{n % 5}",
                "has_image": bool(has_image[n]),
                "has_caption": True,
            }
            for n in range(COUNT)
        ]
        ids = [point_id(uri_of(n)) for n in range(COUNT)]
        batch = PointBatch(ids, payloads, image=images, caption=texts, has_image=has_image)
        store.points.upsert(collection, batch, wait=True)
        update_baselines(store, collection, COUNT, lambda: encoder.encode_texts([f"thing {n}" for n in range(50)])[0])
        yield store


@pytest.fixture(scope="module")
def service(store: Store) -> Iterator[Service]:
    made = Service(store, SETTINGS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def in_process(store: Store) -> Iterator[InProcess]:
    made = InProcess(store, SETTINGS)
    yield made
    made.close()


def uri_of(number: int) -> str:
    return f"s3://photos/{number}.jpg"


def image_file(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (48, 40), colour).save(file, "PNG")
    return file.getvalue()


def comparable(result: SearchResult) -> dict[str, Any]:
    """A result without its time and encoded cursor; scores may differ by rounding."""
    answer = asdict(result)
    for hit in [*answer["hits"], *(hit for group in answer["groups"] or () for hit in group["hits"])]:
        hit["score"] = pytest.approx(hit["score"], abs=1e-5)
        if hit["relevance"] is not None:
            hit["relevance"] = pytest.approx(hit["relevance"], abs=1e-3)
    return {**answer, "took_ms": None, "cursor": answer["cursor"] is not None}


QUERIES: dict[str, dict[str, Any]] = {
    "text": {"text": "a cat on the beach"},
    "long text": {"text": "a dog in the grass " * 30},
    "image": {"image": image_file()},
    "id": {"id": uri_of(3)},
    "caption id": {"id": uri_of(9)},
    "vector": {"vector": list(np.linspace(-1, 2, 32))},
    "parts": {
        "queries": [
            Part(text="a cat"),
            Part(text="snow", weight=-0.4),
            Part(id=uri_of(5), weight=0.5),
            Part(image=image_file("blue"), weight=0.2),
        ]
    },
}
TEXT_OPTIONS: list[dict[str, Any]] = [
    {"rank": "words"},
    {"rank": "words", "group_by": "tags"},
    {"rank": "words", "order_by": "-width"},
    {"min_relevance": 0.6, "order_by": "-width", "limit": 7},
    {"min_relevance": 0.3, "order_by": "indexed_at", "target": "both"},
    {"min_relevance": 0.6, "rank": "hybrid"},
    {"rank": "hybrid"},
    {"rank": "hybrid", "weights": {"clip": 0.3, "words": 2}, "target": "both"},
    {"rank": "hybrid", "group_by": "bucket", "target": "caption", "offset": 2},
    {"rank": "hybrid", "collapse": "near", "collapse_threshold": 0.7},
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"target": "caption", "limit": 7},
    {"target": "both", "offset": 5},
    {"target": "both", "group_by": "tags", "group_size": 2, "limit": 3},
    {"filter": {"width": {"gte": 120}, "tags": {"in": ["cat", "dog"]}}},
    {"filter": {"not": {"bucket": {"eq": "bucket-1"}}}, "group_by": "bucket", "limit": 2},
    {"diversity": 0.6},
    {"score_threshold": 0.05, "limit": 50},
    {"limit": 200},
    {"collapse": "near", "collapse_threshold": 0.7, "limit": 5},
]


@pytest.mark.parametrize("query", QUERIES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_service_and_engine_find_the_same_hits(
    service: Service, in_process: InProcess, query: str, options: dict[str, Any]
) -> None:
    request = {**QUERIES[query], **options}
    over_http = comparable(service.search(request))
    assert over_http == comparable(in_process.search(request))
    assert over_http["hits"] or "score_threshold" in options


@pytest.mark.parametrize("options", TEXT_OPTIONS, ids=str)
def test_service_and_engine_rank_words_alike(service: Service, in_process: InProcess, options: dict[str, Any]) -> None:
    request = {"text": "a horse in the snow", **options}
    over_http = comparable(service.search(request))
    assert over_http == comparable(in_process.search(request))
    assert over_http["hits"]


@pytest.mark.parametrize(
    "options",
    [{}, {"target": "both"}, {"rank": "words"}, {"rank": "hybrid"}, {"group_by": "width"}, {"collapse": "exact"}],
    ids=str,
)
def test_a_cursor_of_the_service_continues_in_the_engine_and_back(
    service: Service, in_process: InProcess, options: dict[str, Any]
) -> None:
    request: dict[str, Any] = {"text": "a dog in the snow", "limit": 16, **options}
    whole = [hit.id for hit in service.search({**request, "limit": 200}).hits]
    found: list[str] = []
    cursor: str | None = None
    for turn in range(10):
        searcher = (service, in_process)[turn % 2]
        page = searcher.search({**request, "cursor": cursor})
        found += [hit.id for hit in page.hits]
        if (cursor := page.cursor) is None:
            break
    assert sorted(found) == sorted(whole)
    if "rank" not in options:  # captions with equal BM25 scores have no fixed order
        assert found == whole


def test_service_and_engine_answer_a_batch_alike(service: Service, in_process: InProcess) -> None:
    requests: list[Mapping[str, Any]] = [{**query, "limit": 4} for query in QUERIES.values()]
    requests += [{"text": "a bird", **options} for options in TEXT_OPTIONS]
    over_http = [comparable(result) for result in service.search_batch(requests) if isinstance(result, SearchResult)]
    here = [comparable(result) for result in in_process.search_batch(requests) if isinstance(result, SearchResult)]
    assert over_http == here
    assert len(here) == len(requests)


def test_service_and_engine_report_the_same_statistics(service: Service, in_process: InProcess) -> None:
    assert service.stats() == in_process.stats()
    assert service.stats().points == COUNT


def test_hits_have_a_relevance_and_a_long_text_gives_a_warning(in_process: InProcess) -> None:
    result = in_process.search(QUERIES["long text"])
    assert "longer than the model reads" in result.warnings[0]
    assert all(hit.relevance is not None for hit in result.hits)


@pytest.mark.parametrize(
    ("request_", "code", "named"),
    [
        ({}, "invalid_request", "exactly one of"),
        ({"text": ""}, "invalid_request", "text:"),
        ({"text": "a", "id": uri_of(1)}, "invalid_request", "text and id"),
        ({"text": "a", "limit": 0}, "invalid_request", "limit:"),
        ({"text": "a", "limit": 201}, "invalid_request", "limit:"),
        ({"text": "a", "offset": -1}, "invalid_request", "offset:"),
        ({"text": "a", "offset": 10_001}, "invalid_request", "offset:"),
        ({"text": "a", "offset": 500, "target": "both"}, "invalid_request", "offset:"),
        ({"text": "a", "offset": 1, "cursor": "abc"}, "invalid_request", "offset:"),
        ({"text": "a", "target": "sound"}, "invalid_request", "target:"),
        ({"text": "a", "rank": "best"}, "invalid_request", "rank:"),
        ({"id": uri_of(1), "rank": "words"}, "invalid_request", "rank:"),
        ({"id": uri_of(1), "rank": "hybrid"}, "invalid_request", "rank:"),
        ({"text": "a", "weights": {"clip": 1}}, "invalid_request", "weights:"),
        ({"text": "a", "rank": "hybrid", "weights": {"clip": 0, "words": 0}}, "invalid_request", "weights:"),
        ({"text": "a", "rank": "hybrid", "weights": {"clip": -1}}, "invalid_request", "weights.clip:"),
        ({"text": "a", "rank": "words", "score_threshold": 0.1}, "invalid_request", "score_threshold:"),
        ({"text": "a", "score_threshold": 2}, "invalid_request", "score_threshold:"),
        ({"text": "a", "diversity": 0.5, "group_by": "tags"}, "invalid_request", "diversity:"),
        ({"text": "a", "diversity": 0.5, "target": "both"}, "invalid_request", "diversity:"),
        ({"text": "a", "group_by": "tags", "group_size": 11}, "invalid_request", "group_size:"),
        ({"text": "a", "group_by": "colour"}, "invalid_filter", "colour"),
        ({"text": "a", "group_by": "caption", "target": "both"}, "invalid_filter", "caption"),
        ({"text": "a", "filter": {"colour": {"eq": 1}}}, "invalid_filter", "colour"),
        ({"text": "a", "filter": {"width": {"like": 1}}, "rank": "hybrid"}, "invalid_filter", "width"),
        ({"text": "a", "cursor": "abc"}, "invalid_cursor", "cursor:"),
        ({"id": point_id(uri_of(99))}, "not_found", point_id(uri_of(99))),
        ({"text": " \u200b\t"}, "invalid_request", "no visible character"),
        ({"queries": [Part(text="a"), Part(text="\u3164")]}, "invalid_request", "queries.1.text:"),
        ({"text": "a", "rank": "hybrid", "weights": {"word": 1}}, "invalid_request", "did you mean 'words'?"),
        ({"image": b"not an image"}, "invalid_image", "image:"),
        ({"image_url": "http://127.0.0.1/cat.jpg"}, None, "image_url:"),
        ({"vector": [1.0, 2.0]}, "invalid_request", "vectors of 32"),
        ({"vector": [0.0] * 32}, "invalid_request", "only zeros"),
        ({"queries": []}, "invalid_request", "queries:"),
        ({"queries": [Part(text="a", weight=101)]}, "invalid_request", "queries.0.weight:"),
        ({"queries": [Part(text="a"), Part(text="a", weight=-1)]}, "invalid_request", "queries: the weighted"),
    ],
    ids=str,
)
def test_service_and_engine_refuse_the_same_requests(
    service: Service, in_process: InProcess, request_: dict[str, Any], code: str | None, named: str
) -> None:
    with pytest.raises(RefusedError) as over_http:
        service.search(request_)
    with pytest.raises(RefusedError) as here:
        in_process.search(request_)
    assert named in over_http.value.args[1]
    if code is None:  # a service fetches URLs only if its operator allows it; this process always may
        assert [over_http.value.args[0], here.value.args[0]] == ["image_url_disabled", "forbidden_address"]
    else:
        assert over_http.value.args[0] == code
        assert over_http.value.args == here.value.args


def test_a_refused_search_of_a_batch_does_not_refuse_the_others(service: Service, in_process: InProcess) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"text": "b", "cursor": "abc"}, "cursor:"),
        ({"text": "b", "limit": 0}, "limit:"),
        ({"text": " "}, "text:"),
        ({}, "exactly one of"),
        ({"text": "b", "filter": {"colour": {"eq": 1}}}, "colour"),
        ({"text": "b", "group_by": "colour"}, "colour"),
        ({"id": point_id(uri_of(99))}, "no image"),
        ({"image": b"not an image"}, "image:"),
        ({"vector": [0.0] * 32}, "only zeros"),
        ({"queries": [Part(text="a"), Part(text="a", weight=-1)]}, "cancel each other out"),
    ]
    requests: list[Mapping[str, Any]] = [{"text": "a cat"}, *(each for each, _ in refused), {"text": "a dog"}]
    expected = [comparable(service.search(each)) for each in (requests[0], requests[-1])]
    sent = []
    for each in (service, in_process):
        answers = each.search_batch(requests)
        found = [answer for answer in answers if isinstance(answer, SearchResult)]
        assert [comparable(answer) for answer in found] == expected
        errors = [answer.args for answer in answers if isinstance(answer, RefusedError)]
        assert [named for (_, named), error in zip(refused, errors, strict=True) if named not in error[1]] == []
        sent.append(errors)
    assert sent[0] == sent[1]


def test_an_unknown_image_is_named_as_the_caller_did(in_process: InProcess) -> None:
    with pytest.raises(RefusedError, match=r"no image 's3://photos/99\.jpg'"):
        in_process.search({"id": uri_of(99)})
    (answer,) = in_process.search_batch([{"id": uri_of(99)}])
    assert isinstance(answer, RefusedError)
    assert "'s3://photos/99.jpg'" in answer.args[1]


def test_the_hint_for_an_address_is_not_about_http(in_process: InProcess) -> None:
    with pytest.raises(RefusedError) as raised:
        in_process.search({"image_url": "http://127.0.0.1/cat.jpg"})
    assert raised.value.args[2] == "Pass the image itself, as `image`."


@pytest.mark.parametrize("kind", ["service", "in_process"])
def test_hybrid_says_that_no_caption_has_a_word_of_the_text(request: pytest.FixtureRequest, kind: str) -> None:
    """Regression: the order was silently that of the model alone."""
    searched: Service | InProcess = request.getfixturevalue(kind)
    unknown = {"text": "zeppelin", "rank": "hybrid"}

    def warns(search: Mapping[str, Any]) -> bool:
        return any("No caption" in each for each in searched.search(search).warnings)

    assert warns(unknown)
    assert warns({**unknown, "group_by": "bucket"})
    assert not warns({"text": "a cat", "rank": "hybrid"})
    assert not warns({**unknown, "weights": {"words": 0}})
    assert not warns({"text": "zeppelin"})


def test_an_image_may_be_a_path(in_process: InProcess, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(image_file())
    by_path = in_process.search({"image": tmp_path / "red.png"})
    assert [hit.id for hit in by_path.hits] == [hit.id for hit in in_process.search({"image": image_file()}).hits]
