"""Queries with known answers, and the quality of an index's answers to them.

An evaluation set is a JSONL file of `{"text": "a red car", "relevant": ["s3://bucket/1.jpg", ...]}`, local or `s3://`.
"""

import json
import math
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from viewfinder.errors import ConfigurationError, ObjectError, SourceError
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import canonical_uri, point_id, spellings

DEPTHS = (1, 5, 10)
_MAX_SET_BYTES = 100 * 1024**2
# Not str.splitlines, because JSON may contain U+2028 and U+0085 as they are.
_LINE_END = re.compile(r"\r\n|\r|\n")
_EXAMPLE = '{"text": "a red car", "relevant": ["s3://bucket/1.jpg"]}'


@dataclass(frozen=True)
class LabelledQuery:
    """A query text and the ids of all points that are relevant to it.

    `spelled` are the ids of the other spellings of a URI, by the id of the given one.
    """

    text: str
    relevant: frozenset[str]
    spelled: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Quality:
    """Means over all queries, each 0..1.

    `recall[k]`: the share of the relevant points (of k, if there are more than k) among the first k hits. `mrr`: the
    reciprocal rank of the first relevant hit, 0 if no hit is relevant. `ndcg`: normalised discounted cumulative gain of
    the first 10 hits with binary gains (Järvelin and Kekäläinen, 2002).
    """

    queries: int
    mrr: float
    ndcg: float
    recall: Mapping[int, float] = field(default_factory=dict)


def load_evaluation_set(uri: str, objects: Objects) -> list[LabelledQuery]:
    """Read an evaluation set; raises `ConfigurationError` that names an invalid line."""
    try:
        content, _ = objects.read(canonical_uri(uri), _MAX_SET_BYTES)
    except ObjectError as error:
        raise ConfigurationError(f"The evaluation set {uri!r} cannot be read: {error.message}") from error
    try:
        lines = _LINE_END.split(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"The evaluation set {uri!r} is not UTF-8 text: {error}") from error
    queries = [_parse_line(uri, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not queries:
        raise ConfigurationError(f"The evaluation set {uri!r} is empty. Each line must look like {_EXAMPLE}")
    return queries


def as_stored(
    queries: Sequence[LabelledQuery], existing: Callable[[Sequence[str]], Container[str]]
) -> list[LabelledQuery]:
    """Replace the ids of relevant points that do not exist by those of other spellings of their URIs that do.

    A person types composed letters where macOS has stored separate accents. `existing` returns the ids that exist.
    """
    other = {id_: ids for query in queries for id_, ids in query.spelled.items()}
    found = existing([*other, *(each for ids in other.values() for each in ids)]) if other else ()

    def stored(id_: str) -> str:
        return next((each for each in (id_, *other.get(id_, ())) if each in found), id_)

    return [replace(query, relevant=frozenset(map(stored, query.relevant))) for query in queries]


def score(
    queries: Sequence[LabelledQuery], answers: Iterable[Sequence[str]], depths: Sequence[int] = DEPTHS
) -> Quality:
    """Compute the quality of `answers`: for each query the ids found, best first, up to the largest depth."""
    recalls: dict[int, list[float]] = {depth: [] for depth in depths}
    reciprocal_ranks, gains = [], []
    for query, found in zip(queries, answers, strict=True):
        hits = [id_ in query.relevant for id_ in found]
        for depth in depths:
            recalls[depth].append(sum(hits[:depth]) / min(depth, len(query.relevant)))
        reciprocal_ranks.append(1 / (hits.index(True) + 1) if True in hits else 0.0)
        gains.append(_ndcg(hits[: DEPTHS[-1]], len(query.relevant)))
    recall = {depth: fmean(values) for depth, values in recalls.items()}
    return Quality(len(queries), fmean(reciprocal_ranks), fmean(gains), recall)


def _ndcg(hits: Sequence[bool], relevant: int) -> float:
    gained = sum(1 / math.log2(rank + 1) for rank, hit in enumerate(hits, 1) if hit)
    return gained / sum(1 / math.log2(rank + 1) for rank in range(1, min(relevant, DEPTHS[-1]) + 1))


def _parse_line(uri: str, number: int, line: str) -> LabelledQuery:
    try:
        record = json.loads(line)
        text, relevant = record["text"], record["relevant"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _line_error(uri, number, line) from error
    valid = isinstance(relevant, list) and relevant and all(isinstance(each, str) and each for each in relevant)
    if not (isinstance(text, str) and text.strip() and valid):
        raise _line_error(uri, number, line)
    try:
        "".join([text, *relevant]).encode()  # not a lone surrogate
        ids = [[point_id(spelling) for spelling in spellings(canonical_uri(each))] for each in relevant]
    except SourceError as error:
        raise ConfigurationError(f"Line {number} of the evaluation set {uri!r}: {error}") from error
    except UnicodeEncodeError as error:
        raise _line_error(uri, number, line) from error
    return LabelledQuery(text, frozenset(first for first, *_ in ids), {first: rest for first, *rest in ids if rest})


def _line_error(uri: str, number: int, line: str) -> ConfigurationError:
    return ConfigurationError(
        f"Line {number} of the evaluation set {uri!r} is invalid: {line[:80]!r}. A line must look like {_EXAMPLE}"
    )
