"""Golden sets: read, refused with their line, and turned into figures that are worked out by hand here."""

import math
from pathlib import Path

import pytest

from viewfinder.errors import ConfigurationError
from viewfinder.evaluation.evaluation_set import Question, load, quality
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import point_id


def test_a_golden_set_names_points_by_their_uris(tmp_path: Path) -> None:
    file = tmp_path / "golden.jsonl"
    file.write_text(
        '{"text": "a cat", "relevant": ["s3://b/1.jpg", "s3://b/2.jpg"]}\n\n{"text": "狗", "relevant": ["s3://b/3.jpg"]}\n'
    )
    with Objects() as objects:
        questions = load(str(file), objects)
    assert [each.text for each in questions] == ["a cat", "狗"]
    assert questions[0].relevant == {point_id("s3://b/1.jpg"), point_id("s3://b/2.jpg")}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b'{"text": "a"}', "line 1"),
        (b'{"text": "a", "relevant": ["s3://b/1"]}\n{"text": "", "relevant": ["s3://b/1"]}', "line 2"),
        (b'{"text": "a", "relevant": []}', "line 1"),
        (b'{"text": "a", "relevant": "s3://b/1"}', "line 1"),
        (b"[1]", "line 1"),
        (b"no json", "line 1"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_wrong_golden_set_is_told_with_its_line(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "golden.jsonl"
    file.write_bytes(content)
    with Objects() as objects, pytest.raises(ConfigurationError, match=told):
        load(str(file), objects)


def test_a_golden_set_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    with Objects() as objects, pytest.raises(ConfigurationError, match=r"nowhere\.jsonl"):
        load(str(tmp_path / "nowhere.jsonl"), objects)


def test_the_figures_are_those_worked_out_by_hand() -> None:
    questions = [Question("one", frozenset("a")), Question("two", frozenset("bc")), Question("none", frozenset("z"))]
    answers = [["x", "a", "y"], ["b", "x", "x", "x", "x", "x", "c"], ["x"] * 10]
    found = quality(questions, answers)
    assert found.questions == 3
    assert found.recall[1] == pytest.approx((0 + 1 + 0) / 3)
    assert found.recall[5] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found.recall[10] == pytest.approx((1 + 1 + 0) / 3)
    assert found.mrr == pytest.approx((1 / 2 + 1 + 0) / 3)
    second = (1 + 1 / math.log2(8)) / (1 + 1 / math.log2(3))
    assert found.ndcg == pytest.approx((1 / math.log2(3) + second + 0) / 3)
