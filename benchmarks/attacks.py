"""A hostile client: broken, huge, expensive and stuck requests, from several connections at once."""

import asyncio
import base64
import io
import itertools
import json
import random
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from struct import pack
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

# Connections that send one request after the other, those that never read, and those that never send a whole body.
SENDERS, DEAF, SLOW = 8, 32, 16
# Of one request, after which the client turns to the next.
TIMEOUT_S = 10.0
_JSON = "application/json"


@dataclass(frozen=True)
class Attack:
    """One kind of request; `content` makes its body anew, for no cache to help."""

    name: str
    method: str
    path: str
    content: Callable[[], bytes] = bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def request(self, host: str) -> bytes:
        """The bytes of the request, whose connection ends with its answer."""
        body = self.content()
        headers = {"host": host, "connection": "close", "content-type": _JSON, **self.headers}
        if body:
            headers.setdefault("content-length", str(len(body)))
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + body


async def attack(address: str, seconds: float, known: list[str], cursor: str, directory: str) -> Counter[str]:
    """Attack for `seconds`; return how often the requests ended with each status.

    `known` are ids of the index, `cursor` is one of the service, `directory` is a source.
    """
    attacks = list(all_attacks(known, cursor, directory))
    random.Random(0).shuffle(attacks)
    statuses, turns = Counter[str](), itertools.cycle(attacks)
    host = urlsplit(address).netloc
    deadline = time.monotonic() + seconds

    async def send_in_turn() -> None:
        while time.monotonic() < deadline:
            statuses[await _status(host, next(turns).request(host))] += 1

    large = Attack("deaf", "POST", "/v1/search", _json({"text": "a cat", "limit": 200})).request(host)
    slow = Attack("slow", "POST", "/v1/search", headers={"content-length": "20000000"}).request(host) + b'{"image":"'
    stuck = [asyncio.create_task(_stuck(host, each, deadline)) for each in [large] * DEAF + [slow] * SLOW]
    await asyncio.gather(*(send_in_turn() for _ in range(SENDERS)), *stuck)
    return statuses


async def _status(host: str, request: bytes) -> str:
    """The status of the answer, or how the connection ended."""
    writer = None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(*host.split(":"))
            writer.write(request)
            first = await reader.readline()
            while await reader.read(1 << 16):
                pass
            return first.split(b" ")[1].decode() if first else "closed"
    except (OSError, TimeoutError) as error:
        return type(error).__name__
    finally:
        if writer is not None:
            writer.close()


async def _stuck(host: str, request: bytes, deadline: float) -> None:
    """A connection that sends this much and then neither reads nor writes, made again when the service ends it."""
    while time.monotonic() < deadline:
        try:
            reader, writer = await asyncio.open_connection(*host.split(":"), limit=1024)
            writer.write(request * 16)
            while not reader.at_eof() and time.monotonic() < deadline:
                await asyncio.sleep(0.5)
            writer.close()
        except OSError:
            await asyncio.sleep(0.5)


def all_attacks(known: list[str], cursor: str, directory: str) -> Iterator[Attack]:
    """Attacks of every kind over all routes that take a body or parameters."""
    yield from _broken(cursor)
    yield from _expensive(known)
    yield from _images(known, directory)


def _post(name: str, path: str, body: Any) -> Attack:
    return Attack(name, "POST", path, _json(body))


def _json(body: Any) -> Callable[[], bytes]:
    """A body with a new number wherever it has `{n}`, so that each text is new."""
    numbers = itertools.count(random.randrange(10**9))
    text = json.dumps(body)
    return lambda: text.replace("{n}", str(next(numbers))).encode()


def _broken(cursor: str) -> Iterator[Attack]:
    lists = b'{"text":"a","filter":{"a":[' + b"[]," * 2_400_000 + b"[]]}}"
    yield Attack("millions of lists", "POST", "/v1/search", lambda: lists)
    yield Attack("millions of lists", "POST", "/v1/images", lambda: lists)
    deep = b'{"text":"a","filter":' + b'{"not":' * 50_000 + b"{}" + b"}" * 50_001
    yield Attack("deep JSON", "POST", "/v1/search", lambda: deep)
    large = b'{"image":"' + b"A" * 27_000_000 + b'"}'
    yield Attack("27 MB that are no image", "POST", "/v1/search", lambda: large)
    yield Attack("50 MB", "POST", "/v1/embed", lambda: b" " * 8_000_000, {"content-length": "50000000"})
    yield Attack("not UTF-8", "POST", "/v1/search", lambda: b'{"text":"\xff"}')
    yield Attack("long headers", "GET", "/v1/stats", headers={f"x-{each}": "y" * 500 for each in range(50)})
    yield _post("unknown index", "/v1/search", {"text": "a {n}", "index": "nothing"})
    for forged in (cursor[:-2] + "AA", "A" * len(cursor), cursor[:40], cursor + cursor, "A" * 30_000):
        yield _post("forged cursor", "/v1/search", {"text": "a cat", "limit": 100, "cursor": forged})
    for url in ("http://127.0.0.1/a.jpg", "http://169.254.169.254/", "file:///etc/passwd", "https://no.invalid/a.jpg"):
        yield _post("image_url", "/v1/search", {"queries": [{"image_url": f"{url}?{{n}}{each}"} for each in range(16)]})
    parts = [{"vector": ["a"] * 8_000}] * 30
    yield _post("invalid vectors", "/v1/search/batch", {"searches": parts})


def _expensive(known: list[str]) -> Iterator[Attack]:
    batch = "/v1/search/batch"
    yield _post("batch", batch, {"searches": [{"text": f"cat {each} {{n}}", "limit": 31} for each in range(64)]})
    ordered = {"text": "cat {n}", "score_threshold": -1, "order_by": "-width", "limit": 31}
    yield _post("ordered batch", batch, {"searches": [ordered] * 64})
    both = {"text": "cat {n}", "min_relevance": 0.01, "order_by": "width", "target": "both", "limit": 31}
    yield _post("ordered batch of both targets", batch, {"searches": [both] * 64})
    near = {"text": "cat {n}", "collapse": "near", "collapse_threshold": 0.5, "limit": 200}
    yield _post("collapse", batch, {"searches": [near] * 4})
    yield _post("collapse", "/v1/search", {"order_by": "-width", "collapse": "near", "limit": 200})
    yield _post("groups", "/v1/search", {"text": "cat {n}", "group_by": "width", "group_size": 10, "limit": 200})
    yield _post("diversity", "/v1/search", {"text": "cat {n}", "diversity": 1, "limit": 200})
    yield _post("hybrid", "/v1/search", {"text": "cat {n} " * 100, "rank": "hybrid", "target": "both", "limit": 200})
    yield _post("by id", batch, {"searches": [{"id": each, "limit": 31} for each in (known * 64)[:64]]})
    wide = {"or": [{"width": {"in": list(range(100))}}] * 20}
    yield _post("wide filter", batch, {"searches": [{"text": "cat {n}", "filter": wide}] * 64})
    yield _post("list", "/v1/search", {"order_by": "-width", "limit": 200, "offset": 9_000})
    yield _post("embeddings", "/v1/embeddings", {"input": [f"{each} {{n}}" for each in range(2_048)]})
    yield _post(
        "rerank", "/v1/rerank", {"query": "a", "documents": [f"ab 猫 {each} {{n}}" * 50 for each in range(500)]}
    )
    yield _post("rerank ids", "/v1/rerank", {"query": "a", "documents": [{"id": each} for each in (known * 64)[:64]]})
    yield _post("second index", "/v1/search", {"text": "cat {n}", "index": "second", "limit": 200})
    yield _post("facets", "/v1/facets", {"field": "uri", "limit": 1000})
    yield _post("thumbnails", "/v1/thumbnails", {"ids": (known * 200)[:200]})
    for id_ in known[:2]:
        yield Attack("content", "GET", f"/v1/images/{id_}/content?width=2048", headers={"range": "bytes=0-,1-,2-"})


def _images(known: list[str], directory: str) -> Iterator[Attack]:
    camera = _file(Image.effect_noise((4000, 3000), 60).convert("RGB"), "JPEG")
    small = _file(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "PNG")
    cut, bomb = camera[: len(camera) // 2], _bomb(30_000)
    sent = {
        "camera": [camera] * min(4, 20_000_000 // len(camera)),
        "cut": [cut] * min(4, 20_000_000 // len(cut)),
        "bombs": [bomb] * 64,
        "small": [small] * 64,
        "broken": [b"\xff\xd8\xff" + bytes(1000)] * 64,
    }
    for name, files in sent.items():
        images = [{"image": base64.b64encode(each).decode()} for each in files]
        encoded = [each["image"] for each in images]
        yield _post(f"upload {name}", "/v1/images", {"images": images})
        yield _post(f"embed {name}", "/v1/embed", {"images": encoded})
        yield _post(f"search {name}", "/v1/search", {"queries": images[:16]})
        yield _post(f"rerank {name}", "/v1/rerank", {"query": "a cat", "documents": images})
    for prefix in (f"{directory}/", "file:///etc/", "s3://no-such-bucket/", "s3://bucket/../"):
        uris = [{"uri": f"{prefix}{{n}}{each}.jpg"} for each in range(64)]
        yield _post("index URIs", "/v1/images", {"images": uris})
    yield _post("index the same", "/v1/images", {"images": [{"uri": f"{directory}/known.jpg"}] * 64})
    caption = {
        "uri": f"{directory}/known.jpg",
        "caption": "word {n} " * 5_000,
        "meta": {f"f{n}": n for n in range(200)},
    }
    yield _post("index captions", "/v1/images", {"images": [caption]})


def _file(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def _bomb(width: int) -> bytes:
    """A PNG of a few kilobytes that claims to have `width` x `width` pixels."""
    chunks = [
        (b"IHDR", pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(10**6))),
        (b"IEND", b""),
    ]
    made = (pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)
