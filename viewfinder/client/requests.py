"""Search requests, and their conversion to JSON."""

import base64
import math
import os
import unicodedata
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, cast

from viewfinder.errors import ConfigurationError
from viewfinder.sources.uris import canonical_uri, has_one_spelling, point_id

# Categories of Unicode: separators, control and format characters, surrogates, accents.
_INVISIBLE = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Mn"})
# Fillers of Hangul, which count as letters, and the empty pattern of Braille.
_FILLER_LETTERS = frozenset("\u115f\u1160\u3164\uffa0\u2800")

Target = Literal["image", "caption", "both"]
Rank = Literal["clip", "words", "hybrid"]
Collapse = Literal["exact", "near"]

DEFAULT_LIMIT, MAX_LIMIT = 10, 200
# The pages of a search end there: by the cosine of one vector, and in any other order.
MAX_HITS, MAX_RANKED_HITS = 10_000, 500

# Images above the threshold that a search with `order_by` orders, those of each target.
MAX_ORDERED = 1_000

# The first hits of an order that are compared where equal or similar images are collapsed, and of those collapsed into
# one hit the number that are listed.
MAX_COLLAPSED, MAX_SIMILAR = 1_000, 10
DEFAULT_COLLAPSE_THRESHOLD = 0.96

# Of the nearest images from which a search with diversity chooses; with fewer it would only reorder them.
_CANDIDATES_PER_HIT, _MIN_CANDIDATES, _MAX_CANDIDATES = 10, 100, 1_000

# Hits of one group, and of all searches of one batch: as many as one search returns in groups.
DEFAULT_GROUP_SIZE, MAX_GROUP_SIZE = 3, 10
MAX_BATCH_HITS = MAX_LIMIT * MAX_GROUP_SIZE
# Maximum number of texts and images in one request.
MAX_BATCH = 64
# Searches of one batch that compare images by their vectors, about 10 MB of JSON from the store for each.
MAX_BATCH_NEAR = 4

ImageInput: TypeAlias = str | os.PathLike[str] | bytes
"""The path of an image file, or its content."""


class SearchOptions(TypedDict, total=False):
    """The options of a search; None means the default of the service."""

    index: str | None  # name of the index; by default that of the client, else the service's
    target: Target | None  # compare with the images ("image", the default), with their captions, or with both
    rank: Rank | None  # order by the model ("clip", the default), by the words of the captions, or by both
    weights: Mapping[str, float] | None  # for rank "hybrid": {"clip": 1, "words": 1}
    limit: int | None  # maximum number of hits, 1 to 200; default 10
    offset: int | None  # number of best hits to skip; default 0
    cursor: str | None  # from the previous page, instead of an offset
    filter: Mapping[str, Any] | None  # conditions on the payload: {"width": {"gte": 800}}
    order_by: str | None  # a field of numbers or dates: "size", or "-size" from the largest on
    min_relevance: float | None  # skip hits with a lower relevance, 0 to 1
    score_threshold: float | None  # skip hits with a lower cosine; not with rank "words" or "hybrid"
    diversity: float | None  # variety among the hits, 0 to 1; default 0
    group_by: str | None  # payload field whose values group the hits
    group_size: int | None  # hits in each group, 1 to 10; default 3
    collapse: Collapse | None  # one hit for copies of an image ("exact"), or for similar images ("near")
    collapse_threshold: float | None  # for "near": the lowest cosine of images that are similar; default 0.96


class SearchRequest(SearchOptions, total=False):
    """A search: exactly one of text, image, image_url, id, vector and queries, plus options.

    Without any of these, `filter` or `order_by` list images in the order of a field, by default the newest first.
    """

    text: str | None
    image: ImageInput | None
    image_url: str | None  # public address; the service must be allowed to fetch it
    id: str | None  # id or URI of an image of the index
    vector: Iterable[float] | None  # as many numbers as the model's dimension
    queries: "Sequence[Part] | None"


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One part of a combined query: a text, image, address, id or vector.

    A negative weight moves the query away from the part: `[Part(text="a dog"), Part(text="grass", weight=-0.5)]`.
    """

    text: str | None = None
    image: ImageInput | None = None
    image_url: str | None = None
    id: str | None = None
    vector: Iterable[float] | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        given = [each.name for each in fields(self) if each.name != "weight" and getattr(self, each.name) is not None]
        if len(given) != 1:
            kinds = ", ".join(each.name for each in fields(self) if each.name != "weight")
            raise ConfigurationError(f"A part of a query needs exactly one of {kinds}, not {given or 'none of them'}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class NewImage:
    """An image to index, with its caption: an object in a source of the index, or the content of a new image.

    `uri` is that of the object (s3://BUCKET/KEY, or a path on the machine of the service), `image` a file on this
    machine or its content. What is None of the caption stays as it is.
    """

    uri: str | None = None
    image: ImageInput | None = None
    caption: str | None = None
    tags: Sequence[str] | None = None
    meta: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if (self.uri is None) == (self.image is None):
            raise ConfigurationError("A new image needs either uri or image.")


def new_image_body(image: str | NewImage) -> dict[str, Any]:
    """The JSON object of an image to index; a text is its URI. Raises `ConfigurationError` for an unreadable file."""
    if isinstance(image, str):
        return {"uri": image}
    given = {each.name: getattr(image, each.name) for each in fields(image) if getattr(image, each.name) is not None}
    return given if image.image is None else {**given, "image": image_base64(image.image)}


def search_request(query: str | SearchRequest | None, options: Mapping[str, Any]) -> SearchRequest:
    """A request from a text or a request, with `options` as defaults."""
    given: Mapping[str, Any] = {"text": query} if isinstance(query, str) else query or {}
    return cast(SearchRequest, {**options, **given})


def next_page(request: SearchRequest, cursor: str | None) -> SearchRequest | None:
    """The request for the page after `cursor`; None after the last page."""
    return None if cursor is None else {**request, "offset": None, "cursor": cursor}


def image_names(request: Mapping[str, Any]) -> list[str]:
    """The images of the index that a request names, by id, URI or path."""
    named = [request.get("id"), *(getattr(part, "id", None) for part in request.get("queries") or ())]
    return [each for each in named if isinstance(each, str)]


def spelled_names(request: Mapping[str, Any]) -> list[str]:
    """The images that a request names by a URI with several spellings: only the index knows which one it has."""
    return [each for each in image_names(request) if not has_one_spelling(image_uri(each) or "")]


def search_body(request: Mapping[str, Any], ids: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON object of a `SearchRequest`; `ids` are those of its `spelled_names`.

    Raises `TypeError` for an unknown option, and `ConfigurationError` for an image that cannot be read, an invalid id,
    and a vector with numbers that are not finite.
    """
    if unknown := request.keys() - SearchRequest.__annotations__.keys():
        known = ", ".join(SearchRequest.__annotations__)
        raise TypeError(f"a search has no option {sorted(unknown)}; it has {known}")
    return {name: _plain(name, value, ids or {}) for name, value in request.items() if value is not None}


def batch_share(body: Mapping[str, Any]) -> int:
    """The share of a batch, in `MAX_BATCH` parts, that a search takes by its inputs, its hits or what it compares."""
    hits = _whole_number(body, "limit", DEFAULT_LIMIT)
    if body.get("group_by"):
        hits *= _whole_number(body, "group_size", DEFAULT_GROUP_SIZE)
    compared = MAX_BATCH // MAX_BATCH_NEAR if body.get("collapse") == "near" else 0
    return max(len(body.get("queries", [None])), math.ceil(hits * MAX_BATCH / MAX_BATCH_HITS), compared)


def _whole_number(body: Mapping[str, Any], name: str, default: int) -> int:
    given = body.get(name)
    return given if isinstance(given, int) else default  # the service refuses anything else


def diverse_candidates(limit: int) -> int:
    """The number of nearest images from which a search with diversity chooses."""
    return min(max(_MIN_CANDIDATES, _CANDIDATES_PER_HIT * limit), _MAX_CANDIDATES)


def last_position(
    limit: int,
    *,
    target: Target,
    rank: Rank,
    order_by: str | None,
    diversity: float | None,
    group_by: str | None,
    collapse: Collapse | None,
) -> int:
    """The number of hits, or groups, after which the pages of a search end; without a query they do not."""
    if collapse:
        return min(MAX_COLLAPSED, diverse_candidates(limit)) if diversity else MAX_COLLAPSED
    if order_by:
        return MAX_ORDERED * (2 if target == "both" and rank == "clip" else 1)
    if diversity:
        return min(MAX_RANKED_HITS, diverse_candidates(limit))
    by_cosine = target != "both" and rank == "clip" and not group_by
    return MAX_HITS if by_cosine else MAX_RANKED_HITS


def is_blank(text: str) -> bool:
    """Return True for a text of nothing but spaces, control characters, invisible characters and lone accents."""
    return all(unicodedata.category(each) in _INVISIBLE or each in _FILLER_LETTERS for each in text)


def image_base64(image: ImageInput) -> str:
    """The content of an image in base64. Raises `ConfigurationError` if a file cannot be read."""
    return base64.b64encode(image_bytes(image)).decode("ascii")


def image_bytes(image: ImageInput) -> bytes:
    """The content of an image file. Raises `ConfigurationError` if it cannot be read."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if not isinstance(image, (str, os.PathLike)):
        raise TypeError(f"an image is a path or the bytes of a file, not {type(image).__name__}")
    try:
        return Path(image).expanduser().read_bytes()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: the home directory of an unknown user
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise ConfigurationError(f"The image {os.fspath(image)!r} cannot be read: {why}.") from error


def image_id(subject: str) -> str:
    """The id of an image, from its id, its URI, an absolute path, or the relative path of an existing file.

    Raises `ConfigurationError`.
    """
    try:
        return str(uuid.UUID(subject))
    except ValueError:
        pass
    # A relative path must exist, so that a mistyped id is not taken for one.
    if "://" in subject or subject.startswith("/") or _is_file(subject):
        return point_id(canonical_uri(subject))
    raise ConfigurationError(
        f"{subject!r} is neither an id, a URI (s3://BUCKET/KEY), an absolute path nor a file in this directory."
    )


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long, or with a NUL character
        return False


def image_uri(subject: str) -> str | None:
    """The canonical URI that names an image; None for an id. Raises `ConfigurationError`."""
    id_ = image_id(subject)
    uri = canonical_uri(subject)  # an id would be the path of another image
    return uri if point_id(uri) == id_ else None


def _plain(name: str, value: Any, ids: Mapping[str, str]) -> Any:
    match name:
        case "image":
            return image_base64(value)
        case "id":
            return ids.get(value) or image_id(value)
        case "vector":
            return _vector_numbers(value)
        case "queries":
            return [_part(part, ids) for part in value]
        case _:
            return value


def _part(part: Part, ids: Mapping[str, str]) -> dict[str, Any]:
    given = {each.name: getattr(part, each.name) for each in fields(part)}
    return {name: _plain(name, value, ids) for name, value in given.items() if value is not None}


def rank_body(
    query: Mapping[str, Any], texts: Iterable[str] | None, images: "Iterable[ImageInput | Part] | None"
) -> dict[str, Any]:
    """The request of a ranking. Raises `TypeError` unless it is an image with texts, or a text with images."""
    given = {name: value for name, value in query.items() if value is not None}
    if texts is not None and images is None and len(given) == 1 and "text" not in given:
        return {name: _plain(name, value, {}) for name, value in given.items()} | {"texts": list(texts)}
    if images is not None and texts is None and given.keys() == {"text"}:
        return given | {"images": list(map(_candidate, images))}
    raise TypeError("rank takes an image (image, image_url or id) and texts, or text and images")


def _candidate(image: ImageInput | Part) -> str | dict[str, Any]:
    if not isinstance(image, Part):
        return image_base64(image)
    if image.text is not None or image.vector is not None or image.weight != 1:
        raise TypeError("an image of rank is a file, or Part with image, image_url or id and no weight")
    return {name: value for name, value in _part(image, {}).items() if name != "weight"}


def _vector_numbers(vector: Iterable[float]) -> list[float]:
    """A list of floats from any sequence of numbers, including numpy arrays and tensors."""
    try:
        numbers = [float(number) for number in vector]
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"A vector must be a flat sequence of numbers: {error}.") from error
    if not all(map(math.isfinite, numbers)):
        raise ConfigurationError("The vector contains numbers that are not finite.")
    return numbers
