"""Hostile inputs: each gets the right 4xx with an error body, and the service still answers."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.conftest import World, open_world
from tests.service.watched_loop import watching
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.sources.uris import point_id

pytestmark = pytest.mark.slow

SEARCH = "/v1/search"
JSON = {"content-type": "application/json"}
SECRET = "s3cr3t-words-of-a-query"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Checkpoint]) -> Iterator[World]:
    """One service for all tests of this module."""
    with open_world(tmp_path_factory.mktemp("world"), checkpoints, {}) as world:
        world.build("first")
        world.service.follower.refresh()
        yield world


@pytest.fixture(autouse=True)
def still_answering(served: World, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """During every test the event loop is free, and after it a search works.

    Neither an unexpected error nor a query's text was logged.
    """
    with caplog.at_level(logging.INFO), watching():
        yield
    assert served.client.post(SEARCH, json={"text": "a cat"}).status_code == 200
    assert "Unexpected error" not in caplog.text
    assert SECRET not in caplog.text


def error(answer: Any) -> tuple[int, str]:
    body = answer.json()["error"]
    assert set(body) == {"code", "message", "hint", "request_id", "type", "param"}
    assert len(answer.content) < 4_000, "a response does not repeat the request"
    return answer.status_code, body["code"]


PART = b"x" * 65_536


def filling(megabytes: int) -> Iterator[bytes]:
    for _ in range(megabytes * 16):
        yield PART


@pytest.mark.parametrize(
    "path",
    [SEARCH, "/v1/search/batch", "/v1/embed", "/v1/embeddings", "/v1/rank", "/v1/rerank", "/v1/images", "/v1/facets"],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["with length", "chunked"])
def test_a_body_of_50_mb_is_refused(served: World, path: str, chunked: bool) -> None:
    content = filling(50) if chunked else b"x" * 50_000_000
    assert error(served.client.post(path, content=content, headers=JSON)) == (413, "body_too_large")


def test_an_upload_of_50_mb_is_refused(served: World) -> None:
    answer = served.client.post("/v1/search/image", files={"image": ("a.jpg", b"\xff\xd8\xff" + b"x" * 50_000_000)})
    assert error(answer) == (413, "body_too_large")


@pytest.mark.parametrize("depth", [50, 500, 900, 1100, 5_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [('{"not":', "}"), ('{"and":[', "]}"), ("[", "]")])
def test_deep_json_is_refused(served: World, depth: int, opening: str, closing: str) -> None:
    body = f'{{"text": "a cat", "filter": {opening * depth}{{}}{closing * depth}}}'
    status, code = error(served.client.post(SEARCH, content=body, headers=JSON))
    assert (status, code) in [
        (400, "invalid_filter"),
        (400, "invalid_json"),
        (413, "body_too_large"),
        (422, "invalid_request"),
    ]


@pytest.mark.parametrize("depth", [100, 900, 2_000])
def test_deep_json_in_the_query_string_is_refused(served: World, depth: int) -> None:
    answer = served.client.get(SEARCH, params={"q": "a cat", "filter": '{"not":' * depth + "{}" + "}" * depth})
    assert error(answer)[0] in (400, 414, 422)


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "\xff\xfe"}',
        b'{"text": "\xc3("}',
        b'{"text": "\xed\xa0\x80"}',
        b"\xef\xbb\xbf\xff{}",
        b"",
        b"\x00",
        b"{",
        b'{"text": "a cat"',
        b'{"text": "a cat"}{"text": "a dog"}',
        b"{'text': 'a cat'}",
        b'{"text": "a\ncat"}',
        b'{"limit": ' + b"9" * 5_000 + b', "text": "a cat"}',
        b"\x1f\x8b\x08\x00",
    ],
)
def test_bodies_that_are_not_json(served: World, body: bytes) -> None:
    status, code = error(served.client.post(SEARCH, content=body, headers=JSON))
    assert (status, code) in [(400, "invalid_json"), (422, "invalid_request")]


@pytest.mark.parametrize(
    "body",
    [
        "null",
        "[]",
        '"a cat"',
        "17",
        "NaN",
        '{"text": null}',
        '{"text": ["a cat"]}',
        '{"text": "\\ud800"}',
        '{"text": "a cat", "\\ud800": 1}',
        '{"text": "a cat", "limit": NaN}',
        '{"text": "a cat", "limit": 1e400}',
        '{"text": "a cat", "limit": 99999999999999999999999999}',
        '{"text": "a cat", "limit": -1}',
        '{"text": "a cat", "limit": true}',
        '{"text": "a cat", "offset": 1e18}',
        '{"text": "a cat", "score_threshold": Infinity}',
        '{"text": "a cat", "score_threshold": NaN}',
        '{"text": "a cat", "diversity": NaN}',
        '{"text": "a cat", "target": "\\u0000"}',
        '{"vector": [NaN]}',
        '{"vector": [1e39, -1e39]}',
        '{"vector": []}',
        '{"vector": [1, 2, 3]}',
        '{"vector": [[1]]}',
        '{"queries": []}',
        '{"queries": [{"text": "a cat", "weight": NaN}]}',
        '{"queries": [{"queries": [{"text": "a cat"}]}]}',
        '{"text": "a cat", "__proto__": {}}',
        '{"text": "a cat", "filter": {"width": {"gte": NaN}}}',
        '{"text": "a cat", "filter": {"width": {"eq": 99999999999999999999999999}}}',
        '{"text": "a cat", "filter": {"\\ud800": {"eq": 1}}}',
        '{"text": "a cat", "filter": {"caption": {"eq": "\\ud800"}}}',
        '{"text": "a cat", "filter": {"meta.": {"eq": 1}}}',
        '{"text": "a cat", "filter": {"meta.a[].b\\u0000": {"eq": 1}}}',
        '{"text": "a cat", "filter": {"caption": {"text": {"$where": "1"}}}}',
        '{"id": "../../etc/passwd"}',
        '{"id": "\\u0000"}',
        '{"image": "data:image/png;base64,%%%%"}',
        '{"image": "AAAA"}',
        '{"image_url": "file:///etc/passwd"}',
        '{"image_url": "http://169.254.169.254/latest/meta-data/"}',
        '{"text": "a cat", "cursor": "AAAA"}',
        '{"text": "a cat", "cursor": "\\u0000"}',
        '{"text": "a cat", "group_by": "\\u0000"}',
        '{"text": "a cat", "group_by": "caption"}',
    ],
)
def test_json_that_is_not_a_search(served: World, body: str) -> None:
    assert error(served.client.post(SEARCH, content=body, headers=JSON))[0] in (400, 422)


@pytest.mark.parametrize(
    "text", ["a\x00cat", "\u202ea cat", "🐈" * 1000, "a" * 4_000, "\ufffe", "' OR 1=1 --", "{{7*7}}"]
)
def test_unusual_texts_are_searched_as_texts(served: World, text: str) -> None:
    assert served.client.post(SEARCH, json={"text": text}).status_code == 200


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data", "nonsense", ""],
)
def test_a_body_of_another_media_type_is_refused(served: World, kind: str) -> None:
    """Without a preflight, other sites' pages can send only such bodies."""
    answer = served.client.post(SEARCH, content=b'{"text": "a cat"}', headers={"content-type": kind})
    assert error(answer) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "b" * 5_000]
)
@pytest.mark.parametrize(
    "body", [b"", b"--b\r\n", b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n', b"x" * 999]
)
def test_a_broken_form_is_refused(served: World, kind: str, body: bytes) -> None:
    answer = served.client.post("/v1/search/image", content=body, headers={"content-type": kind})
    assert error(answer)[0] in (400, 422)


def test_a_form_of_a_thousand_fields_is_refused(served: World) -> None:
    fields = {f"field{number}": "x" for number in range(2_000)}
    answer = served.client.post("/v1/search/image", data=fields, files={"image": ("a.jpg", b"x")})
    assert error(answer)[0] in (400, 413, 422)


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "image/jpeg", ""])
def test_an_upload_that_is_not_a_form(served: World, kind: str) -> None:
    answer = served.client.post("/v1/search/image", content=b"image=a", headers={"content-type": kind})
    assert error(answer) == (415, "unsupported_media_type")


@pytest.mark.parametrize("field", ["limit", "image", "options", "Image"])
def test_a_form_with_unknown_or_repeated_fields(served: World, field: str) -> None:
    """Regression: `-F limit=5` beside the image was ignored, and so were all images but the last."""
    parts = [("image", ("a.jpg", b"x")), ("options", (None, "{}")), (field, (None, "5"))]
    answer = served.client.post("/v1/search/image", files=parts)
    assert error(answer) == (422, "invalid_request")
    assert field in answer.json()["error"]["message"]


def test_a_trailing_slash_is_not_redirected(served: World) -> None:
    """Behind a proxy that terminates TLS, a redirect would lead to http and send the key in the clear."""
    assert error(served.client.get("/v1/stats/", follow_redirects=False)) == (404, "not_found")


IDS = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%252e%252e%252f",
    "..%5c..%5cwindows",
    "%00",
    f"{point_id('s3://bucket/0.jpg')}%00",
    f"{point_id('s3://bucket/0.jpg')}%0a",
    f"{point_id('s3://bucket/0.jpg')};rm",
    f"{{{point_id('s3://bucket/0.jpg')}}}",
    "s3:%2f%2fother-bucket%2fsecret.jpg",
    "file:%2f%2f%2fetc%2fpasswd",
    "0",
    "-1",
    "x" * 5_000,
    "%ff%fe",
    "%f0%9f%90%88",
]


@pytest.mark.parametrize("path", ["/v1/images/{}", "/v1/images/{}/content", "/v1/takedowns/{}"])
@pytest.mark.parametrize("id", IDS)
def test_an_id_with_a_path_is_refused(served: World, path: str, id: str) -> None:
    answer = served.client.get(path.format(id))
    assert error(answer)[0] in (404, 405, 422)
    assert error(served.client.delete(path.format(id)))[0] in (404, 405, 422)
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/page/../../settings.py",
        "/page/%2e%2e/%2e%2e/pyproject.toml",
        "/page/x/..%2f..%2fapp.py",
        "/docs/%2e%2e%2fapp.py",
    ],
)
def test_path_traversal_in_the_pages_files(served: World, path: str) -> None:
    assert error(served.client.get(path)) == (404, "not_found")


@pytest.mark.parametrize(
    "headers",
    [
        {"x-request-id": "x" * 100_000},
        {"x-huge": "x" * 1_000_000},
        {f"x-{number}": "y" for number in range(2_000)},
        {"accept": "\x7f" * 100},
        {"range": "bytes=0-,0-,0-,0-,0-,0-"},
        {"content-length": "-1"},
        {"transfer-encoding": "chunked, chunked"},
        {"cookie": "a=b; " * 10_000},
        {"x-forwarded-for": "1.2.3.4", "forwarded": "for=1.2.3.4"},
    ],
    ids=range(9),
)
def test_unusual_headers_change_nothing(served: World, headers: dict[str, str]) -> None:
    assert served.client.get("/v1/stats", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        (SEARCH, {}),
        (SEARCH, {"q": ""}),
        (SEARCH, {"q": SECRET, "limit": "1e3"}),
        (SEARCH, {"q": SECRET, "filter": "{"}),
        (SEARCH, {"q": SECRET, "filter": "[]"}),
        (SEARCH, {"q": SECRET, "filter": '{"a": NaN}'}),
        (SEARCH, {"q": SECRET, "target": "<script>"}),
        ("/v1/facets", {"field": "\x00"}),
        ("/v1/facets", {"field": "tags", "filter": '{"\\ud800": {"eq": 1}}'}),
        ("/v1/facets", {"field": "tags", "limit": "99999999999999999999"}),
    ],
)
def test_an_unusual_query_string_is_refused(served: World, path: str, parameters: dict[str, str]) -> None:
    assert error(served.client.get(path, params=parameters))[0] in (400, 422)


@pytest.mark.parametrize("path", [SEARCH, "/v1/embed", "/v1/rank"])
def test_the_content_of_a_refused_request_is_not_logged(
    served: World, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"text": SECRET, "texts": [SECRET], "image": "AAAA", "nonsense": SECRET}
    assert error(served.client.post(path, json=body))[0] == 422
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "image",
    [
        {},
        {"uri": None},
        {"uri": ""},
        {"uri": "s3://a/b.jpg", "image": "AAAA"},
        {"uri": "../../etc/passwd"},
        {"uri": "https://example.org/a.jpg"},
        {"uri": "s3://bucket/../../secret"},
        {"uri": "s3://\x00/a"},
        {"uri": "s3://bucket/\ud800.jpg"},
        {"uri": "s3://bucket/" + "a" * 5_000},
        {"image": "%%%"},
        {"image": "AAAA"},
        {"image_url": "http://169.254.169.254/"},
        {"uri": "s3://bucket/a.jpg", "tags": ["a"] * 1_001},
        {"uri": "s3://bucket/a.jpg", "tags": [[]]},
        {"uri": "s3://bucket/a.jpg", "meta": {"a.b": 1}},
        {"uri": "s3://bucket/a.jpg", "meta": {"\ud800": 1}},
        {"uri": "s3://bucket/a.jpg", "caption": "\ud800"},
        {"uri": "s3://bucket/a.jpg", "meta": {"a": float("nan")}},
        {"uri": "s3://bucket/a.jpg", "__proto__": {}},
    ],
    ids=lambda each: str(each)[:60],
)
def test_an_image_that_is_not_one_to_index(served: World, image: dict[str, Any]) -> None:
    answer = served.client.post("/v1/images", content=json.dumps({"images": [image]}), headers=JSON)
    if answer.status_code == 200:
        assert [each["reason"] for each in answer.json()["images"]] == ["outside_sources"]
    else:
        assert error(answer)[0] in (400, 422)


@pytest.mark.parametrize("body", ["null", "[]", '{"images": {}}', '{"images": []}', '{"images": [1]}', '{"images": 1}'])
def test_json_that_is_not_a_list_of_images(served: World, body: str) -> None:
    assert error(served.client.post("/v1/images", content=body, headers=JSON)) == (422, "invalid_request")


def test_a_batch_of_too_many_searches(served: World) -> None:
    searches = [{"text": "a cat"}] * 65
    assert error(served.client.post("/v1/search/batch", json={"searches": searches})) == (422, "invalid_request")
    many = json.dumps({"texts": ["a cat"] * 100_000})
    assert error(served.client.post("/v1/embed", content=many, headers=JSON)) == (422, "invalid_request")
