"""The filter language of searches, facets and prunes, translated to Qdrant's.

    {"width": {"gte": 1024}, "tags": {"in": ["beach", "sea"]}}
    {"or": [{"caption": {"text": "red car"}}, {"not": {"meta.year": {"lt": 2020}}}]}

All keys of one object must match. A missing field matches `{"eq": null}` and negations only. A date without a time is
the whole day, in UTC unless it names another zone. A text matches however its letters are composed (what is equal in
Unicode's NFC; in `sources` each part of a path is in NFC or NFD), and `text` finds words as a search by words does
(`viewfinder.store.words`). A comparison that cannot match the type of its field is refused.
"""

from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from viewfinder.errors import FilterError
from viewfinder.store.field_names import (
    ANY,
    BOOL,
    DATETIME,
    FLOAT,
    INTEGER,
    KEYWORD,
    TEXT,
    field_path,
    find_field,
)
from viewfinder.store.filter_values import FieldValues, FilterSize
from viewfinder.store.shown import show
from viewfinder.store.words import CAPTION_WORDS, DEFAULT_LANGUAGE, META_WORDS, words_to_find

MAX_FILTER_DEPTH = 8

_EQUAL = ("eq", "ne", "in")
_RANGE = ("gt", "gte", "lt", "lte")
OPERATORS: Mapping[str, tuple[str, ...]] = {
    KEYWORD: _EQUAL,
    INTEGER: (*_EQUAL, *_RANGE),
    FLOAT: (*_EQUAL, *_RANGE),
    DATETIME: (*_EQUAL, *_RANGE),
    BOOL: _EQUAL,
    TEXT: ("eq", "ne", "text"),  # the first two with null alone: whole texts have no index
    ANY: (*_EQUAL, *_RANGE, "text"),
}


def parse_filter(
    expression: Mapping[str, Any] | None,
    fields: Mapping[str, str] | None = None,
    language: str = DEFAULT_LANGUAGE,
    composed: bool = False,
) -> models.Filter | None:
    """Return Qdrant's filter for `expression`; None for None and {}.

    `fields` are the known `meta.NAME`s and their kinds, None if they are unknown: then every name and type is accepted.
    `language` is that of the collection's words, `composed` means that composed names are indexed. For any JSON value
    it raises only `FilterError`, which names what is wrong and what is valid.
    """
    if expression is None or (isinstance(expression, Mapping) and not expression):
        return None
    return _Parser(fields, language, composed).parse(expression, 1)


class _Parser:
    def __init__(self, fields: Mapping[str, str] | None, language: str, composed: bool) -> None:
        self._fields = fields
        self._language = language
        self._composed = composed
        self._size = FilterSize()

    def parse(self, expression: object, depth: int) -> models.Filter:
        if not isinstance(expression, Mapping) or not expression:
            raise FilterError(
                f'A filter is an object like {{"width": {{"gte": 1024}}}} or {{"and": [...]}}, not {show(expression)}.'
            )
        if depth > MAX_FILTER_DEPTH:
            raise FilterError(f"The filter is nested more than {MAX_FILTER_DEPTH} levels deep.")
        must: list[Any] = []
        for key, value in expression.items():
            if key in ("and", "or"):
                if not isinstance(value, list) or not value:
                    raise FilterError(f"{key!r} in a filter takes a list of filters, not {show(value)}.")
                parts: list[Any] = [self.parse(each, depth + 1) for each in value]
                must.append(models.Filter(must=parts) if key == "and" else models.Filter(should=parts))
            elif key == "not":
                must.append(models.Filter(must_not=[self.parse(value, depth + 1)]))
            else:
                must += self._field(key, value)
        return models.Filter(must=must)

    def _field(self, given: object, operations: object) -> list[Any]:
        name, kind = find_field(given, self._fields)
        if not isinstance(operations, Mapping) or not operations:
            raise FilterError(f'Filter on {name!r}: expected an object like {{"eq": value}}, not {show(operations)}.')
        for operator, value in operations.items():
            if operator not in OPERATORS[kind]:
                known = ", ".join(OPERATORS[kind])
                problem = "does not fit its type" if operator in OPERATORS[ANY] else "is unknown"
                raise FilterError(
                    f"Filter on {name!r}: {show(operator)} {problem}; a field of type {kind} takes {known}."
                )
            self._size.add_condition()
            self._size.add_values(len(value) if isinstance(value, list) else 0)
        return [self._condition(name, kind, operator, value) for operator, value in operations.items()]

    def _condition(self, name: str, kind: str, operator: str, value: object) -> Any:
        values = FieldValues(name, kind, self._size, composed=self._composed)
        if operator == "text":
            return self._words(name, values.checked_text(value))
        if operator == "eq":
            return values.equal(value)
        if operator == "ne":
            return models.Filter(must_not=[values.equal(value)])
        return values.any_of(value) if operator == "in" else values.compared(operator, value)

    def _words(self, name: str, text: str) -> Any:
        """Return the condition that a text has all these words."""
        words = words_to_find(text, self._language)
        if not words:
            raise FilterError(f"Filter on {name!r}: 'text' takes words, not {show(text)}.")
        self._size.add_values(len(words))
        return models.FieldCondition(key=words_path(name), match=models.MatchText(text=" ".join(words)))


def words_path(name: str) -> str:
    """Return Qdrant's path of the words of a text field."""
    return CAPTION_WORDS if name == "caption" else META_WORDS + field_path(name).removeprefix("meta")
