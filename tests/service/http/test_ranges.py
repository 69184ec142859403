"""Parts of originals, and their properties without the content."""

import pytest

from tests.service.http.gallery import Gallery, encoded, error_of
from viewfinder.service.images.content import IN_MEMORY_BYTES

pytestmark = pytest.mark.slow

CONTENT = encoded() + bytes(range(256)) * 10
SIZE = len(CONTENT)


@pytest.mark.parametrize(
    ("range_", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=10-19", slice(10, 20)),
        (f"bytes={SIZE - 1}-", slice(SIZE - 1, SIZE)),
        ("bytes=100-", slice(100, SIZE)),
        ("bytes=-5", slice(SIZE - 5, SIZE)),
        (f"bytes=100-{SIZE * 2}", slice(100, SIZE)),
    ],
)
@pytest.mark.parametrize("indexed_size", [SIZE, 2 * IN_MEMORY_BYTES], ids=["in memory", "in a file"])
def test_a_part_of_an_original_is_sent(gallery: Gallery, range_: str, part: slice, indexed_size: int) -> None:
    """Regression: a download that was cut had to begin anew, and was cut again."""
    answer = gallery.get(gallery.add("a.jpg", CONTENT, size=indexed_size), range=range_)
    assert (answer.status_code, answer.content) == (206, CONTENT[part])
    assert answer.headers["content-range"] == f"bytes {part.start}-{part.stop - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(part.stop - part.start)


@pytest.mark.parametrize(
    "range_",
    [
        "bytes=0-",
        f"bytes=-{2 * SIZE}",
        "bytes=5-2",
        "bytes=0-1,5-9",
        "lines=1-2",
        "bytes=-",
        "bytes=a-b",
        "bytes=" + "9" * 99,
    ],
)
def test_the_whole_original_is_sent_for_ranges_that_mean_all_or_nothing(gallery: Gallery, range_: str) -> None:
    answer = gallery.get(gallery.add("a.jpg", CONTENT), range=range_)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    "range_", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=-0", "bytes=999999999999999999-"]
)
def test_a_part_that_does_not_exist_is_416(gallery: Gallery, range_: str) -> None:
    answer = gallery.get(gallery.add("a.jpg", CONTENT), range=range_)
    assert error_of(answer) == (416, "invalid_range")
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


def test_a_part_of_an_original_that_has_changed_is_the_whole(gallery: Gallery) -> None:
    id = gallery.add("a.jpg", CONTENT)
    tag = gallery.get(id).headers["etag"]
    assert gallery.get(id, **{"range": "bytes=0-9", "if-range": tag}).status_code == 206
    assert gallery.get(id, **{"range": "bytes=0-9", "if-range": '"other"'}).status_code == 200


@pytest.mark.parametrize("query", ["", "?width=64"])
def test_head_gives_the_properties_without_the_content(gallery: Gallery, query: str) -> None:
    path = f"/v1/images/{gallery.add('a.jpg', CONTENT)}/content{query}"
    whole, head = gallery.client.get(path), gallery.client.head(path)
    assert head.status_code == 200
    for name in ("content-length", "content-type", "etag", "cache-control", "content-disposition"):
        assert head.headers[name] == whole.headers[name]
    assert query or head.content == b""
