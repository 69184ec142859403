"""Signed addresses of thumbnails, which `<img>` can load although it cannot send an API key."""

import re
import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlencode

from viewfinder.query.cursor import CursorKeys

# An address is valid for one to two of these. It stays the same for one, so that browsers keep what they have loaded.
PERIOD_S = 12 * 3600
_PATH = re.compile(r"/v1/images/([0-9a-f-]{36})/content")


class ThumbnailLinks:
    """Makes and checks addresses. The keys are those of cursors, which all replicas share."""

    def __init__(self, keys: CursorKeys, *, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._clock = clock

    def expiry(self) -> int:
        """When an address that is made now ends, in seconds since 1970."""
        return (int(self._clock()) // PERIOD_S + 2) * PERIOD_S

    def path(self, index: str, id: str, width: int) -> str:
        """The path and query of the thumbnail of an image in an index."""
        expires = self.expiry()
        signature = self._keys.sign(_content(index, id, str(width), str(expires))).hex()
        query = urlencode({"index": index, "width": width, "expires": expires, "signature": signature})
        return f"/v1/images/{id}/content?{query}"

    def allows(self, path: str, query: bytes) -> bool:
        """Return True for a path and query of `path()` that have not expired."""
        if (match := _PATH.fullmatch(path)) is None:
            return False
        try:
            given = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=4)
            if given.keys() != {"index", "width", "expires", "signature"}:
                return False
            index, width, expires, signature = (given[name][0] for name in ("index", "width", "expires", "signature"))
            is_signed = self._keys.accept(bytes.fromhex(signature), _content(index, match[1], width, expires))
            return is_signed and self._clock() < int(expires)
        except ValueError:
            return False


def _content(index: str, id: str, width: str, expires: str) -> bytes:
    return f"thumbnail {index} {id} {width} {expires}".encode()
