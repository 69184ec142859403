"""Evaluation sets and quality figures, compared with figures worked out by hand."""

import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from viewfinder.errors import ConfigurationError
from viewfinder.evaluation.evaluation_set import LabelledQuery, as_stored, load_evaluation_set, score
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import point_id


def test_an_evaluation_set_names_points_by_their_uris(tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text(
        '{"text": "a cat", "relevant": ["s3://b/1.jpg", "s3://b/2.jpg"]}\n\n{"text": "狗", "relevant": ["s3://b/3.jpg"]}\n'
    )
    with Objects() as objects:
        queries = load_evaluation_set(str(file), objects)
    assert [each.text for each in queries] == ["a cat", "狗"]
    assert queries[0].relevant == {point_id("s3://b/1.jpg"), point_id("s3://b/2.jpg")}


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_a_name_means_the_image_in_the_spelling_that_is_stored(tmp_path: Path, forms: tuple[Any, Any]) -> None:
    typed, stored = (unicodedata.normalize(form, "s3://b/caf\u00e9/m\u00fc.jpg") for form in forms)
    file = tmp_path / "queries.jsonl"
    file.write_text(json.dumps({"text": "a cat", "relevant": [typed, "s3://b/2.jpg"]}, ensure_ascii=False))
    with Objects() as objects:
        queries = load_evaluation_set(str(file), objects)
    (query,) = as_stored(queries, lambda ids: {point_id(stored)} & set(ids))
    assert query.relevant == {point_id(stored), point_id("s3://b/2.jpg")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b'{"text": "a"}', "Line 1"),
        (b'{"text": "a", "relevant": ["s3://b/1"]}\n{"text": "", "relevant": ["s3://b/1"]}', "Line 2"),
        (b'{"text": "a", "relevant": []}', "Line 1"),
        (b'{"text": "a", "relevant": "s3://b/1"}', "Line 1"),
        (b"[1]", "Line 1"),
        (b"no json", "Line 1"),
        (b"[" * 100_000, "Line 1"),
        (b'{"text": "a", "relevant": ["s3://"]}', "Line 1 of the evaluation set"),
        (b'{"text": "\\ud800", "relevant": ["s3://b/1"]}', "Line 1"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_an_invalid_evaluation_set_is_refused_naming_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_bytes(content)
    with Objects() as objects, pytest.raises(ConfigurationError, match=message):
        load_evaluation_set(str(file), objects)


def test_a_byte_order_mark_and_any_unicode_inside_a_string_are_read(tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    line = '{"text": "a\u2028b\u0085c", "relevant": ["s3://b/1.jpg"]}'
    file.write_bytes(f"\ufeff{line}\r\n{line}\n".encode())
    with Objects() as objects:
        assert [each.text for each in load_evaluation_set(str(file), objects)] == ["a\u2028b\u0085c"] * 2


def test_a_missing_evaluation_set_is_refused_by_name(tmp_path: Path) -> None:
    with Objects() as objects, pytest.raises(ConfigurationError, match=r"nowhere\.jsonl"):
        load_evaluation_set(str(tmp_path / "nowhere.jsonl"), objects)


def test_the_figures_are_as_worked_out_by_hand() -> None:
    relevant = {"one": "a", "two": "bc", "none": "z"}
    queries = [LabelledQuery(text, frozenset(ids)) for text, ids in relevant.items()]
    answers = [["x", "a", "y"], ["b", "x", "x", "x", "x", "x", "c"], ["x"] * 10]
    found = score(queries, answers)
    assert found.queries == 3
    assert found.recall[1] == pytest.approx((0 + 1 + 0) / 3)
    assert found.recall[5] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found.recall[10] == pytest.approx((1 + 1 + 0) / 3)
    assert found.mrr == pytest.approx((1 / 2 + 1 + 0) / 3)
    second = (1 + 1 / math.log2(8)) / (1 + 1 / math.log2(3))
    assert found.ndcg == pytest.approx((1 / math.log2(3) + second + 0) / 3)
