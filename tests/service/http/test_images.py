"""Single images over HTTP: record, content, thumbnails, takedown."""

import io
import unicodedata
import uuid
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.service.conftest import INDEX, World, replica_of
from tests.service.http.gallery import Gallery, encoded, error_of
from viewfinder.service.images.content import IN_MEMORY_BYTES
from viewfinder.settings import Settings
from viewfinder.sources.uris import canonical_uri, point_id

pytestmark = pytest.mark.slow


@pytest.fixture
def configured() -> dict[str, object]:
    return {"index": INDEX}


@pytest.fixture
def strict(gallery: Gallery) -> Iterator[TestClient]:
    """The same index behind tight limits."""
    settings = Settings.load({}, index=INDEX, max_image_bytes=100_000, max_image_pixels=90_000, decode_timeout_s=1.0)
    with replica_of(gallery.world.store, gallery.world.service.follower, settings) as client:
        yield client


def shown(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


# -- Data -------------------------------------------------------------------------------------------------------------


def test_an_image_has_its_whole_payload(gallery: Gallery) -> None:
    id = gallery.add("a.jpg", encoded(), caption="a flag", width=300, height=200, tags=["red"])
    body = gallery.client.get(f"/v1/images/{id}").json()
    assert (body["id"], body["caption"], body["width"], body["height"]) == (id, "a flag", 300, 200)
    assert body["uri"] == canonical_uri(str(gallery.directory / "a.jpg"))
    assert body["payload"]["tags"] == ["red"]
    assert body["collection"] == gallery.collection.name


@pytest.mark.parametrize("suffix", ["", "/content", "/content?width=64"])
def test_an_image_that_is_not_in_the_index_is_not_found(gallery: Gallery, suffix: str) -> None:
    (gallery.directory / "secret.jpg").write_bytes(encoded())
    absent = point_id(canonical_uri(str(gallery.directory / "secret.jpg")))
    assert error_of(gallery.client.get(f"/v1/images/{absent}{suffix}")) == (404, "not_found")


INVALID_IDS = (
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f",
    "..",
    "1",
    "%00",
    "None",
    "AAAAAAAA-AAAA-5AAA-AAAA-AAAAAAAAAAAA",
    uuid.uuid4().hex,
    f"{{{uuid.uuid4()}}}",
    f"urn:uuid:{uuid.uuid4()}",
    f"{uuid.uuid4()}%0a",
    f"{uuid.uuid4()}.jpg",
    f"{uuid.uuid4()}/../../{uuid.uuid4()}",
    "file:%2f%2f%2fetc%2fpasswd",
    "s3:%2f%2fbucket%2f0.jpg",
    "%ff%fe",
    "９" * 8 + "-1111-1111-1111-" + "1" * 12,
)


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("GET", "/content"), ("DELETE", "")])
def test_an_id_that_is_not_a_plain_uuid_is_error_of(gallery: Gallery, method: str, suffix: str) -> None:
    answers = {id: gallery.client.request(method, f"/v1/images/{id}{suffix}") for id in INVALID_IDS}
    codes = {id: error_of(answer) for id, answer in answers.items()}
    assert set(codes.values()) <= {(404, "not_found"), (422, "invalid_request")}
    assert list(gallery.world.store.control(INDEX).all_takedowns()) == []


# -- Content ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, IN_MEMORY_BYTES])
def test_the_content_equals_the_object(gallery: Gallery, padding: int) -> None:
    data = encoded() + b"\0" * padding
    answer = gallery.get(gallery.add("a b.jpeg", data))
    assert answer.status_code == 200
    assert answer.content == data
    assert answer.headers["content-length"] == str(len(data))


def test_content_has_its_media_type_and_nosniff(gallery: Gallery) -> None:
    id = gallery.add("nice 图.jpeg", encoded())
    for answer in (gallery.get(id), gallery.thumbnail(id, 64)):
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"].startswith("private")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["content-disposition"] == (
            f"inline; filename=\"{id}.jpg\"; filename*=UTF-8''nice%20%E5%9B%BE.jpg"
        )


@pytest.mark.parametrize("format", ["svg", "html", "text/html", "pdf", "", None, "ppm"])
def test_unknown_formats_are_offered_for_download_only(gallery: Gallery, format: str | None) -> None:
    id = gallery.add("page.html", b"<svg onload=alert(1)>", format=format)
    answer = gallery.get(id)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert ".html" not in answer.headers["content-disposition"]


@pytest.mark.parametrize("name", ['a";\r\nset-cookie: x=1;".jpg', "\u202egpj.exe", "..", "a" * 300, "", "b\x00.jpg"])
def test_an_object_name_cannot_escape_the_header(gallery: Gallery, name: str) -> None:
    id = gallery.add("a.jpg", encoded(), key=f"some/where/{name}")
    answer = gallery.get(id)
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert len(answer.headers["content-disposition"]) < 1000
    assert answer.headers["content-disposition"].startswith(f'inline; filename="{id}.jpg"')
    assert ".exe" not in answer.headers["content-disposition"]


@pytest.mark.parametrize("width", [None, 64])
def test_a_current_etag_gives_304_without_reading_the_bucket(gallery: Gallery, width: int | None) -> None:
    id = gallery.add("a.jpg", encoded())
    path = f"/v1/images/{id}/content" + (f"?width={width}" if width else "")
    first = gallery.client.get(path)
    (gallery.directory / "a.jpg").unlink()
    for given in (first.headers["etag"], f"W/{first.headers['etag']}", f'"other", {first.headers["etag"]}', "*"):
        again = gallery.client.get(path, headers={"if-none-match": given})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]


def test_each_width_and_content_has_its_own_etag(gallery: Gallery) -> None:
    id = gallery.add("a.jpg", encoded())
    tags = {gallery.get(id).headers["etag"], *(gallery.thumbnail(id, width).headers["etag"] for width in (64, 65))}
    gallery.add("a.jpg", encoded(size=(301, 200)))
    assert len(tags | {gallery.get(id).headers["etag"]}) == 4
    assert all(gallery.get(id, **{"if-none-match": tag}).status_code == 200 for tag in tags)


def test_an_object_missing_from_the_bucket_is_404_object_missing(gallery: Gallery) -> None:
    id = gallery.add("a.jpg", encoded())
    (gallery.directory / "a.jpg").unlink()
    assert error_of(gallery.get(id)) == (404, "object_missing")
    assert error_of(gallery.thumbnail(id, 64)) == (404, "object_missing")
    assert gallery.client.get(f"/v1/images/{id}").status_code == 200


def test_the_503_of_an_unreachable_bucket_reveals_no_address(gallery: Gallery) -> None:
    settings = Settings.load({}, index=INDEX, s3_endpoint_url="http://127.0.0.1:9", s3_anonymous=True)
    with replica_of(gallery.world.store, gallery.world.service.follower, settings) as client:
        id = gallery.add("a.jpg", encoded(), uri="s3://secret-bucket/a.jpg")
        answer = client.get(f"/v1/images/{id}/content")
    assert error_of(answer) == (503, "bucket_unavailable")
    assert answer.headers["retry-after"]
    assert "secret-bucket" not in answer.text
    assert "127.0.0.1" not in answer.text


@pytest.mark.parametrize("indexed_size", [10, 10 * IN_MEMORY_BYTES])
def test_an_object_beyond_the_limit_is_not_read(gallery: Gallery, strict: TestClient, indexed_size: int) -> None:
    id = gallery.add("a.jpg", encoded() + b"\0" * 100_000, size=indexed_size)
    for suffix in ("", "?width=64"):
        assert error_of(strict.get(f"/v1/images/{id}/content{suffix}")) == (422, "invalid_image")


# -- Thumbnails -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "width", "expected"),
    [
        ((300, 200), 128, (128, 85)),
        ((300, 200), 129, (256, 171)),  # a few widths only, rounded up
        ((300, 200), 16, (16, 11)),
        ((300, 200), 2048, (300, 200)),  # never enlarged
        ((20, 300), 64, (17, 256)),  # the height is limited too
    ],
)
def test_a_thumbnail_keeps_the_aspect_ratio(
    gallery: Gallery, size: tuple[int, int], width: int, expected: tuple[int, int]
) -> None:
    answer = gallery.thumbnail(gallery.add("a.jpg", encoded(size=size)), width)
    assert answer.status_code == 200
    assert shown(answer.content).size == expected


def test_a_thumbnail_is_upright(gallery: Gallery) -> None:
    small = shown(gallery.thumbnail(gallery.add("a.jpg", encoded(orientation=6)), 128).content).convert("RGB")
    assert small.size == (128, 192)
    (top, bottom) = (small.getpixel((50, 10)), small.getpixel((50, 180)))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert (top[0] > 200, bottom[2] > 200) == (True, True), "the left side of the file is shown at the top"


@pytest.mark.parametrize("width", ["15", "2049", "0", "-1", "1e3", "abc", "64.5", ""])
def test_a_width_out_of_bounds_is_error_of(gallery: Gallery, width: str) -> None:
    id = gallery.add("a.jpg", encoded())
    answer = gallery.client.get(f"/v1/images/{id}/content", params={"width": width})
    assert error_of(answer) == (422, "invalid_request")
    assert "width" in answer.json()["error"]["message"]


def test_a_thumbnail_is_cached_until_its_object_is_indexed_again(gallery: Gallery) -> None:
    id = gallery.add("a.jpg", encoded())
    first = gallery.thumbnail(id, 64)
    path = gallery.directory / "a.jpg"
    path.unlink()
    assert gallery.thumbnail(id, 64).content == first.content
    assert error_of(gallery.thumbnail(id, 65)) == (404, "object_missing")
    gallery.add("a.jpg", encoded(size=(100, 100)))
    assert shown(gallery.thumbnail(id, 64).content).size == (64, 64)


def test_an_image_changed_since_indexing_is_shown_as_it_is_now(gallery: Gallery) -> None:
    id = gallery.add("a.jpg", encoded())
    before = gallery.thumbnail(id, 64).headers["etag"]
    gallery.add("b.jpg", b"")  # the index does not see the following change of a.jpg
    (gallery.directory / "a.jpg").write_bytes(encoded(size=(100, 100)))
    now = gallery.thumbnail(id, 16)
    assert shown(now.content).size == (16, 16)
    assert now.headers["etag"] != before


@pytest.mark.parametrize(
    "content",
    [b"", b"no image at all", b"<svg xmlns='http://www.w3.org/2000/svg'/>", encoded()[:300], encoded("PNG")[:200]],
)
def test_a_broken_image_has_no_thumbnail(gallery: Gallery, content: bytes) -> None:
    assert error_of(gallery.thumbnail(gallery.add("a.jpg", content), 64)) == (422, "invalid_image")


def test_a_decompression_bomb_has_no_thumbnail(gallery: Gallery, strict: TestClient) -> None:
    id = gallery.add("bomb.png", encoded("PNG", (1000, 1000)))
    assert error_of(strict.get(f"/v1/images/{id}/content?width=64")) == (422, "invalid_image")
    good = gallery.add("good.jpg", encoded())
    assert strict.get(f"/v1/images/{good}/content?width=64").status_code == 200


def _removal(id: str, uri: str, *, removed: bool = False, before: bool = False) -> dict[str, object]:
    return {"id": id, "uri": uri, "removed": removed, "before": before, "nearest": []}


# -- Takedown ---------------------------------------------------------------------------------------------------------


def test_a_takedown_removes_the_image_at_once_and_permanently(gallery: Gallery) -> None:
    id = gallery.add("a.jpg", encoded())
    assert gallery.thumbnail(id, 64).status_code == 200
    uri = canonical_uri(str(gallery.directory / "a.jpg"))
    assert gallery.client.delete(f"/v1/images/{id}").json() == _removal(id, uri, removed=True)
    for path in (f"/v1/images/{id}", f"/v1/images/{id}/content", f"/v1/images/{id}/content?width=64"):
        assert error_of(gallery.client.get(path)) == (404, "not_found")
    assert id not in {hit["id"] for hit in gallery.client.get("/v1/search?q=flag&limit=50").json()["hits"]}
    (takedown,) = gallery.client.get("/v1/takedowns").json()["takedowns"]
    assert (takedown["id"], takedown["uri"]) == (id, uri)
    assert gallery.client.delete(f"/v1/images/{id}").json() == _removal(id, uri, before=True)


def test_an_image_is_found_by_another_spelling_of_its_uri(gallery: Gallery) -> None:
    id = gallery.add(unicodedata.normalize("NFD", "café.jpg"), encoded())
    typed = canonical_uri(str(gallery.directory / unicodedata.normalize("NFC", "café.jpg")))
    named = {"uri": typed}
    other = point_id(typed)
    assert gallery.client.get(f"/v1/images/{other}", params=named).json()["id"] == id
    assert gallery.client.get(f"/v1/images/{other}/content", params=named).status_code == 200
    assert gallery.client.delete(f"/v1/images/{other}", params=named).json()["removed"]
    assert gallery.client.delete(f"/v1/takedowns/{other}", params=named).json()["restored"]


@pytest.mark.parametrize("uri", ["file:///a%00b", "file://elsewhere/a", "s3://"])
def test_an_invalid_uri_of_an_image_is_refused(gallery: Gallery, uri: str) -> None:
    done = gallery.client.delete(f"/v1/images/{uuid.uuid4()}", params={"uri": uri})
    assert error_of(done) == (422, "invalid_request")


def test_an_image_can_be_taken_down_before_it_was_indexed(gallery: Gallery) -> None:
    id = str(uuid.uuid4())
    assert gallery.client.delete(f"/v1/images/{id}").json() == _removal(id, "")
    assert id in gallery.world.store.control(INDEX).takedowns([id])


def test_an_image_can_be_taken_down_while_no_model_is_loaded(world: World) -> None:
    collection = world.build("first")
    id = point_id("s3://bucket/0.jpg")
    assert world.client.delete(f"/v1/images/{id}").json()["removed"]
    assert world.store.points.records(collection, [id]) == {}


def test_takedowns_are_paged_and_can_be_lifted(gallery: Gallery) -> None:
    ids = sorted(gallery.add(f"{number}.jpg", encoded()) for number in range(5))
    for id in ids:
        gallery.client.delete(f"/v1/images/{id}")
    pages = [gallery.client.get("/v1/takedowns", params={"limit": 2, "offset": offset}).json() for offset in (0, 2, 4)]
    assert [page["more"] for page in pages] == [True, True, False]
    assert sorted(each["id"] for page in pages for each in page["takedowns"]) == ids
    path = f"/v1/takedowns/{ids[0]}"
    assert gallery.client.delete(path).json() == {"id": ids[0], "restored": True, "nearest": []}
    assert gallery.client.delete(path).json() == {"id": ids[0], "restored": False, "nearest": []}
    assert set(gallery.world.store.control(INDEX).takedowns(ids)) == set(ids[1:])
