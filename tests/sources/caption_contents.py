"""Captions files in memory, and the objects that they describe."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from viewfinder.sources.access import ObjectInfo
from viewfinder.sources.captions import Captions
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import canonical_uri, s3_parts
from viewfinder.testing.objects import MemoryObjects


def info(uri: str) -> ObjectInfo:
    uri = canonical_uri(uri)
    if uri.startswith("s3://"):
        return ObjectInfo(uri, *s3_parts(uri), 1, "", "")
    with Objects() as objects:
        return objects.stat(uri)


@contextmanager
def loaded(content: bytes, uri: str = "s3://b/set/captions.jsonl") -> Iterator[Captions]:
    with Objects(s3=MemoryObjects({uri: content})) as objects, Captions.load(uri, objects) as captions:
        yield captions


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
