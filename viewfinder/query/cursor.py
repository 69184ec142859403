"""The cursor of a page: an opaque token that holds everything the next page needs, so that replicas keep no state.

A token belongs to one query and one physical collection. It carries the query's vector: encoding the text again, in
another batch or on another replica, would move every score a little, and the border between two pages with it. So a
cursor also survives a change of model, as long as its collection exists.

Tokens are signed: a forged place could make one page read thousands of points.
"""

import base64
import binascii
import hashlib
import hmac
import json
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from pydantic import SecretStr

from viewfinder.client.requests import MAX_HITS
from viewfinder.query.errors import CursorError
from viewfinder.store.ordering import OrderKey

Vector = npt.NDArray[np.float32]

MAX_CURSOR = 32_768
_MAX_POSITION = 2**53
_SIGNATURE = 16  # bytes
_MARK = 5  # bytes; with 1,000 hits shown and 1,000 to come, one scroll in a million has a collision
_ROUNDING = 1e-3  # of a unit vector's length


class CursorKeys:
    """The keys of cursors: the first signs, all are accepted.

    Replicas are replaced one after another. So a new key is first accepted by all, then signs: OLD,NEW, then NEW,OLD,
    then NEW.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    @classmethod
    def of(cls, secret_keys: Sequence[SecretStr]) -> "CursorKeys":
        """The keys of the settings; without any, a random one that only this process knows."""
        return cls([each.get_secret_value().encode() for each in secret_keys] or [secrets.token_bytes(32)])

    def sign(self, content: bytes) -> bytes:
        """The signature of the first key."""
        return _signature(self._keys[0], content)

    def accept(self, signature: bytes, content: bytes) -> bool:
        """Return True for a signature of any key."""
        return any(hmac.compare_digest(signature, _signature(key, content)) for key in self._keys)


@dataclass(frozen=True)
class Place:
    """The part of a ranking that has been shown.

    `position` is the number of hits (or groups) shown. If the order is that of scores, `score` is the score of the last
    hit and `marks` identify the hits with nearly the same score; else `marks` identify all hits shown. Among very many
    hits of one score `after` is the id of the last one shown: they come in the order of ids.

    If the order is that of a field, `value` and `after` are the value and id of the last hit.
    """

    position: int
    marks: frozenset[bytes] = frozenset()
    score: float | None = None
    after: str | None = None
    value: OrderKey = None


@dataclass(frozen=True)
class Cursor:
    """A place in the hits of one query in one collection.

    `digest` is `Query.digest()`, `kind` the kind of thing that the vector encodes (`viewfinder.query.vectors`).
    `vector` is float32 [D], or None where only words are looked for.
    """

    collection: str
    digest: str
    place: Place
    kind: str | None = None
    vector: Vector | None = field(default=None, compare=False)

    def encode(self, keys: CursorKeys) -> str:
        """The token: base64url of signature, length of the JSON, JSON, vector and marks."""
        vector = b"" if self.vector is None else self.vector.astype("<f4").tobytes()
        head = {
            "c": self.collection,
            "q": self.digest,
            "k": self.kind,
            "n": self.place.position,
            "s": self.place.score,
            "a": self.place.after,
            "o": self.place.value,
            "v": len(vector),
        }
        text = json.dumps(head, separators=(",", ":")).encode()
        content = len(text).to_bytes(2, "big") + text + vector + b"".join(sorted(self.place.marks))
        return base64.urlsafe_b64encode(keys.sign(content) + content).rstrip(b"=").decode()

    @classmethod
    def decode(cls, token: str, digest: str, keys: CursorKeys) -> "Cursor":
        """Read a token of the query with this digest; raises `CursorError`."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise CursorError(f"not a cursor of this index: {_shortened(token)}") from error
        content = raw[_SIGNATURE:]
        # The last character of base64 has unused bits: accept only the spelling that `encode` writes.
        spelled = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        if spelled != token or not keys.accept(raw[:_SIGNATURE], content):
            raise CursorError(
                f"the token is damaged, or signed with a key that is not in use any more: {_shortened(token)}"
            )
        try:
            cursor = cls._parse(content)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise CursorError(f"not a cursor of this index: {_shortened(token)}") from error
        if cursor.digest != digest:
            raise CursorError(
                "it belongs to another query: only limit may differ from the first page (with diversity, not even that)"
            )
        return cursor

    @classmethod
    def _parse(cls, content: bytes) -> "Cursor":
        end = 2 + int.from_bytes(content[:2], "big")
        head = json.loads(content[2:end])
        middle = end + int(head["v"])
        vector = np.frombuffer(content[end:middle], "<f4").astype(np.float32) if middle > end else None
        tail = content[middle:]
        position, score = int(head["n"]), None if head["s"] is None else float(head["s"])
        length = 1.0 if vector is None else float(np.linalg.norm(vector.astype(np.float64)))
        value = head["o"]
        # The order of a field has no score, and no end.
        last = MAX_HITS if score is not None or head["a"] is None else _MAX_POSITION
        if not (value is None or isinstance(value, int | float)):
            raise TypeError("not written by encode")
        is_valid = math.isfinite(score or 0.0) and math.isfinite(value or 0) and abs(length - 1) < _ROUNDING
        if len(tail) % _MARK or not 0 <= position <= last or not is_valid:
            raise ValueError("not written by encode")
        marks = frozenset(tail[start : start + _MARK] for start in range(0, len(tail), _MARK))
        place = Place(position, marks, score, None if head["a"] is None else str(head["a"]), value)
        return cls(str(head["c"]), str(head["q"]), place, head["k"], vector)


def mark(value: object) -> bytes:
    """A short hash that identifies a point's id or a group's value in a cursor."""
    return hashlib.sha256(json.dumps(value).encode()).digest()[:_MARK]


def _signature(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, b"viewfinder cursor 3" + content, "sha256")[:_SIGNATURE]


def _shortened(token: str) -> str:
    return repr(token if len(token) <= 40 else token[:37] + "...")
