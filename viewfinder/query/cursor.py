"""Where the next page begins: an opaque token that holds all that a page needs, so that no replica keeps state.

A token belongs to one query and one physical collection. It carries the query's vector: encoding the text again, in
another batch or on another replica, would move every score by a little and the border between two pages with it. And
so a cursor outlives a change of model, for as long as its collection exists.

It is signed by nobody: whoever makes one up reads nothing that the same service would not have told him anyway. The
checksum tells a damaged token from a good one.
"""

import base64
import binascii
import hashlib
import json
import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

MAX_CURSOR = 32_768
# As far as pages can be turned: the store counts all hits before the one where a page begins.
MAX_DEPTH = 10_000
_CHECKSUM = 6
_MARK = 5  # bytes; a thousand hits shown and a thousand to come are confused once in a million scrolls
_ROUNDING = 1e-3  # of a unit vector's length


class CursorError(ValueError):
    """This is no cursor of this service, or not of this query; the text says which."""


@dataclass(frozen=True)
class Place:
    """How far a ranking has been shown.

    `position` hits (or groups) are behind. Where a score decides the order, `score` is that of the last one and `marks`
    stand for those hardly better; else `marks` stand for all that are behind.
    """

    position: int
    marks: frozenset[bytes] = frozenset()
    score: float | None = None


@dataclass(frozen=True)
class Cursor:
    """A place in the hits of one query in one collection.

    `digest` is the query's; `kind` is what its vector came from, as in `viewfinder.query.relevance`; `vector` is float32 [D], or
    None where only words are looked for.
    """

    collection: str
    digest: str
    place: Place
    kind: str | None = None
    vector: Vector | None = field(default=None, compare=False)

    def encode(self) -> str:
        """Base64url of: checksum, length of the JSON, JSON, vector, marks."""
        vector = b"" if self.vector is None else self.vector.astype("<f4").tobytes()
        head = {
            "c": self.collection,
            "q": self.digest,
            "k": self.kind,
            "n": self.place.position,
            "s": self.place.score,
            "v": len(vector),
        }
        text = json.dumps(head, separators=(",", ":")).encode()
        content = len(text).to_bytes(2, "big") + text + vector + b"".join(sorted(self.place.marks))
        return base64.urlsafe_b64encode(_checksum(content) + content).rstrip(b"=").decode()

    @classmethod
    def decode(cls, token: str, digest: str) -> "Cursor":
        """The cursor of the query with this digest; raises `CursorError`."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise CursorError(f"is no cursor of this service: {_show(token)}") from error
        content = raw[_CHECKSUM:]
        # The last character of base64 has bits that decode to nothing: only the spelling that we wrote is ours.
        spelled = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        if raw[:_CHECKSUM] != _checksum(content) or spelled != token:
            raise CursorError(f"is damaged: {_show(token)}")
        try:
            cursor = cls._parse(content)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise CursorError(f"is no cursor of this service: {_show(token)}") from error
        if cursor.digest != digest:
            raise CursorError(
                "belongs to another query: all but limit (with diversity, that too) must stay as on the first page"
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
        sound = math.isfinite(score or 0.0) and abs(length - 1) < _ROUNDING
        if len(tail) % _MARK or not 0 <= position <= MAX_DEPTH or not sound:
            raise ValueError("not what encode writes")
        marks = frozenset(tail[start : start + _MARK] for start in range(0, len(tail), _MARK))
        place = Place(position, marks, score)
        return cls(str(head["c"]), str(head["q"]), place, head["k"], vector)


def mark(value: object) -> bytes:
    """What stands for a point's id or a group's value in a cursor."""
    return hashlib.sha256(json.dumps(value).encode()).digest()[:_MARK]


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(b"viewfinder cursor 1" + content).digest()[:_CHECKSUM]


def _show(token: str) -> str:
    return repr(token if len(token) <= 40 else token[:37] + "...")
