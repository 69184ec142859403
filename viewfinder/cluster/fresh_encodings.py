"""Texts and pictures encoded anew on a worker, to ask a collection with, or to compare with what it holds.

On a worker, because a driver may lack the device, the memory or the way to the objects.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import ray

from viewfinder.cluster.pipeline import Workers, told_as_ours
from viewfinder.errors import ViewfinderError
from viewfinder.images.decoding import ImageLimits
from viewfinder.indexing.rows import table_of
from viewfinder.indexing.stages import Encode, FetchAndDecode
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.encoder import Vectors
from viewfinder.settings import Settings
from viewfinder.sources.objects import ObjectAccess
from viewfinder.store import Record

T = TypeVar("T")


def encode_texts(
    checkpoint: Checkpoint, settings: Settings, texts: Sequence[str], *, timeout_s: float | None = None
) -> Vectors:
    """Unit vectors float32 [N, D]; raises `ViewfinderError` where no worker has done it in time."""
    return np.asarray(_on_worker(_texts, checkpoint, settings, timeout_s, list(texts)))


def encode_pictures(
    checkpoint: Checkpoint, settings: Settings, access: ObjectAccess, records: Iterable[Record]
) -> dict[str, Vectors]:
    """Unit vectors (float32 [D]) by point id, of those pictures that can be read and are still what was indexed."""
    limits = ImageLimits.of(settings)
    fetch = FetchAndDecode(
        access,
        checkpoint.preprocess,
        limits,
        threads=settings.fetch_threads,
        timeout_s=settings.decode_timeout_s,
        memory_bytes=settings.decode_memory_bytes,
    )
    payloads = {record.id: dict(record.payload) for record in records}
    return _on_worker(_pictures, checkpoint, settings, None, fetch, payloads)


def through_stages(
    fetch: FetchAndDecode, encode: Encode, payloads: Mapping[str, Mapping[str, Any]]
) -> dict[str, Vectors]:
    """Pictures by the pipeline's own stages, in this process; `payloads` are those of points, by id."""
    rows = [
        {"id": id_, "action": "index", "count": 1, "uri": payload["uri"], "size": payload["size"]}
        for id_, payload in payloads.items()
    ]
    done = encode(fetch(table_of(rows))).to_pylist()
    return {
        row["id"]: np.frombuffer(row["image_vector"], np.float32)
        for row in done
        if row["image_vector"] is not None and row["etag"] == payloads[row["id"]]["etag"]
    }


def _on_worker(
    work: Callable[..., T], checkpoint: Checkpoint, settings: Settings, timeout_s: float | None, *arguments: Any
) -> T:
    workers = Workers.plan(settings, ray.cluster_resources(), ray.available_resources())
    remote = ray.remote(num_cpus=workers.encoder_cpus, num_gpus=workers.gpus)(work)
    options = {"device": settings.device, "precision": settings.precision, "cores": workers.cores}
    with told_as_ours():
        task = remote.remote(checkpoint.name, checkpoint.fingerprint, options, *arguments)
        if not ray.wait([task], timeout=timeout_s)[0]:
            ray.cancel(task, force=True)
            raise ViewfinderError(f"No worker had encoded with model {checkpoint.name!r} after {timeout_s:g} s.")
        result: T = ray.get(task)
        return result


def _texts(model: str, fingerprint: str, options: dict[str, Any], texts: list[str]) -> Vectors:
    return Encode(model, fingerprint, **options).encode_texts(texts)[0]


def _pictures(
    model: str, fingerprint: str, options: dict[str, Any], fetch: FetchAndDecode, payloads: dict[str, dict[str, Any]]
) -> dict[str, Vectors]:
    return through_stages(fetch, Encode(model, fingerprint, **options), payloads)
