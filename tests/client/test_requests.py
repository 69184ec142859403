"""Search requests as JSON, and requests that are refused before they are sent."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viewfinder.client.calls import Calls
from viewfinder.client.requests import (
    Part,
    SearchRequest,
    image_id,
    last_position,
    next_page,
    search_body,
    search_request,
    spelled_names,
)
from viewfinder.errors import ConfigurationError, SourceError
from viewfinder.sources.uris import point_id

ID = point_id("s3://b/k")


def test_a_body_holds_only_the_given_options(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    parts = [Part(image=tmp_path / "a"), Part(id="s3://b/k", weight=-1), Part(vector=np.float32([1, 0]))]
    assert search_body(search_request("a cat", {"limit": 3, "offset": None})) == {"text": "a cat", "limit": 3}
    assert search_body({"queries": parts}) == {
        "queries": [{"image": "YWJj", "weight": 1.0}, {"id": ID, "weight": -1}, {"vector": [1.0, 0.0], "weight": 1.0}]
    }


def test_dates_in_filters_are_sent_as_iso_8601() -> None:
    call = Calls("http://h", None, 1, 0).search(
        {"text": "a", "filter": {"at": {"gt": datetime(2024, 5, 1, tzinfo=UTC)}}}
    )
    attempt: Any = next(call)
    assert b'"gt": "2024-05-01T00:00:00+00:00"' in attempt.content


def test_the_next_page_keeps_the_query_and_drops_the_offset() -> None:
    page = next_page(search_request("a cat", {"limit": 3, "offset": 2}), "there")
    assert page is not None
    assert search_body(page) == {"text": "a cat", "limit": 3, "cursor": "there"}
    assert next_page(search_request("a cat", {}), None) is None


@pytest.mark.parametrize("subject", [ID, ID.upper(), "s3://b/k", "S3://b/k"])
def test_an_image_is_named_by_id_or_uri(subject: str) -> None:
    assert image_id(subject) == ID


@pytest.mark.parametrize("subject", ["", "k", "../stats", ID[:-1], ID + "/content"])
def test_an_invalid_image_name_is_refused(subject: str) -> None:
    with pytest.raises(ConfigurationError, match="is neither an id"):
        image_id(subject)


def test_a_uri_of_another_scheme_is_refused() -> None:
    with pytest.raises(SourceError, match="ftp"):
        image_id("ftp://host/a.jpg")


@pytest.mark.parametrize("given", [{}, {"text": "a", "id": ID}, {"weight": 2.0}])
def test_a_part_has_exactly_one_input(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="exactly one of text, image, image_url, id, vector"):
        Part(**given)


@pytest.mark.parametrize("vector", [[float("nan")], [1, float("inf")], ["a"], [[1.0, 2.0]], 3])
def test_an_invalid_vector_is_refused(vector: Any) -> None:
    with pytest.raises(ConfigurationError, match="vector"):
        search_body({"vector": vector})


@pytest.mark.parametrize("image", ["missing.jpg", ".", "a\0b", "~no-such-user/a.jpg"])
def test_an_unreadable_image_is_named(image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be read") as raised:
        search_body({"image": image})
    assert repr(image) in str(raised.value)


def test_names_with_several_spellings_get_the_id_that_the_index_has() -> None:
    composed, plain = "s3://b/caf\u00e9.jpg", "s3://b/cafe.jpg"
    request: SearchRequest = {"queries": [Part(id=composed), Part(id=plain)]}
    assert spelled_names(request) == [composed]
    assert spelled_names({"id": "s3://b/\u8c48.jpg"}) == ["s3://b/\u8c48.jpg"]  # equal to U+F900
    assert spelled_names({"id": plain}) == spelled_names({"text": "a cat"}) == []
    parts = search_body(request, {composed: point_id("s3://b/cafe\u0301.jpg")})["queries"]
    assert [part["id"] for part in parts] == [point_id("s3://b/cafe\u0301.jpg"), point_id(plain)]
    assert search_body({"id": composed}) == {"id": point_id(composed)}


def test_an_image_is_named_by_the_relative_path_of_an_existing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.png").touch()
    monkeypatch.chdir(tmp_path)
    assert image_id("x.png") == image_id(str(tmp_path / "x.png"))
    for subject in ("y.png", "a" * 5000, "a\0b"):
        with pytest.raises(ConfigurationError, match="neither an id"):
            image_id(subject)


@pytest.mark.parametrize(
    ("options", "position"),
    [
        ({}, 10_000),
        ({"rank": "words"}, 500),
        ({"rank": "hybrid"}, 500),
        ({"target": "both"}, 500),
        ({"group_by": "tags"}, 500),
        ({"diversity": 0.5}, 100),
        ({"diversity": 0.5, "limit": 30}, 300),
        ({"diversity": 0.5, "limit": 200}, 500),
        ({"order_by": "size"}, 1_000),
        ({"order_by": "size", "rank": "words", "target": "both"}, 1_000),
        ({"order_by": "size", "target": "both"}, 2_000),
        ({"collapse": "exact", "target": "both"}, 1_000),
        ({"collapse": "near", "order_by": "size", "target": "both"}, 1_000),
        ({"collapse": "near", "diversity": 0.5, "limit": 30}, 300),
    ],
)
def test_all_hits_end_at_the_last_position_of_the_order(options: dict[str, Any], position: int) -> None:
    defaults = {"limit": 10, "target": "image", "rank": "clip"}
    defaults |= dict.fromkeys(("order_by", "diversity", "group_by", "collapse"))
    assert last_position(**{**defaults, **options}) == position
