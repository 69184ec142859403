"""API keys with scope `read`, `admin` or `metrics`, and the filter and the indexes that limit what a key sees.

The settings hold SHA-256 digests only, so a configuration file or a process dump contains no key. A plain hash is
enough because keys are long and random, which rules out a dictionary attack.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from fastapi import Depends, Query, Request
from pydantic import SecretStr

from viewfinder.errors import ConfigurationError, FilterError
from viewfinder.query.fields import IndexName
from viewfinder.service.http.errors import HTTPError
from viewfinder.service.indexes import Indexes, ServedIndex
from viewfinder.store.conditions import KeyFilter
from viewfinder.store.filters import parse_filter

KeyScope = Literal["read", "admin", "metrics"]

# Paths that a key with the scope `metrics` may request.
METRICS_PATH = "/metrics"


@dataclass(frozen=True)
class Key:
    """A known key; `id` is the start of its digest, for logs.

    With a `filter` it sees only what matches, with `indexes` only these.
    """

    id: str
    scope: KeyScope
    filter: KeyFilter = None
    indexes: tuple[str, ...] | None = None


class KeyRing:
    """The keys of `Settings.api_keys`, which has validated all but the filters.

    Raises `ConfigurationError` for a filter that cannot be parsed.
    """

    def __init__(self, entries: Iterable[SecretStr]) -> None:
        self._keys: list[tuple[bytes, Key]] = []
        for entry in entries:
            digest, scope, text = [*entry.get_secret_value().split(":", 2), "", ""][:3]
            limits: dict[str, Any] = json.loads(text) if text else {}
            indexes = tuple(limits["indexes"]) if "indexes" in limits else None
            checked = _checked(limits.get("filter"), digest[:8])
            key = Key(digest[:8], cast(KeyScope, scope or "read"), checked, indexes)
            self._keys.append((bytes.fromhex(digest), key))

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, presented: bytes) -> Key | None:
        """The matching key, in constant time."""
        digest = hashlib.sha256(presented).digest()
        found = None
        for known, key in self._keys:
            if hmac.compare_digest(known, digest):
                found = key
        return found


def presented_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key in `Authorization: Bearer KEY`, else in `X-API-Key: KEY`."""
    given = {name.lower(): value for name, value in headers}
    scheme, _, token = given.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip()
    return given.get(b"x-api-key", b"").strip() or None


async def key_filter(request: Request) -> KeyFilter:
    """The filter of the request's key. Every route that answers with images, or about them, takes it as `Seen`."""
    found: KeyFilter = request.state.key_filter
    return found


Seen = Annotated[KeyFilter, Depends(key_filter)]


async def visible_indexes(request: Request) -> Indexes:
    """The indexes that the request's key may see. Every route about one takes them as `Visible` or `Asked`."""
    served: Indexes = request.app.state.indexes
    return served.visible(request.state.key_indexes)


Visible = Annotated[Indexes, Depends(visible_indexes)]


async def asked_index(visible: Visible, index: Annotated[IndexName | None, Query()] = None) -> ServedIndex:
    """The index that the query string names."""
    return visible.of(index)


Asked = Annotated[ServedIndex, Depends(asked_index)]


async def require_whole_index(request: Request) -> None:
    """Refuse keys with a filter where there is nothing to filter: `Depends(require_whole_index)`."""
    if request.state.key_filter is not None:
        raise HTTPError(
            403,
            "forbidden",
            "This needs a key without a filter, because it is about all images.",
            "Ask who runs the service.",
        )


async def require_all_indexes(request: Request) -> None:
    """Refuse keys with a filter or with indexes: `Depends(require_all_indexes)`."""
    await require_whole_index(request)
    if request.state.key_indexes is not None:
        raise HTTPError(
            403, "forbidden", "This needs a key for all indexes, because it is about all.", "Ask who runs the service."
        )


async def require_admin(request: Request) -> None:
    """Refuse requests without an admin key: `Depends(require_admin)`."""
    if request.state.scope != "admin":
        raise HTTPError(
            403,
            "forbidden",
            "This needs an admin key.",
            "Send a key that VIEWFINDER_API_KEYS lists with ':admin' after its digest: viewfinder key --admin.",
        )


async def require_metrics(request: Request) -> None:
    """Refuse requests for metrics with a key for searches: they show all traffic. `Depends(require_metrics)`."""
    if request.state.scope == "read":
        raise HTTPError(
            403,
            "forbidden",
            "Metrics need a key for metrics, or an admin key.",
            "Send a key that VIEWFINDER_API_KEYS lists with ':metrics' after its digest: viewfinder key --metrics.",
        )


def _checked(condition: KeyFilter, id: str) -> KeyFilter:
    """The filter of a key, after a check of all that does not depend on the index."""
    if condition is None:
        return None
    try:
        if parse_filter(condition) is None:
            raise FilterError("It is empty, and would match every image.")
    except FilterError as error:
        raise ConfigurationError(
            f"VIEWFINDER_API_KEYS_FILE: the filter of the key with the digest {id}... is wrong. {error}"
        ) from error
    return condition
