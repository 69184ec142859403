"""Signed addresses of thumbnails."""

from pathlib import Path

import pytest

from tests.service.conftest import INDEX, World
from tests.service.http.gallery import Gallery, encoded
from tests.service.http.guarded import KEYS, READ_KEY
from tests.service.http.searching import an_id
from viewfinder.query.cursor import CursorKeys
from viewfinder.service.images.links import PERIOD_S, ThumbnailLinks

pytestmark = pytest.mark.slow

ID = an_id(0)


@pytest.fixture
def configured() -> dict[str, object]:
    return {"api_keys": KEYS}


def link(world: World, width: int = 256, id: str = ID) -> str:
    body = {"ids": [id], "width": width}
    answer = world.client.post("/v1/thumbnails", json=body, headers={"x-api-key": READ_KEY})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["paths"][id])


def status(world: World, path: str) -> int:
    return int(world.client.get(path).status_code)


def test_a_signed_address_needs_no_key(served: World, tmp_path: Path) -> None:
    """Regression: with keys on, `<img>` could show no thumbnail."""
    live = served.store.collections.live(INDEX)
    assert live is not None
    id = Gallery(served, tmp_path, live).add("a.jpg", encoded())
    answer = served.client.get(link(served, id=id))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg"), answer.text
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    again = served.client.get(link(served, id=id), headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.headers["cross-origin-resource-policy"]) == (304, "cross-origin")
    missing = served.client.get(link(served, id=an_id(99)))
    assert (missing.status_code, missing.headers["cross-origin-resource-policy"]) == (404, "cross-origin")
    assert status(served, f"/v1/images/{id}/content?width=256") == 401


def test_addresses_are_made_for_those_who_may_search(served: World) -> None:
    assert served.client.post("/v1/thumbnails", json={"ids": [ID]}).status_code == 401


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("width=256", "width=512"),
        ("width=256", "width=0256"),
        ("width=256&", ""),
        ("expires=", "expires=9"),
        ("signature=", "signature=00"),
        ("signature=", "sig="),
        ("?", "?width=2048&"),
        ("?", "?uri=s3://other/b.jpg&"),
        (ID, an_id(1)),
        ("/content", ""),
        ("/v1/images", "/v1/takedowns"),
    ],
)
def test_a_changed_address_needs_a_key(served: World, old: str, new: str) -> None:
    path = link(served)
    assert old in path
    assert status(served, path.replace(old, new, 1)) in (401, 404)
    assert status(served, path.replace(old, new, 1)) == 401


def test_an_address_allows_reading_only(served: World) -> None:
    assert served.client.delete(link(served)).status_code == 401


@pytest.mark.parametrize("count", [3, 4, 11, 2_000])
def test_an_address_with_many_parameters_needs_a_key(served: World, count: int) -> None:
    """Regression: more than ten were an internal error."""
    query = "&".join(f"a{number}=1" for number in range(count))
    assert status(served, f"/v1/images/{ID}/content?{query}") == 401
    assert status(served, f"{link(served)}&{query}") == 401


@pytest.mark.parametrize("query", [b"", b"\xff", b"width=1&expires=x&signature=y", b"width=%00&expires=1&signature=ff"])
def test_nonsense_is_not_signed(query: bytes) -> None:
    assert not ThumbnailLinks(CursorKeys([b"key"])).allows(f"/v1/images/{ID}/content", query)


def test_an_address_stays_the_same_for_a_while_and_ends_after_at_most_two_periods() -> None:
    now = [10.0 * PERIOD_S]
    links = ThumbnailLinks(CursorKeys([b"key"]), clock=lambda: now[0])
    path, _, query = links.path(INDEX, ID, 64).partition("?")
    now[0] += PERIOD_S - 1
    assert links.path(INDEX, ID, 64) == f"{path}?{query}"
    assert links.allows(path, query.encode())
    now[0] += PERIOD_S
    assert links.allows(path, query.encode())
    now[0] += 1
    assert not links.allows(path, query.encode())


def test_an_old_key_is_accepted_while_keys_are_changed() -> None:
    path, _, query = ThumbnailLinks(CursorKeys([b"old"])).path(INDEX, ID, 64).partition("?")
    assert ThumbnailLinks(CursorKeys([b"new", b"old"])).allows(path, query.encode())
    assert not ThumbnailLinks(CursorKeys([b"new"])).allows(path, query.encode())
