"""Images in a directory and in the index of a service under test."""

import io
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from tests.service.conftest import World
from viewfinder.sources.objects import Objects
from viewfinder.sources.uris import canonical_uri, point_id
from viewfinder.store import Collection
from viewfinder.store.records import PointBatch

SIZE = (300, 200)


def encoded(kind: str = "JPEG", size: tuple[int, int] = SIZE, orientation: int = 1) -> bytes:
    """An image with a red left half and a blue right half, with this EXIF orientation."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, *size))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif)
    return file.getvalue()


@dataclass
class Gallery:
    """A served index with its images in a directory."""

    world: World
    directory: Path
    collection: Collection

    @property
    def client(self) -> TestClient:
        return self.world.client

    def add(self, name: str, content: bytes, **payload: object) -> str:
        """Add a file to the directory and to the index; return its id."""
        path = self.directory / name
        path.write_bytes(content)
        uri = canonical_uri(str(path))
        with Objects() as objects:
            info = objects.stat(uri)
        known = {"uri": uri, "key": name, "etag": info.etag, "size": info.size, "format": "jpeg"} | payload
        vector = np.ones((1, self.collection.metadata.dimension), np.float32)
        self.world.store.points.upsert(self.collection, PointBatch([point_id(uri)], [known], image=vector), wait=True)
        return point_id(uri)

    def get(self, id: str, **headers: str) -> httpx.Response:
        return self.client.get(f"/v1/images/{id}/content", headers=headers)

    def thumbnail(self, id: str, width: int, **headers: str) -> httpx.Response:
        return self.client.get(f"/v1/images/{id}/content", params={"width": width}, headers=headers)


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]
