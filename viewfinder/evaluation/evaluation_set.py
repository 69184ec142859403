"""Questions whose answers are known, and how well an index answers them.

A golden set is a JSONL file of `{"text": "a red car", "relevant": ["s3://bucket/1.jpg", ...]}`, local or `s3://`.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from viewfinder.errors import ConfigurationError, ObjectError
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import canonical_uri, point_id

DEPTHS = (1, 5, 10)
MAX_BYTES = 100 * 1024**2
_EXAMPLE = '{"text": "a red car", "relevant": ["s3://bucket/1.jpg"]}'


@dataclass(frozen=True)
class Question:
    """A text and the ids of all points that answer it."""

    text: str
    relevant: frozenset[str]


@dataclass(frozen=True)
class Quality:
    """Means over all questions, each 0..1.

    `recall[k]`: the part of the relevant points (of k, where there are more) among the first k hits. `mrr`: the
    reciprocal rank of the first relevant hit, 0 where none of the hits is. `ndcg`: normalised discounted cumulative
    gain of the first 10 hits with binary gains (Järvelin and Kekäläinen, 2002).
    """

    questions: int
    mrr: float
    ndcg: float
    recall: Mapping[int, float] = field(default_factory=dict)


def load(uri: str, objects: Objects) -> list[Question]:
    """The golden set in `uri`; raises `ConfigurationError` naming the line that is wrong."""
    try:
        content, _ = objects.read(canonical_uri(uri), MAX_BYTES)
    except ObjectError as error:
        raise ConfigurationError(f"The golden set {uri!r} cannot be read: {error.message}") from error
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"The golden set {uri!r} is not UTF-8 text: {error}") from error
    questions = [_question(uri, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise ConfigurationError(f"The golden set {uri!r} is empty; a line of it looks like {_EXAMPLE}")
    return questions


def quality(questions: Sequence[Question], answers: Iterable[Sequence[str]], depths: Sequence[int] = DEPTHS) -> Quality:
    """How good `answers` are: for each question the ids that were found, best first, as many as the largest depth."""
    recalls: dict[int, list[float]] = {depth: [] for depth in depths}
    reciprocal, gains = [], []
    for question, found in zip(questions, answers, strict=True):
        hits = [each in question.relevant for each in found]
        for depth in depths:
            recalls[depth].append(sum(hits[:depth]) / min(depth, len(question.relevant)))
        reciprocal.append(1 / (hits.index(True) + 1) if True in hits else 0.0)
        gains.append(_ndcg(hits[: DEPTHS[-1]], len(question.relevant)))
    recall = {depth: fmean(values) for depth, values in recalls.items()}
    return Quality(len(questions), fmean(reciprocal), fmean(gains), recall)


def _ndcg(hits: Sequence[bool], relevant: int) -> float:
    gained = sum(1 / math.log2(rank + 1) for rank, hit in enumerate(hits, 1) if hit)
    return gained / sum(1 / math.log2(rank + 1) for rank in range(1, min(relevant, DEPTHS[-1]) + 1))


def _question(uri: str, number: int, line: str) -> Question:
    try:
        record = json.loads(line)
        text, relevant = record["text"], record["relevant"]
    except (ValueError, LookupError, TypeError) as error:
        raise _wrong(uri, number, line) from error
    fits = isinstance(relevant, list) and relevant and all(isinstance(each, str) and each for each in relevant)
    if not (isinstance(text, str) and text.strip() and fits):
        raise _wrong(uri, number, line)
    return Question(text, frozenset(point_id(canonical_uri(each)) for each in relevant))


def _wrong(uri: str, number: int, line: str) -> ConfigurationError:
    return ConfigurationError(
        f"The golden set {uri!r} has a wrong line {number}: {line[:80]!r}. A line looks like {_EXAMPLE}"
    )
