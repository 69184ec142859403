"""Random points and filters, and a plain evaluator of filters that shares no code with the package."""

import random
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

FIELDS = {
    "meta.year": "integer",
    "meta.ratio": "float",
    "meta.taken": "datetime",
    "meta.flash": "bool",
    "meta.place.city": "keyword",
    "meta.shot by": "keyword",
    "meta.colours": "keyword",
    "meta.notes": "text",
}
NUMBERS = ("width", "size", "meta.year", "meta.ratio")
DATES = ("last_modified", "meta.taken")
KEYWORDS = ("format", "bucket", "tags", "meta.place.city", "meta.shot by", "meta.colours")
FLAGS = ("has_image", "has_caption", "meta.flash")
TEXTS = ("caption", "meta.notes")

# A word as captions have it, and as a person may type it.
WORDS = {
    "cats": ("cat", "Cats", "CAT"),
    "dog": ("dogs", "dog"),
    "beaches": ("beach",),
    "running": ("run", "runs"),
    "caf\u00e9": ("cafe\u0301", "CAF\u00c9"),
    "\u732b": ("\u732b",),
    "\u6d77\u6ee9": ("\u6d77\u6ee9", "\u6ee9"),
    "\u043a\u043e\u0448\u043a\u0438": ("\u043a\u043e\u0448\u043a\u0430",),
}
CITIES = ("Rome", "S\u00e3o Paulo", "\u6771\u4eac", "New York", "a/b")
DAY = datetime(2024, 2, 28, tzinfo=UTC)


def payloads(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Random payloads; each field is missing, null or empty in some."""
    return [_payload(rng, row) | _hash_of_image(row) for row in range(count)]


def _hash_of_image(row: int) -> dict[str, Any]:
    """One of eleven images, or none."""
    return {"image_hash": str(UUID(int=row * row % 11))} if row % 5 else {}


def _payload(rng: random.Random, row: int) -> dict[str, Any]:
    def maybe(value: Any) -> Any:
        return value if rng.random() < 0.8 else rng.choice([None, "absent"])

    meta = {
        "year": maybe(rng.choice([rng.randint(2018, 2024), rng.sample(range(2018, 2025), rng.randint(0, 3))])),
        "ratio": maybe(rng.choice([1, 1.0, 2, 1.5, 0.1, -3.25, 1e9])),
        "taken": maybe(_stored_date(rng)),
        "flash": maybe(rng.random() < 0.5),
        "place": maybe(_present({"city": maybe(_spelled(rng, rng.choice(CITIES)))})),
        "shot by": maybe(rng.choice(["Ann", "Bob"])),
        "colours": maybe(rng.sample(["red", "green", "blue"], rng.randint(0, 3))),
        "notes": maybe(_text(rng)),
    }
    whole = {
        "uri": f"s3://b/{row}",
        "format": maybe(rng.choice(["jpeg", "png", "webp"])),
        "bucket": rng.choice(["b1", "b2"]),
        "tags": maybe(rng.sample(["sea", "sky", "caf\u00e9"], rng.randint(0, 3))),
        "width": maybe(rng.randint(1, 6) * 100),
        "size": rng.choice([0, 1, 2**40, 2**53 - 1]),
        "last_modified": maybe(_stored_date(rng)),
        "caption": maybe(_text(rng)),
        "meta": _present(meta),
    }
    return _present(whole)


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value != "absent"}


def _stored_date(rng: random.Random) -> str:
    moment = DAY + timedelta(hours=rng.randint(0, 80))
    day, time = f"{moment:%Y-%m-%d}", f"{moment:%H:%M:%S}"
    return rng.choice((moment.isoformat(), day, f"{day}T{time}Z", f"{day} {time}+02:00"))


def _asked_date(rng: random.Random) -> str:
    moment = DAY + timedelta(hours=rng.randint(0, 80))
    written = (f"{moment:%Y-%m-%d}", f"{moment:%Y-%m-%d}+02:00", moment.isoformat(), f"{moment:%Y-%m-%dT%H:%M}Z")
    return rng.choice(written)


def _text(rng: random.Random) -> str:
    return ", ".join(_spelled(rng, word) for word in rng.sample(list(WORDS), rng.randint(1, 4)))


def _spelled(rng: random.Random, text: str) -> str:
    """Each letter composed or not."""
    return "".join(unicodedata.normalize(rng.choice(("NFC", "NFD")), letter) for letter in composed(text))


# -- Filters --------------------------------------------------------------------------------------------------------


def filters(rng: random.Random, points: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """Random filters that use every operator, with values that some points have."""
    return [_filter(rng, points, depth=3) for _ in range(count)]


def _filter(rng: random.Random, points: Sequence[Mapping[str, Any]], depth: int) -> dict[str, Any]:
    kind = rng.choice(["field", "field", "and", "or", "not"]) if depth > 1 else "field"
    if kind == "not":
        return {"not": _filter(rng, points, depth - 1)}
    if kind in ("and", "or"):
        return {kind: [_filter(rng, points, depth - 1) for _ in range(rng.randint(1, 3))]}
    made: dict[str, Any] = {}
    for _ in range(rng.randint(1, 2)):
        name, condition = _condition(rng, points)
        made.setdefault(name, {}).update(condition)
    return made


def _condition(rng: random.Random, points: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    name = rng.choice([*NUMBERS, *DATES, *KEYWORDS, *FLAGS, *TEXTS])
    if rng.random() < 0.1:
        return name, {rng.choice(["eq", "ne"]): None}
    if name in TEXTS:
        words = rng.sample(list(WORDS), rng.randint(1, 2))
        return name, {"text": " ".join(rng.choice(WORDS[word]) for word in words)}
    values = [_asked(rng, name, points) for _ in range(rng.randint(1, 3))]
    operators = ["eq", "ne", "in", *(["gt", "gte", "lt", "lte"] if name in (*NUMBERS, *DATES) else [])]
    operator = rng.choice(operators)
    return name, {operator: values if operator == "in" else values[0]}


def _asked(rng: random.Random, name: str, points: Sequence[Mapping[str, Any]]) -> Any:
    if name in DATES:
        return _asked_date(rng)
    if name in FLAGS:
        return rng.random() < 0.5
    known = [value for payload in points for value in values_in(payload, name)]
    value = rng.choice(known)
    if name in NUMBERS:
        return rng.choice([value, float(value), value + rng.choice([-1, 1, 0.5])])
    return _spelled(rng, value)


# -- The evaluator --------------------------------------------------------------------------------------------------


def matches(expression: Mapping[str, Any], payload: Mapping[str, Any]) -> bool:
    """Return True if a payload matches a filter, by the rules of docs/searching.md."""
    return all(_matches_key(key, value, payload) for key, value in expression.items())


def _matches_key(key: str, value: Any, payload: Mapping[str, Any]) -> bool:
    if key == "and":
        return all(matches(each, payload) for each in value)
    if key == "or":
        return any(matches(each, payload) for each in value)
    if key == "not":
        return not matches(value, payload)
    values = list(values_in(payload, key))
    return all(_holds(key, operator, operand, values) for operator, operand in value.items())


def _holds(name: str, operator: str, operand: Any, values: list[Any]) -> bool:
    if operator == "ne":
        return not _holds(name, "eq", operand, values)
    if operator == "in":
        return any(_holds(name, "eq", each, values) for each in operand)
    if operand is None:
        return not values
    if operator == "text":
        return any(_lemmas_asked(operand) <= _lemmas_stored(each) for each in values)
    return any(_compare(name, operator, each, operand) for each in values)


def _compare(name: str, operator: str, value: Any, operand: Any) -> bool:
    if name in DATES:
        begin, end = _period(operand)
        moment = _moment(value)
        return {
            "eq": begin <= moment < end,
            "gt": moment >= end,
            "gte": moment >= begin,
            "lt": moment < begin,
            "lte": moment < end,
        }[operator]
    if name in NUMBERS:
        return {
            "eq": value == operand,
            "gt": value > operand,
            "gte": value >= operand,
            "lt": value < operand,
            "lte": value <= operand,
        }[operator]
    if isinstance(value, str):
        return composed(value) == composed(operand)
    return bool(value is operand)


def values_in(payload: Any, name: str) -> Iterator[Any]:
    """Yield the values that a field has, those of a list one by one, none for null."""
    for part in name.split("."):
        payload = payload.get(part) if isinstance(payload, Mapping) else None
    for value in payload if isinstance(payload, list) else [payload]:
        if value is not None:
            yield value


def in_order(points: Mapping[str, Mapping[str, Any]], field: str, *, descending: bool) -> list[str]:
    """Return ids by the first of their values in an order, then by id; those without a value last."""

    def place(id_: str) -> tuple[bool, float, str]:
        values = [_moment(each).timestamp() if field in DATES else each for each in values_in(points[id_], field)]
        first = (max if descending else min)(values, default=None)
        return first is None, (-first if descending else first) if first is not None else 0, id_

    return sorted(points, key=place)


def composed(value: Any) -> Any:
    """Return a text with composed letters; another value as it is."""
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _period(text: str) -> tuple[datetime, datetime]:
    """Return the beginning of a date and the moment after its end."""
    day, zone = text[:10], text[10:]
    if "T" not in text:
        begin = _moment(f"{day}T00:00:00{zone or '+00:00'}")
        return begin, begin + timedelta(days=1)
    return _moment(text), _moment(text) + timedelta(microseconds=1)


def _lemmas_asked(text: str) -> set[str]:
    """Return the words of `WORDS`, or the parts of one, that a typed text means."""
    asked = set()
    for typed in text.split():
        word = next(word for word, forms in WORDS.items() if typed in forms)
        asked.add(typed if typed in word and len(typed) < len(word) and not typed.isascii() else word)
    return asked


def _lemmas_stored(text: str) -> set[str]:
    words = set(composed(text).split(", "))
    return words | {letter for word in words if word == "\u6d77\u6ee9" for letter in word}
