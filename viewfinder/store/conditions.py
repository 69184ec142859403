"""Filters and names of fields of one collection, checked against the fields that it has."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from qdrant_client import models

from viewfinder.errors import FilterError, KeyFilterError
from viewfinder.store.collections import Collections
from viewfinder.store.field_names import check_countable, check_groupable, check_sortable
from viewfinder.store.filters import parse_filter
from viewfinder.store.schema import Collection

T = TypeVar("T")

ParsedFilter: TypeAlias = models.Filter
KeyFilter: TypeAlias = Mapping[str, Any] | None
"""The filter of an API key, which limits what its requests see; None for a key that sees everything."""


class Conditions:
    """Parses what searches, facets, groups and reads of points name; raises `FilterError`."""

    def __init__(self, collections: Collections) -> None:
        self._collections = collections

    def parse(self, collection: Collection, expression: Mapping[str, Any] | ParsedFilter | None) -> ParsedFilter | None:
        """Return Qdrant's filter; None for None and {}. A parsed one stays as it is."""
        if isinstance(expression, ParsedFilter):
            return expression
        language = collection.metadata.language
        composed = collection.finds_composed
        return self._with_fields(collection, lambda fields: parse_filter(expression, fields, language, composed))

    def within(
        self, collection: Collection, key_filter: KeyFilter, expression: Mapping[str, Any] | ParsedFilter | None = None
    ) -> ParsedFilter | None:
        """Return Qdrant's filter for the points that both match: the filter of a request, and that of its key.

        Raises `KeyFilterError` if that of the key names a field that the collection does not have.
        """
        if key_filter is None:
            return self.parse(collection, expression)
        try:
            bounds = self.parse(collection, key_filter)
        except FilterError as error:
            raise KeyFilterError(f"The filter of the API key does not fit {collection.name}: {error}") from error
        if bounds is None:
            raise KeyFilterError("The filter of the API key is empty.")
        parsed = self.parse(collection, expression)
        return models.Filter(must=[bounds] if parsed is None else [bounds, parsed])

    def countable(self, collection: Collection, field: str) -> str:
        """Return the name of a field whose values can be counted."""
        return self._with_fields(collection, lambda fields: check_countable(field, fields))

    def groupable(self, collection: Collection, field: str) -> str:
        """Return the name of a field that points can be grouped by."""
        return self._with_fields(collection, lambda fields: check_groupable(field, fields))

    def sortable(self, collection: Collection, field: str) -> tuple[str, str]:
        """Return the name and kind of a field that points can be ordered by."""
        return self._with_fields(collection, lambda fields: check_sortable(field, fields))

    def _with_fields(self, collection: Collection, check: Callable[[Mapping[str, str]], T]) -> T:
        fields = collection.recorded.fields
        try:
            return check(fields)
        except FilterError:
            # A job may have added fields since the collection was read: read it again.
            now = self._collections.refresh(collection).recorded.fields
            if now == fields:
                raise
        return check(now)
