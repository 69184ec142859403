"""API keys with scope `read`, `admin` or `metrics`.

The settings hold SHA-256 digests only, so a configuration file or a process dump contains no key. A plain hash is
enough because keys are long and random, which rules out a dictionary attack.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

from fastapi import Request
from pydantic import SecretStr

from viewfinder.service.http.errors import HTTPError

KeyScope = Literal["read", "admin", "metrics"]

# Paths that a key with the scope `metrics` may request.
METRICS_PATH = "/metrics"


@dataclass(frozen=True)
class Key:
    """A known key; `id` is the start of its digest, for logs."""

    id: str
    scope: KeyScope


class KeyRing:
    """The keys of the settings, `DIGEST` or `DIGEST:SCOPE` each, validated by `Settings.api_keys`."""

    def __init__(self, entries: Iterable[SecretStr]) -> None:
        self._keys: list[tuple[bytes, Key]] = []
        for entry in entries:
            digest, _, scope = entry.get_secret_value().partition(":")
            self._keys.append((bytes.fromhex(digest), Key(digest[:8], cast(KeyScope, scope or "read"))))

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


async def require_admin(request: Request) -> None:
    """Refuse requests without an admin key: `Depends(require_admin)`."""
    if request.state.scope != "admin":
        raise HTTPError(
            403,
            "forbidden",
            "This needs an admin key.",
            "Send a key that VIEWFINDER_API_KEYS lists with ':admin' after its digest.",
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
