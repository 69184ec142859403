"""`POST /v1/images`: objects of sources and uploads are indexed now, as the next run would index them."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.indexing.sample_images import encoded_image
from tests.service.conftest import INDEX, World, load, open_world, replica_of
from tests.service.http.gallery import error_of
from viewfinder.arrays import Vectors
from viewfinder.indexing.executor import InProcessExecutor
from viewfinder.indexing.options import IndexOptions
from viewfinder.indexing.report import Summary
from viewfinder.indexing.run import index
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.encoder import Encoder
from viewfinder.service.new_images import MAX_IMAGES, MAX_INDEXING, MAX_WAITING
from viewfinder.settings import Settings
from viewfinder.sources.uris import canonical_uri, point_id
from viewfinder.store import Collection
from viewfinder.store.recorded import SourceRecord

pytestmark = pytest.mark.slow


@dataclass
class Library:
    """A service whose index has one recorded source, the directory `photos`, and which stores uploads in another."""

    world: World
    directory: Path
    settings: Settings

    @property
    def photos(self) -> Path:
        return self.directory / "photos"

    @property
    def uploads(self) -> Path:
        return self.directory / "uploads"

    @property
    def live(self) -> Collection:
        return self.world.store.collections.require_live(INDEX)

    def add(self, name: str, content: bytes) -> str:
        """Put a file into the source; return its URI."""
        path = self.photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return canonical_uri(str(path))

    def post(self, *images: dict[str, Any], **headers: str) -> httpx.Response:
        return self.world.client.post("/v1/images", json={"images": images}, headers=headers)

    def outcomes(self, *images: dict[str, Any]) -> list[tuple[str, str | None]]:
        answer = self.post(*images)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        counts = {name: body[name] for name in ("indexed", "unchanged", "skipped", "failed")}
        found = [(each["outcome"], each["reason"]) for each in body["images"]]
        assert counts == {name: sum(outcome == name for outcome, _ in found) for name in counts}
        return found

    def search(self, **body: Any) -> list[dict[str, Any]]:
        answer = self.world.client.post("/v1/search", json=body)
        assert answer.status_code == 200, answer.text
        hits: list[dict[str, Any]] = answer.json()["hits"]
        return hits

    def payload(self, uri: str) -> Any:
        return self.world.client.get(f"/v1/images/{point_id(uri)}").json()["payload"]

    def run(self, *sources: str) -> dict[str, int]:
        """Run the job over sources; return its counts."""
        with InProcessExecutor(cores=1) as executor:
            options = IndexOptions(tuple(sources), model=self.live.metadata.model_name)
            summary = index(options, self.settings, self.world.store, executor)
        assert isinstance(summary, Summary)
        return dict(summary.counts)


def sent(content: bytes, **caption: Any) -> dict[str, Any]:
    return {"image": base64.b64encode(content).decode(), **caption}


def make(directory: Path, world: World) -> Library:
    """A library with an empty live collection."""
    world.build("first", ())
    (directory / "photos").mkdir()
    library = Library(world, directory, Settings.load({}, data_dir=str(directory / "data"), device="cpu"))
    record(library, library.live)
    world.service.follower.refresh()
    return library


def record(library: Library, collection: Collection) -> None:
    source = SourceRecord(canonical_uri(str(library.photos)), exclude=("drafts/",))
    library.world.store.collections.records(collection).record_sources([source])


def configured(directory: Path) -> dict[str, object]:
    return {"uploads_uri": str(directory / "uploads"), "index": INDEX}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Checkpoint]) -> Iterator[Library]:
    """One for all tests that keep its model: decoder processes start slowly."""
    directory = tmp_path_factory.mktemp("library")
    with open_world(directory / "store", checkpoints, configured(directory)) as world:
        yield make(directory, world)


class Hooked:
    """An encoder that calls `meanwhile` after each batch of images."""

    def __init__(self, encoder: Encoder, meanwhile: list[Callable[[], object]]) -> None:
        self._encoder = encoder
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_images(self, images: NDArray[np.uint8]) -> Vectors:
        vectors = self._encoder.encode_images(images)
        for call in self._meanwhile:
            call()
        return vectors


@pytest.fixture
def meanwhile() -> list[Callable[[], object]]:
    """Callback of `changing` after each batch of images."""
    return []


@pytest.fixture
def changing(
    tmp_path: Path, checkpoints: dict[str, Checkpoint], meanwhile: list[Callable[[], object]]
) -> Iterator[Library]:
    """One for a test that changes the model, or delays the encoder."""

    def hooked(checkpoint: Checkpoint) -> Encoder:
        return cast(Encoder, Hooked(load(checkpoint), meanwhile))

    with open_world(tmp_path / "store", checkpoints, configured(tmp_path), load=hooked) as world:
        yield make(tmp_path, world)


# -- Objects of sources -----------------------------------------------------------------------------------------------


def test_an_object_is_found_by_the_next_search_and_unchanged_for_the_next_run(library: Library) -> None:
    uri = library.add("new/1.jpg", encoded_image(1))
    answer = library.post({"uri": uri}).json()
    (image,) = answer["images"]
    assert (image["outcome"], image["uri"], image["id"]) == ("indexed", uri, point_id(uri))
    (best, *_) = library.search(image=base64.b64encode(encoded_image(1)).decode(), limit=1)
    assert best["uri"] == uri
    assert best["score"] > 0.99
    payload = library.payload(uri)
    assert payload["sources"] == [canonical_uri(str(library.photos))]
    assert (payload["format"], payload["width"], payload["height"]) == ("jpeg", 48, 40)
    assert payload["run_id"] == answer["run_id"]
    counts = library.run(str(library.photos / "new"))
    assert (counts["listed"], counts["unchanged"], counts["indexed"]) == (1, 1, 0)


def test_an_image_is_indexed_again_only_if_it_has_changed(library: Library) -> None:
    uri = library.add("changing.png", encoded_image(2, kind="PNG"))
    assert library.outcomes({"uri": uri}) == [("indexed", None)]
    assert library.outcomes({"uri": uri}, {"uri": uri}) == [("unchanged", None)] * 2
    library.add("changing.png", encoded_image(3, (64, 64), kind="PNG"))
    assert library.outcomes({"uri": uri}) == [("indexed", None)]
    assert library.payload(uri)["width"] == 64


def test_each_image_has_an_outcome_of_its_own(library: Library) -> None:
    good = library.add("several/good.jpg", encoded_image(4))
    given = {
        good: ("indexed", None),
        library.add("several/page.html", b"<html><body>hello</body></html>"): ("skipped", "not_an_image"),
        library.add("several/empty.jpg", b""): ("skipped", "empty"),
        library.add("several/half.jpg", encoded_image(5, (400, 400))[:900]): ("failed", "truncated"),
        library.add("several/clip.mp4", b"\0\0\0\x18ftypmp42"): ("skipped", "video"),
        library.add("drafts/draft.jpg", encoded_image(6)): ("failed", "outside_sources"),
        canonical_uri(str(library.photos / "missing.jpg")): ("failed", "not_found"),
        canonical_uri(str(library.photos)): ("failed", "not_a_file"),
    }
    assert library.outcomes(*({"uri": uri} for uri in given)) == list(given.values())
    again = {uri: ("unchanged", None) if uri == good else expected for uri, expected in given.items()}
    assert library.outcomes(*({"uri": uri} for uri in again)) == list(again.values())
    stored = library.world.store.points.states(library.live, list(map(point_id, given)))
    assert list(stored) == [point_id(good)]


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "{photos}/../secret.jpg",
        "file://{photos}/%2e%2e/secret.jpg",
        "{photos}2/secret.jpg",
        "{photos}/.hidden/secret.jpg",
        "{photos}/notes.txt",
        "s3://elsewhere/secret.jpg",
    ],
)
def test_an_object_outside_of_the_recorded_sources_is_not_read(library: Library, uri: str) -> None:
    for name in ("secret.jpg", "photos2/secret.jpg", "photos/.hidden/secret.jpg", "photos/notes.txt"):
        path = library.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded_image(7))
    answer = library.post({"uri": uri.format(photos=library.photos)}).json()
    (image,) = answer["images"]
    assert (image["outcome"], image["reason"]) == ("failed", "outside_sources")
    assert answer["run_id"] is None
    assert image["id"] not in library.world.store.control(INDEX).failures([image["id"]])


@pytest.mark.parametrize(
    "image",
    [
        {},
        {"uri": "http://127.0.0.1/latest/meta-data"},
        {"uri": "https://example.org/cat.jpg"},
        {"uri": "gs://bucket/cat.jpg"},
        {"uri": "s3://"},
        {"uri": "file:///a%00b"},
        {"uri": "s3://bucket/a.jpg", "image": "aaaa"},
        {"image": "no base64!"},
        {"image_url": "https://example.org/cat.jpg"},
        {"uri": "s3://bucket/a.jpg", "caption": 1},
        {"uri": "s3://bucket/a.jpg", "tags": "beach"},
        {"uri": "s3://bucket/a.jpg", "meta": {"a.b": 1, "a": {"b": 2}}},
        {"uri": "s3://bucket/a.jpg", "caption": "\ud800"},
    ],
)
def test_an_invalid_image_refuses_the_whole_request(library: Library, image: dict[str, Any]) -> None:
    good = library.add("refused.jpg", encoded_image(8))
    content = b'{"images": [' + _json({"uri": good}) + b", " + _json(image) + b"]}"
    answer = library.world.client.post("/v1/images", content=content, headers={"content-type": "application/json"})
    assert error_of(answer) == (422, "invalid_request")
    assert "images.1" in answer.json()["error"]["message"]
    assert not library.world.store.points.states(library.live, [point_id(good)])


def test_a_takedown_holds(library: Library) -> None:
    uri = library.add("down.jpg", encoded_image(9))
    assert library.outcomes({"uri": uri}) == [("indexed", None)]
    assert library.world.client.delete(f"/v1/images/{point_id(uri)}").json()["removed"]
    assert library.outcomes({"uri": uri}) == [("skipped", "taken_down")]
    assert library.world.client.delete(f"/v1/takedowns/{point_id(uri)}").json()["restored"]
    assert library.outcomes({"uri": uri}) == [("indexed", None)]


def test_a_request_counts_as_a_run(library: Library) -> None:
    before = library.live.metadata.counts
    answer = library.post({"uri": library.add("counted.jpg", encoded_image(10))}).json()
    assert library.live.recorded.runs[-1].run_id == answer["run_id"]
    assert library.live.metadata.counts == before, "the counts of the last run over whole sources"
    metrics = library.world.client.get("/metrics").text
    assert 'viewfinder_images_indexed_total{outcome="indexed"}' in metrics
    points = library.world.store.points.count(library.live)
    library.world.service.follower.refresh()
    with replica_of(library.world.store, library.world.service.follower, Settings.load({}, index=INDEX)) as client:
        stats = client.get("/v1/stats").json()
    assert (stats["points"], stats["last_run"]) == (points, answer["run_id"])


# -- Captions ---------------------------------------------------------------------------------------------------------


def test_captions_tags_and_fields_are_those_of_a_captions_file(library: Library) -> None:
    uri = library.add("captioned.jpg", encoded_image(11))
    meta = {"year": 2024, "exif.iso": "400", "taken": "2024-05-31"}
    given = {"uri": uri, "caption": " a red boat ", "tags": ["sea", "red"], "meta": meta}
    assert library.outcomes(given) == [("indexed", None)]
    payload = library.payload(uri)
    assert payload["caption"] == "a red boat"
    assert payload["meta"] == {"year": 2024, "exif": {"iso": 400}, "taken": "2024-05-31"}
    for condition in (
        {"tags": {"eq": "sea"}},
        {"meta.year": {"gte": 2024}},
        {"meta.exif.iso": {"lt": 401}},
        {"meta.taken": {"gte": "2024-01-01"}},
    ):
        assert [hit["uri"] for hit in library.search(filter=condition)] == [uri], condition
    (best, *_) = library.search(text="a red boat", target="caption", limit=1)
    assert best["uri"] == uri
    assert library.outcomes(given) == [("unchanged", None)]
    assert library.outcomes({"uri": uri}) == [("unchanged", None)], "no caption leaves the caption as it is"
    assert library.outcomes({"uri": uri, "tags": ["blue"]}) == [("indexed", None)]
    assert library.payload(uri)["caption"] == "a red boat"
    assert library.payload(uri)["tags"] == ["blue"]


def test_a_field_of_another_type_than_in_the_index_is_refused(library: Library) -> None:
    first = library.add("typed.jpg", encoded_image(12))
    assert library.outcomes({"uri": first, "meta": {"stars": 4}}) == [("indexed", None)]
    answer = library.post(sent(encoded_image(13), meta={"stars": "many"}))
    assert error_of(answer) == (422, "invalid_request")
    assert "meta.stars" in answer.json()["error"]["message"]
    assert not (library.uploads / f"{hashlib.sha256(encoded_image(13)).hexdigest()}.jpeg").exists()
    assert [hit["uri"] for hit in library.search(filter={"meta.stars": {"gte": 4}})] == [first]


# -- Uploads ----------------------------------------------------------------------------------------------------------


def test_an_upload_is_stored_in_a_source_that_later_runs_read(library: Library) -> None:
    content = encoded_image(14)
    answer = library.post(sent(content, caption="an upload")).json()
    (image,) = answer["images"]
    name = f"{hashlib.sha256(content).hexdigest()}.jpeg"
    assert (image["outcome"], image["uri"]) == ("indexed", canonical_uri(str(library.uploads / name)))
    assert (library.uploads / name).read_bytes() == content
    assert canonical_uri(str(library.uploads)) in library.live.recorded.sources
    assert library.world.client.get(f"/v1/images/{image['id']}/content").content == content
    assert library.outcomes(sent(content)) == [("unchanged", None)]
    counts = library.run(str(library.uploads))
    assert (counts["indexed"], counts["failed"]) == (0, 0)
    assert library.payload(image["uri"])["caption"] == "an upload"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ("skipped", "empty")),
        (b"%PDF-1.7 " * 10, ("skipped", "not_an_image")),
        (encoded_image(15, (400, 400))[:900], ("failed", "truncated")),
    ],
)
def test_an_upload_that_is_no_image_is_not_stored(library: Library, content: bytes, expected: tuple[str, str]) -> None:
    before = sorted(library.uploads.glob("*"))
    answer = library.post(sent(content + b"") if content else {"image": "data:image/jpeg;base64,"}).json()
    (image,) = answer["images"]
    assert (image["outcome"], image["reason"], image["uri"], image["id"]) == (*expected, None, None)
    assert sorted(library.uploads.glob("*")) == before


def test_an_upload_that_is_taken_down_is_neither_stored_nor_indexed(library: Library) -> None:
    content = encoded_image(16)
    (image,) = library.post(sent(content)).json()["images"]
    library.world.client.delete(f"/v1/images/{image['id']}")
    path = library.uploads / f"{hashlib.sha256(content).hexdigest()}.jpeg"
    path.unlink()
    assert library.outcomes(sent(content)) == [("skipped", "taken_down")]
    assert not path.exists()


def test_uploads_without_a_place_for_them_are_refused(library: Library) -> None:
    with replica_of(library.world.store, library.world.service.follower, Settings.load({}, index=INDEX)) as client:
        answer = client.post("/v1/images", json={"images": [sent(encoded_image(17))]})
    assert error_of(answer) == (422, "uploads_disabled")
    assert "VIEWFINDER_UPLOADS_URI" in answer.json()["error"]["hint"]


def test_an_upload_that_cannot_be_stored_fails_alone(library: Library, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    settings = Settings.load({}, index=INDEX, uploads_uri=str(tmp_path / "file" / "below"))
    good = library.add("stored.jpg", encoded_image(18))
    with replica_of(library.world.store, library.world.service.follower, settings) as client:
        answer = client.post("/v1/images", json={"images": [sent(encoded_image(19)), {"uri": good}]})
    assert [(each["outcome"], each["reason"]) for each in answer.json()["images"]] == [
        ("failed", "not_stored"),
        ("indexed", None),
    ]
    assert canonical_uri(str(tmp_path / "file" / "below")) not in library.live.recorded.sources


# -- Limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, MAX_IMAGES + 1])
def test_the_number_of_images_is_limited(library: Library, count: int) -> None:
    assert error_of(library.post(*[{"uri": "s3://bucket/a.jpg"}] * count)) == (422, "invalid_request")


def test_requests_beyond_those_that_wait_are_refused(changing: Library, meanwhile: list[Callable[[], object]]) -> None:
    released = threading.Event()
    meanwhile.append(lambda: released.wait(30))
    places = MAX_INDEXING + MAX_WAITING
    images = [{"uri": changing.add(f"{number}.jpg", encoded_image(number))} for number in range(places + 1)]
    with ThreadPoolExecutor(places + 1) as pool:
        answers = [pool.submit(changing.post, each) for each in images]
        refused = next(as_completed(answers)).result()
        assert error_of(refused) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        released.set()
        bodies = [each.result().json() for each in answers]
    assert [body.get("indexed", 0) for body in bodies].count(1) == places


def test_images_are_not_indexed_before_there_is_an_index(world: World) -> None:
    answer = world.client.post("/v1/images", json={"images": [{"uri": "s3://bucket/a.jpg"}]})
    assert error_of(answer) == (503, "not_ready")


def test_only_an_admin_key_indexes(library: Library) -> None:
    digests = {scope: hashlib.sha256(scope.encode()).hexdigest() for scope in ("reader", "admin")}
    settings = Settings.load({}, index=INDEX, api_keys=f"{digests['reader']},{digests['admin']}:admin")
    body = {"images": [{"uri": library.add("keyed.jpg", encoded_image(20))}]}
    with replica_of(library.world.store, library.world.service.follower, settings) as client:
        for key, status in (("", 401), ("reader", 403), ("admin", 200)):
            assert client.post("/v1/images", json=body, headers={"x-api-key": key}).status_code == status


def test_simultaneous_requests_for_the_same_images_agree(library: Library) -> None:
    uris = [library.add(f"twice/{number}.jpg", encoded_image(30 + number)) for number in range(4)]
    answers: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda tag=tag: answers.append(library.post(*({"uri": uri, "tags": [tag]} for uri in uris)).json())
        )
        for tag in ("one", "two")
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [answer["failed"] + answer["skipped"] for answer in answers] == [0, 0]
    assert sum(answer["indexed"] for answer in answers) >= len(uris)
    assert all(library.payload(uri)["tags"] in (["one"], ["two"]) for uri in uris)


# -- A change of model ------------------------------------------------------------------------------------------------


def promote_second(library: Library) -> Collection:
    """Promote a collection of the other model, as a re-index does that has listed the source before."""
    second = library.world.build("second", (), promote=False)
    record(library, second)
    library.world.store.collections.promote(INDEX, second.name)
    return second


def test_an_image_indexed_while_the_live_collection_changes_is_in_both(
    changing: Library, meanwhile: list[Callable[[], object]]
) -> None:
    """The new collection was complete before the image arrived: only the request itself can add it."""
    first = changing.live
    uri = changing.add("a.jpg", encoded_image(40))
    promoted: list[Collection] = []

    def promote_once() -> None:
        if not promoted:
            promoted.append(promote_second(changing))

    meanwhile.append(promote_once)
    answer = changing.post({"uri": uri}, sent(encoded_image(41), caption="an upload")).json()
    assert (answer["indexed"], answer["collection"]) == (2, promoted[0].name)
    ids = [each["id"] for each in answer["images"]]
    for collection in (first, promoted[0]):
        assert set(changing.world.store.points.states(collection, ids)) == set(ids)
    assert canonical_uri(str(changing.uploads)) in changing.live.recorded.sources
    (best, *_) = changing.search(image=base64.b64encode(encoded_image(41)).decode(), limit=1)
    assert best["caption"] == "an upload"


def test_an_image_is_indexed_into_a_collection_that_became_live_unnoticed(changing: Library) -> None:
    """The replica still answers from the collection before."""
    second = promote_second(changing)
    answer = changing.post({"uri": changing.add("a.jpg", encoded_image(42))}).json()
    assert (answer["indexed"], answer["collection"]) == (1, second.name)
    assert len(changing.search(text="a cat")) == 1


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
