"""Values of filters, checked against the kind of their field and translated to Qdrant's conditions on it."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from qdrant_client import models

from viewfinder.errors import FilterError
from viewfinder.sources.uris import composed, point_id, spellings
from viewfinder.store.field_names import ANY, BOOL, DATETIME, FLOAT, INTEGER, KEYWORD, TEXT, field_path
from viewfinder.store.schema import PAYLOAD_INDEXES
from viewfinder.store.shown import show
from viewfinder.store.whole_numbers import MAX_EXACT_FLOAT, compared
from viewfinder.store.words import COMPOSED_ID, COMPOSED_KEY

MAX_CONDITIONS = 200  # Qdrant evaluates each of them for each point
MAX_FILTER_VALUES = 1000  # in all lists, and words in all texts, together
MAX_VALUE_CHARACTERS = 4096  # the longest path of Linux, four times the longest key of S3
# Of all texts with their spellings, of which one path can have 64.
_MAX_SPELLED_TEXTS = 4 * MAX_FILTER_VALUES
_MAX_CHARACTERS = MAX_FILTER_VALUES * MAX_VALUE_CHARACTERS
# Their parts keep the letters of the file system; all other texts are stored in NFC.
_PATHS = ("uri", "key", "sources")
# The fields that points whose name is not in NFC have beside these, and the value there of a text.
_COMPOSED: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "uri": (COMPOSED_ID, lambda text: point_id(composed(text))),
    "key": (COMPOSED_KEY, composed),
}
# Fields of UUIDs: a server finds nothing for another text, or refuses it.
_UUIDS = tuple(name for name, kind in PAYLOAD_INDEXES.items() if kind == models.PayloadSchemaType.UUID)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

_MAX_INTEGER = 2**63 - 1
_DAY = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)(Z|[+-]\d\d:\d\d)?", re.ASCII)
_TIME = re.compile(r"\d{4}-?\d\d-?\d\d[T ]\d.*", re.ASCII)
_END = datetime.max.replace(tzinfo=UTC)
_LAST_DAY = _END - timedelta(days=1)
_EXPECTED = {
    KEYWORD: "a string",
    TEXT: "null ('text' finds words)",
    INTEGER: "a number",
    FLOAT: "a number",
    BOOL: "true or false",
    DATETIME: 'a date as in "2024-05-31" or "2024-05-31T12:00:00Z"',
    ANY: "a string, a number, true, false or null",
}


class FilterSize:
    """Counts what one filter holds; each method raises `FilterError` once that is too much."""

    def __init__(self) -> None:
        self._conditions = self._values = self._texts = self._characters = 0

    def add_condition(self) -> None:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise FilterError(f"The filter has more than {MAX_CONDITIONS} conditions.")

    def add_values(self, count: int) -> None:
        """Count values of a list, or words of a text."""
        self._values += count
        if self._values > MAX_FILTER_VALUES:
            raise FilterError(
                f"The lists and texts of a filter hold more than {MAX_FILTER_VALUES:,} values or words together."
            )

    def add_texts(self, texts: Sequence[str]) -> None:
        """Count texts as Qdrant receives them: all spellings of each path."""
        self._texts += len(texts)
        self._characters += sum(map(len, texts))
        if self._texts > _MAX_SPELLED_TEXTS or self._characters > _MAX_CHARACTERS:
            raise FilterError(
                f"The texts of a filter have more than {_MAX_SPELLED_TEXTS:,} spellings or {_MAX_CHARACTERS:,} "
                "characters together: each part of a path that has accents doubles the number of its spellings. Use "
                "fewer values."
            )


class FieldValues:
    """Conditions on the values of one field. `name` is the field's, `kind` one of `viewfinder.store.field_names`.

    `size` counts their texts with those of the whole filter. `composed` means that composed names are indexed.
    """

    def __init__(self, name: str, kind: str, size: FilterSize, *, composed: bool = False) -> None:
        self._name = name
        self._kind = kind
        self._key = field_path(name)
        self._size = size
        self._composed = _COMPOSED.get(name) if composed else None

    def equal(self, value: object) -> Any:
        """Return the condition that a value of the field equals this one; None means that the field is missing."""
        if value is None:
            return models.IsEmptyCondition(is_empty=models.PayloadField(key=self._key))
        if self._kind == DATETIME:
            begin, end = self._moment(value)
            return self._dates(gte=begin, lt=end) if end else self._dates(gte=begin, lte=begin)
        if self._kind == BOOL or (self._kind == ANY and isinstance(value, bool)):
            return self._match(self._flag(value))
        if self._kind in (INTEGER, FLOAT) or (self._kind == ANY and isinstance(value, int | float)):
            return self._equal_number(self._number(value))
        if self._kind == TEXT:
            raise self._unexpected(value)
        return self._texts([self._text(value)])

    def any_of(self, values: object) -> Any:
        """Return the condition that a value of the field equals one of these."""
        if not isinstance(values, list) or not values:
            raise FilterError(
                f"Filter on {self._name!r}: 'in' takes a list of 1 to {MAX_FILTER_VALUES} values, not {show(values)}."
            )
        if self._composed is not None and None not in values:
            return self._texts(list(map(self._text, values)))
        conditions = [self.equal(value) for value in values]
        # Qdrant's "any" takes only strings or only integers.
        matched = [_matched(each) for each in conditions]
        for kind in (str, int):
            if all(each and all(type(value) is kind for value in each) for each in matched):
                same: Any = list(dict.fromkeys(value for each in matched for value in each))
                return models.FieldCondition(key=self._key, match=models.MatchAny(any=same))
        return models.Filter(should=conditions)

    def compared(self, operator: str, value: object) -> Any:
        """Return the condition that a value of the field is `gt`, `gte`, `lt` or `lte` this one.

        A date without a time is the whole day: `gt` begins after its end, and `lte` contains it.
        """
        if self._kind == DATETIME or (self._kind == ANY and isinstance(value, str)):
            begin, end = self._moment(value)
            if end is not None and operator in ("gt", "lte"):
                return self._dates(**{"gte" if operator == "gt" else "lt": end})
            return self._dates(**{operator: begin})
        number = self._number(value)
        if self._kind == INTEGER and abs(number) >= MAX_EXACT_FLOAT:
            return compared(self._key, operator, number)
        return self._numbers(**{operator: number})

    def checked_text(self, value: object) -> str:
        """Return a string that is not too long; raise `FilterError` for another value."""
        return self._text(value)

    def _equal_number(self, number: int | float) -> Any:
        whole = int(number) if number == int(number) else None
        if whole is not None and (self._kind == INTEGER or abs(whole) > MAX_EXACT_FLOAT):
            return self._match(whole)
        # Qdrant's match by an integer does not find 4.0, and it has no match by a float.
        return self._numbers(gte=number, lte=number)

    def _match(self, value: str | int | bool) -> Any:
        return models.FieldCondition(key=self._key, match=models.MatchValue(value=value))

    def _numbers(self, **bounds: int | float) -> Any:
        return models.FieldCondition(key=self._key, range=models.Range(**bounds))

    def _dates(self, **bounds: datetime) -> Any:
        made = models.DatetimeRange(**bounds)
        return models.FieldCondition(key=self._key, range=made)

    def _texts(self, given: Sequence[str]) -> Any:
        """Return the condition that a value of the field equals one of these texts."""
        texts = list(dict.fromkeys(each for text in given for each in self._spellings(text)))
        match = models.MatchValue(value=texts[0]) if len(texts) == 1 else models.MatchAny(any=texts)
        condition = models.FieldCondition(key=self._key, match=match)
        if self._composed is None:
            return condition
        key, value_of = self._composed
        of_others = models.MatchAny(any=list(dict.fromkeys(map(value_of, given))))
        return models.Filter(should=[condition, models.FieldCondition(key=key, match=of_others)])

    def _spellings(self, text: str) -> list[str]:
        """Return the forms in which the store may have a text."""
        if self._name in _UUIDS:
            if not _UUID.fullmatch(text):
                form = "a UUID as in '0d3e5b0e-7a37-5b7e-9d2d-1c5c8a5f6f10'"
                raise FilterError(f"Filter on {self._name!r}: expected {form}, not {show(text)}.")
            text = text.lower()
        texts = spellings(text) if self._name in _PATHS else [unicodedata.normalize("NFC", text)]
        self._size.add_texts(texts)
        return texts

    def _flag(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise self._unexpected(value)
        return value

    def _number(self, value: object) -> int | float:
        # bool is an int in Python but not in JSON; 1e999 parses as infinity, which JSON cannot represent.
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > _MAX_INTEGER:
            raise self._unexpected(value, FLOAT)
        return value

    def _text(self, value: object) -> str:
        if not isinstance(value, str):
            raise self._unexpected(value)
        if len(value) > MAX_VALUE_CHARACTERS:
            raise FilterError(
                f"Filter on {self._name!r}: a text of {len(value):,} characters; the maximum is "
                f"{MAX_VALUE_CHARACTERS:,}."
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise FilterError(
                f"Filter on {self._name!r}: {show(value)} is invalid Unicode (a lone surrogate)."
            ) from error
        return value

    def _moment(self, value: object) -> tuple[datetime, datetime | None]:
        """Return the beginning and the end of a day, or a moment and None."""
        try:
            if isinstance(value, str) and (day := _DAY.fullmatch(value)):
                begin = datetime.fromisoformat(f"{day[1]}-{day[2]}-{day[3]}T00:00{day[4] or 'Z'}").astimezone(UTC)
                return begin, begin + timedelta(days=1) if begin < _LAST_DAY else _END
            if isinstance(value, str) and _TIME.fullmatch(value):
                moment = datetime.fromisoformat(value)
                return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC), None
        except (ValueError, OverflowError) as error:  # OverflowError: outside the years 1 to 9999
            raise self._unexpected(value, DATETIME) from error
        raise self._unexpected(value, DATETIME)

    def _unexpected(self, value: object, kind: str | None = None) -> FilterError:
        own = "" if self._kind == ANY else f"its type is {self._kind}: "
        expected = _EXPECTED[kind if kind and self._kind == ANY else self._kind]
        return FilterError(f"Filter on {self._name!r}: {own}expected {expected}, not {show(value)}.")


def _matched(condition: Any) -> Sequence[str | int | bool]:
    """Return the values of a condition that matches single values; none for another condition."""
    match = getattr(condition, "match", None)
    if isinstance(match, models.MatchValue):
        return [match.value]
    return list(match.any) if isinstance(match, models.MatchAny) else []
