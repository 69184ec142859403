"""What can be asked of a search service, and how it is written as JSON."""

import base64
import math
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, cast

from viewfinder.errors import ConfigurationError
from viewfinder.sources.uris import canonical_uri, point_id

Target = Literal["image", "caption", "both"]
Rank = Literal["clip", "words", "hybrid"]

Picture: TypeAlias = str | os.PathLike[str] | bytes
"""The path of a picture file, or its content."""


class SearchOptions(TypedDict, total=False):
    """What a search may say besides what it looks for; None leaves the service's own default."""

    target: Target | None  # compare with the pictures ("image", the default), with their captions, or with both
    rank: Rank | None  # by the model ("clip", the default), by the words of the captions, or by both
    weights: Mapping[str, float] | None  # of a hybrid: {"clip": 1, "words": 1}
    limit: int | None  # largest number of hits, 1 to 200; 10
    offset: int | None  # hits to leave out, from the best; 0
    cursor: str | None  # of the page before, instead of an offset
    filter: Mapping[str, Any] | None  # conditions on the payload: {"width": {"gte": 800}}
    score_threshold: float | None  # leave out hits whose cosine is lower; not where the order is by rank
    diversity: float | None  # 0 to 1: how far hits shall differ from each other; 0
    group_by: str | None  # a payload field: hits by its values
    group_size: int | None  # hits of each group, 1 to 10; 3


class SearchRequest(SearchOptions, total=False):
    """A whole search: exactly one thing to look for, and options."""

    text: str | None
    image: Picture | None
    image_url: str | None  # which the service must be allowed to fetch
    id: str | None  # of a picture in the index, or its URI
    vector: Iterable[float] | None  # as many numbers as the model's dimension
    queries: "Sequence[Part] | None"


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One of several things that a search adds up: a text, picture, address, id or vector.

    A negative weight leads away from it: `[Part(text="a dog"), Part(text="grass", weight=-0.5)]`.
    """

    text: str | None = None
    image: Picture | None = None
    image_url: str | None = None
    id: str | None = None
    vector: Iterable[float] | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        given = [each.name for each in fields(self) if each.name != "weight" and getattr(self, each.name) is not None]
        if len(given) != 1:
            kinds = ", ".join(each.name for each in fields(self) if each.name != "weight")
            raise ConfigurationError(f"A part of a query is exactly one of {kinds}, not {given or 'none of them'}.")


def asked(what: str | SearchRequest | None, options: Mapping[str, Any]) -> SearchRequest:
    """A text or a request, with options for what it does not say itself."""
    given: Mapping[str, Any] = {"text": what} if isinstance(what, str) else what or {}
    return cast(SearchRequest, {**options, **given})


def next_page(request: SearchRequest, cursor: str | None) -> SearchRequest | None:
    """The same request for what follows; None where nothing does."""
    return None if cursor is None else {**request, "offset": None, "cursor": cursor}


def search_body(request: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object of a `SearchRequest`.

    Raises `TypeError` for what no search has, and `ConfigurationError` for a picture that cannot be read, an id that is
    none, and a vector that is not made of finite numbers.
    """
    if unknown := request.keys() - SearchRequest.__annotations__.keys():
        known = ", ".join(SearchRequest.__annotations__)
        raise TypeError(f"a search has no option {sorted(unknown)}; it has {known}")
    return {name: _plain(name, value) for name, value in request.items() if value is not None}


def picture_base64(picture: Picture) -> str:
    """The content of a picture as the service takes it. Raises `ConfigurationError` where a file cannot be read."""
    return base64.b64encode(picture_bytes(picture)).decode("ascii")


def picture_bytes(picture: Picture) -> bytes:
    """The content of a picture, of whatever format. Raises `ConfigurationError` where a file cannot be read."""
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return bytes(picture)
    if not isinstance(picture, (str, os.PathLike)):
        raise TypeError(f"a picture is a path or the bytes of a file, not {type(picture).__name__}")
    try:
        return Path(picture).expanduser().read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"The picture {os.fspath(picture)!r} cannot be read: {why}.") from error


def image_id(subject: str) -> str:
    """The id of a picture that is named by its id, its URI or its absolute path. Raises `ConfigurationError`."""
    try:
        return str(uuid.UUID(subject))
    except ValueError:
        pass
    # Anything else would count as a relative path, and an id with a typing error as a picture that nobody has.
    if "://" in subject or subject.startswith("/"):
        return point_id(canonical_uri(subject))
    raise ConfigurationError(f"{subject!r} names no picture: give an id, a URI (s3://BUCKET/KEY) or an absolute path.")


def _plain(name: str, value: Any) -> Any:
    match name:
        case "image":
            return picture_base64(value)
        case "id":
            return image_id(value)
        case "vector":
            return _numbers(value)
        case "queries":
            return [_part(part) for part in value]
        case _:
            return value


def _part(part: Part) -> dict[str, Any]:
    given = {each.name: getattr(part, each.name) for each in fields(part)}
    return {name: _plain(name, value) for name, value in given.items() if value is not None}


def _numbers(vector: Iterable[float]) -> list[float]:
    """Any sequence of numbers, an array of numpy or a tensor too, without knowing either."""
    try:
        numbers = [float(number) for number in vector]
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"A vector is a flat sequence of numbers: {error}.") from error
    if not all(map(math.isfinite, numbers)):
        raise ConfigurationError("The vector holds numbers that are not finite.")
    return numbers
