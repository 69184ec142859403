"""Redirects of originals to their bucket."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.fixtures.services import listening
from tests.service.conftest import replica_of
from tests.service.http.gallery import Gallery, encoded
from viewfinder import Client
from viewfinder.settings import Settings
from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.objects import Objects
from viewfinder.testing.s3 import S3Endpoint

pytestmark = pytest.mark.slow

CONTENT = encoded()
KEY = "a b+c/café (1).jpg"


@pytest.fixture
def configured(s3: S3Endpoint) -> dict[str, object]:
    return {"redirect_originals": True, "s3_endpoint_url": s3.url}


@pytest.fixture
def original(s3_root: Path, gallery: Gallery) -> Iterator[str]:
    """The id of an indexed image in S3."""
    file = s3_root / "originals" / KEY
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(CONTENT)
    yield gallery.add("copy.jpg", CONTENT, uri=f"s3://originals/{KEY}", key=KEY)
    file.unlink()


def get(gallery: Gallery, id: str, **headers: str) -> httpx.Response:
    return gallery.client.get(f"/v1/images/{id}/content", headers=headers, follow_redirects=False)


def test_an_original_in_s3_is_read_from_its_bucket(gallery: Gallery, original: str, s3: S3Endpoint) -> None:
    answer = get(gallery, original)
    assert answer.status_code == 307
    assert answer.headers["cache-control"] == "no-store"
    address = answer.headers["location"]
    assert address.startswith(s3.url)
    query = parse_qs(urlsplit(address).query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Expires"] == ["300"]
    assert query["response-content-type"] == ["image/jpeg"]
    assert query["response-content-disposition"][0].startswith("inline; filename=")
    assert httpx.get(address).content == CONTENT
    assert httpx.get(address, headers={"range": "bytes=2-9"}).content == CONTENT[2:10]


@pytest.mark.parametrize("mode", ["cors", "same-origin"])
def test_scripts_of_web_pages_get_the_content(gallery: Gallery, original: str, mode: str) -> None:
    answer = get(gallery, original, **{"sec-fetch-mode": mode})
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert get(gallery, original, **{"sec-fetch-mode": "navigate"}).status_code == 307


def test_head_and_thumbnails_are_answered_here(gallery: Gallery, original: str) -> None:
    head = gallery.client.head(f"/v1/images/{original}/content", follow_redirects=False)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(CONTENT)))
    assert gallery.thumbnail(original, 64).headers["content-type"] == "image/jpeg"


def test_a_local_file_is_sent(gallery: Gallery) -> None:
    answer = get(gallery, gallery.add("b.jpg", CONTENT))
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_an_image_that_was_taken_down_has_no_address(gallery: Gallery, original: str) -> None:
    assert gallery.client.delete(f"/v1/images/{original}").status_code == 200
    assert get(gallery, original).status_code == 404


def test_without_the_setting_the_service_sends_the_content(
    gallery: Gallery, original: str, configured: dict[str, object]
) -> None:
    settings = Settings.load({}, **(configured | {"redirect_originals": False}))
    with replica_of(gallery.world.store, gallery.world.service.follower, settings) as client:
        answer = client.get(f"/v1/images/{original}/content", follow_redirects=False)
    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_the_client_follows(gallery: Gallery, original: str) -> None:
    with listening(gallery.world.service) as url, Client(url) as client:
        assert client.content(original) == CONTENT


def test_anonymous_access_has_no_address() -> None:
    with Objects(ObjectAccess(anonymous=True)) as objects:
        assert objects.presigned_url("s3://bucket/a.jpg", 300, "image/jpeg", "inline") is None
