"""Errors of a query. Each names the wrong field, the reason and a correction.

ConfigurationError
└── QueryError               the query cannot be answered as it stands
    ├── QueryImageError      an image of the query cannot be decoded or fetched
    ├── UnknownImageError    the index holds no image with the given id
    ├── RelevanceError       the hits of the query have no relevance
    ├── CursorError          the token is not a cursor, or belongs to another query
    └── CollectionGoneError  the collection that a cursor pages through was dropped
"""

from typing import Literal

from viewfinder.errors import ConfigurationError, ImageError, as_sentences

CURSOR_HINT = "Search again without a cursor."


class QueryError(ConfigurationError):
    """A query cannot be answered. `message` starts with the wrong field; `hint` tells the client how to correct it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return as_sentences(self.message, self.hint)


class QueryImageError(QueryError):
    """An image of a query cannot be used; `reason` as in `ImageError` and `AddressError`."""

    def __init__(self, reason: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.args = (reason, message, hint)
        self.reason = reason

    @classmethod
    def of(cls, field: str, error: "ImageError | AddressError") -> "QueryImageError":
        """The error for the image in `field`."""
        if isinstance(error, AddressError):
            hint = "Pass the image itself, as `image`."
        elif error.reason == "too_many_bytes":
            hint = "Send a smaller image: the model sees few pixels."
        else:
            hint = "Send an image that opens in a browser: JPEG, PNG, WebP, GIF, TIFF or BMP."
        return cls(error.reason, f"{field}: {error.message}", hint)


class UnknownImageError(QueryError):
    """The index holds no image with this id, or of this name."""

    def __init__(self, name: str, field: str = "id") -> None:
        super().__init__(f"{field}: the index holds no image {name!r}.", "Use the id of a hit.")
        self.args = (name, field)
        self.name = name


class RelevanceError(QueryError):
    """`min_relevance` is given for a query whose hits have no relevance."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"min_relevance: the hits have no relevance, because {reason}.", "Leave it out.")
        self.args = (reason,)


class CursorError(QueryError):
    """A token is not a cursor of this index, or belongs to another query."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"cursor: {problem}.", CURSOR_HINT)
        self.args = (problem,)


class CollectionGoneError(QueryError):
    """The collection that a cursor pages through no longer exists."""

    def __init__(self) -> None:
        super().__init__("cursor: the collection that it pages through no longer exists.", CURSOR_HINT)
        self.args = ()


class AddressError(Exception):
    """An image URL that must not or cannot be fetched.

    The message contains at most the host, since paths and query strings may hold secrets, and does not distinguish a
    name that resolves inside this network from one that does not resolve.
    """

    def __init__(
        self, reason: Literal["forbidden_address", "fetch_failed", "image_url_disabled"], message: str
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
