"""API keys: who may read, and who may take pictures down.

The settings hold SHA-256 digests only, so neither a configuration file nor a dump of a process gives a key away. A
plain hash is enough because keys are random and long: there is no dictionary to try.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fastapi import Request
from pydantic import SecretStr

from viewfinder.service.http.refusals import Refusal

KeyScope = Literal["read", "admin"]

ADMIN_SUFFIX = ":admin"


@dataclass(frozen=True)
class Key:
    """A key that the service knows; `id`, the beginning of its digest, may stand in logs."""

    id: str
    scope: KeyScope


class KeyRing:
    """The keys of the settings: `DIGEST` or `DIGEST:admin` each, as `Settings.api_keys` has checked."""

    def __init__(self, entries: Iterable[SecretStr]) -> None:
        self._keys: list[tuple[bytes, Key]] = []
        for entry in entries:
            digest = entry.get_secret_value().removesuffix(ADMIN_SUFFIX)
            scope: KeyScope = "admin" if entry.get_secret_value().endswith(ADMIN_SUFFIX) else "read"
            self._keys.append((bytes.fromhex(digest), Key(digest[:8], scope)))

    def __bool__(self) -> bool:
        return bool(self._keys)

    def find(self, presented: bytes) -> Key | None:
        """The key that was presented, if it is one; takes the same time whether and wherever it matches."""
        digest = hashlib.sha256(presented).digest()
        found = None
        for known, key in self._keys:
            if hmac.compare_digest(known, digest):
                found = key
        return found


def presented_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key in `Authorization: Bearer KEY` or `X-API-Key: KEY`; the former goes first."""
    given = {name.lower(): value for name, value in headers}
    scheme, _, token = given.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip()
    return given.get(b"x-api-key", b"").strip() or None


async def require_admin(request: Request) -> None:
    """Let only those pass who may take pictures down: `Depends(require_admin)`."""
    if request.state.scope != "admin":
        raise Refusal(
            403,
            "forbidden",
            "This needs an admin key.",
            "Ask with a key that VIEWFINDER_API_KEYS lists with ':admin' behind its digest.",
        )
