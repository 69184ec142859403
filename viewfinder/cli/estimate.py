"""Arithmetic of `viewfinder size`: machines, memory, disk, network, requests and money that an index needs."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from viewfinder.footprint import (
    CAPTION_INDEX_BYTES,
    EMBEDDED_MAX_IMAGES,
    GRAPH_M,
    INDEX_DISK_BYTES,
    POINT_ID_BYTES,
    QUANTIZED_BYTES,
    VECTOR_BYTES,
    disk_bytes,
    graph_bytes,
)
from viewfinder.models.registry import ModelSpec
from viewfinder.settings import OnDisk, Quantization, VectorType

Basis = Literal["measured", "arithmetic", "published", "assumed"]

# Measured with the images of benchmarks/jpeg_decode.py, 0.1 to 3.9 MB: CPU seconds to decode a JPEG to 224 pixels.
DECODE_S = 0.0027
DECODE_S_PER_MB = 0.0070
# Measured in the same run: ViT-B-32's image tower, float32, batches of 32, one thread.
CPU_ENCODE_GFLOPS = 92.0
# Measured against an endpoint on the same machine, whose CPU time is included: 1,000 objects/s on two cores.
FETCH_S = 0.002
# Measured (`batching` on torch, float32): searches/s of a replica with one core, each text new.
REPLICA_QPS = 45.0
# Measured: points/s of 512 dimensions that one core of a job sends by REST.
WRITTEN_POINTS_PER_S = 20_000.0

# Measured: bytes of one number of a vector in a request, by VIEWFINDER_QDRANT_URL and by VIEWFINDER_QDRANT_GRPC_URL.
JSON_NUMBER_BYTES, GRPC_NUMBER_BYTES = 21.0, 4.0

# Published by NVIDIA (sources in docs/scaling.md): dense half-precision TFLOP/s of the tensor cores. The on-demand
# price per hour is an assumption.
GPUS = {
    "T4": (65.0, 0.53),
    "L4": (121.0, 0.80),
    "A10G": (70.0, 1.01),
    "L40S": (362.0, 1.86),
    "A100": (312.0, 3.40),
    "H100": (989.0, 6.90),
    "H200": (989.0, 7.90),
}
# Published by AWS for S3 Standard in us-east-1: dollars per 1,000 requests, and GETs per second per prefix.
S3_GET_PRICE, S3_LIST_PRICE, S3_GETS_PER_S = 0.0004, 0.005, 5500
LISTED_PER_REQUEST = 1000
# Published by AWS: dollars per GB between zones, a cent on each side.
ZONE_PRICE = 0.02

# Measured with Qdrant's engine (qdrant-edge 0.9.0, docs/scaling.md): the memory of ids and payload indexes in a segment
# without graphs, as a re-index loads it.
LOADING_FACTOR = 1.99
# Measured with the same engine: seconds of a core per vector of 512 dimensions, ef_construct 100.
GRAPH_CORE_S, GRAPH_MEASURED_AT = 0.00099, 60_000
_PART_BASIS: dict[str, Basis] = {
    "vectors": "arithmetic",
    "graphs": "published",
    "payload indexes": "measured",
    "ids": "measured",
}

# Bytes of a listed key on the disk of the head node, which infra/kubernetes gives 20 GiB.
MANIFEST_BYTES, HEAD_DISK = 100.0, 20 * 2**30

# Layers, width, patch and the ratio of the feed-forward layers of image towers: open_clip's and timm's configurations.
TOWERS = {
    "ViT-B-32": (12, 768, 32, 4.0),
    "ViT-B-16": (12, 768, 16, 4.0),
    "ViT-L-14": (24, 1024, 14, 4.0),
    "ViT-L-16": (24, 1024, 16, 4.0),
    "ViT-H-14": (32, 1280, 14, 4.0),
    "ViT-bigG-14": (48, 1664, 14, 4.9231),
    "ViT-SO400M-14": (27, 1152, 14, 3.7362),
    "ViT-SO400M-16": (27, 1152, 16, 3.7362),
}


@dataclass(frozen=True)
class Line:
    """One figure of an estimate: its value, and its basis."""

    part: str
    what: str
    value: float
    unit: str
    basis: Basis
    how: str


@dataclass(frozen=True)
class Estimate:
    """An estimate, from its inputs. Defaults that the user did not set are assumptions."""

    images: int
    model: ModelSpec
    gpu: str
    hours: float
    image_mb: float
    captions: float
    quantization: Quantization
    vector_type: VectorType
    on_disk: OnDisk
    copies: int
    grpc: bool
    nodes: int
    node_memory: float
    node_disk: float
    zones: int
    gpu_cores: float
    node_cores: float
    qps: float
    utilisation: float
    payload_bytes: float
    index_bytes: float
    headroom: float
    gpu_price: float
    vcpu_price: float
    memory_price: float
    disk_price: float

    @property
    def gflops(self) -> float:
        """GFLOP of one image in the image tower, counting a multiply-add as two operations."""
        layers, width, patch, ratio = TOWERS[tower(self.model) or ""]
        side = (self.model.image_size or 0) // patch
        tokens = side * side + 1
        layer = tokens * width * width * (4 + 2 * ratio) + 2 * tokens * tokens * width
        return 2 * (layers * layer + side * side * 3 * patch * patch * width) / 1e9

    def lines(self) -> Iterator[Line]:
        """Yield all figures."""
        yield from self._encoding()
        yield from self._network()
        yield from self._bucket()
        yield from self._qdrant()
        yield from self._service()
        yield from self._walls()

    @property
    def core_s(self) -> float:
        """Seconds of a core that fetch and decode one image."""
        return FETCH_S + DECODE_S + DECODE_S_PER_MB * self.image_mb

    @property
    def cores(self) -> int:
        """Cores that fetch and decode everything in time."""
        return math.ceil(self.images * self.core_s / 3600 / self.hours)

    @property
    def rate(self) -> float:
        """Images that one GPU, or one core, encodes in a second."""
        if self.gpu == "none":
            return CPU_ENCODE_GFLOPS / self.gflops
        return GPUS[self.gpu][0] * 1000 * self.utilisation / self.gflops

    @property
    def encoders(self) -> int:
        """GPUs, or cores, that encode everything in time."""
        return math.ceil(self.images / self.rate / 3600 / self.hours)

    def _encoding(self) -> Iterator[Line]:
        yield Line("index", "image tower", self.gflops, "GFLOP/image", "arithmetic", "layers x tokens x width")
        basis: Basis = "measured"
        if self.gpu == "none":
            how = "one core, float32, as ViT-B-32's"
        else:
            basis, how = "assumed", f"{self.utilisation:.0%} of {GPUS[self.gpu][0]:g} published TFLOP/s"
        one = "core" if self.gpu == "none" else self.gpu
        yield Line("index", f"images per second of one {one}", self.rate, "1/s", basis, how)
        work_h = self.images / self.rate / 3600
        yield Line("index", f"encoding, {one} hours", work_h, "h", "arithmetic", "images / rate")
        yield Line("index", f"{one}s to be done in {self.hours:g} h", self.encoders, "", "arithmetic", "rounded up")
        core_ms = self.core_s * 1000
        yield Line("index", "fetch and decode", core_ms, "ms of a core", "measured", f"{self.image_mb:g} MB JPEG")
        cpu_h = self.images * self.core_s / 3600
        yield Line("index", "fetch and decode, core hours", cpu_h, "h", "arithmetic", "images x time")
        yield Line(
            "index", f"cores to be done in {self.hours:g} h", self.cores, "", "arithmetic", "beside the encoders"
        )
        if self.gpu != "none":
            yield Line(
                "index", f"cores that keep one {one} busy", self.rate * self.core_s, "", "arithmetic", "rate x time"
            )
        yield from self._index_nodes()
        writers = self.images / self.hours / 3600 / WRITTEN_POINTS_PER_S
        yield Line("index", "cores that write points", writers, "", "measured", f"{WRITTEN_POINTS_PER_S:,.0f}/s each")
        price = cpu_h * self.vcpu_price + work_h * (self.vcpu_price if self.gpu == "none" else self.gpu_price)
        prices = f"${self.vcpu_price:g} per core hour" + (
            "" if self.gpu == "none" else f", ${self.gpu_price:g} per GPU hour"
        )
        yield Line("index", "machines, once", price, "$", "assumed", f"{prices}; spot is less")

    def _index_nodes(self) -> Iterator[Line]:
        if self.gpu == "none":
            nodes = math.ceil((self.cores + self.encoders) / self.node_cores)
            yield Line("index", "nodes without a GPU", nodes, "", "arithmetic", f"{self.node_cores:g} cores each")
            return
        yield Line(
            "index", f"nodes with a {self.gpu}", self.encoders, "", "arithmetic", f"{self.gpu_cores:g} cores each"
        )
        nodes = math.ceil(max(0.0, self.cores - self.encoders * self.gpu_cores) / self.node_cores)
        how = f"{self.node_cores:g} cores each; the others are beside the GPUs"
        yield Line("index", "nodes without a GPU", nodes, "", "arithmetic", how)

    def _network(self) -> Iterator[Line]:
        """Traffic of a first run between its nodes and to Qdrant, with nodes spread evenly over the zones."""
        side = self.model.image_size or 0
        pixels = 3 * side * side
        # With GPUs, what the cores beside them do not decode comes from other nodes; without, Ray encodes anywhere.
        beside = self.encoders * self.gpu_cores / max(1, self.cores)
        elsewhere = max(0.0, 1 - beside) if self.gpu != "none" else 1.0
        sent = self.images * pixels * elsewhere / 1e9
        how = f"{pixels:,} B of pixels per image, {elsewhere:.0%} of them decoded on other nodes"
        yield Line("network", "decoders to encoders", sent, "GB", "arithmetic", how)
        gbits = sent * 8 / self.hours / 3600
        yield Line("network", "decoders to encoders, at once", gbits, "Gbit/s", "arithmetic", f"in {self.hours:g} h")
        written = self._sent_points(GRPC_NUMBER_BYTES if self.grpc else JSON_NUMBER_BYTES)
        written += (self.copies - 1) * self._sent_points(GRPC_NUMBER_BYTES)
        how = f"{'gRPC' if self.grpc else 'JSON'}; further copies go from node to node by gRPC"
        yield Line("network", "points to Qdrant", written, "GB", "measured", how)
        crossing = (self.zones - 1) / self.zones
        price = (sent + written) * crossing * ZONE_PRICE
        how = f"${ZONE_PRICE} per GB, {crossing:.0%} of both; 0 with all nodes in one zone"
        yield Line("network", f"across {self.zones} zones, once", price, "$", "published", how)

    def _sent_points(self, number_bytes: float) -> float:
        """GB of all points in requests with numbers of this size."""
        numbers = (1 + self.captions) * (self.model.dimension or 0)
        return self.images * (numbers * number_bytes + self.payload_bytes) / 1e9

    def _bucket(self) -> Iterator[Line]:
        lists = math.ceil(self.images / LISTED_PER_REQUEST)
        yield Line("S3", "LIST requests of a run", lists, "", "arithmetic", f"{LISTED_PER_REQUEST:,} keys each")
        yield Line(
            "S3",
            "GET requests of a first run",
            self.images,
            "",
            "arithmetic",
            "one per image; later runs: only changes",
        )
        read = self.images * self.image_mb / 1e6
        yield Line("S3", "read by a first run", read, "TB", "arithmetic", "free within a region, except through a NAT")
        gbits = read * 8000 / self.hours / 3600
        how = f"in {self.hours:g} h, by the nodes that decode"
        yield Line("S3", "read by a first run, at once", gbits, "Gbit/s", "arithmetic", how)
        first = self.images / 1000 * S3_GET_PRICE + lists / 1000 * S3_LIST_PRICE
        yield Line("S3", "first run", first, "$", "published", f"${S3_GET_PRICE} and ${S3_LIST_PRICE} for 1,000")
        yield Line("S3", "run that finds nothing new", lists / 1000 * S3_LIST_PRICE, "$", "published", "LIST alone")
        prefixes = math.ceil(self.images / self.hours / 3600 / S3_GETS_PER_S)
        yield Line(
            "S3", "prefixes to read from at that rate", prefixes, "", "published", f"{S3_GETS_PER_S:,} GET/s each"
        )

    def _vector_bytes(self, vector_type: VectorType) -> float:
        return VECTOR_BYTES[vector_type] * (self.model.dimension or 0)

    @property
    def memory_parts(self) -> dict[str, float]:
        """Bytes of an image in the memory of one copy. What is read from disk counts nothing."""
        vectors = 1 + self.captions
        quantized = QUANTIZED_BYTES[self.quantization] * (self.model.dimension or 0)
        return {
            "vectors": vectors * (quantized or self._vector_bytes(self.vector_type)),
            "graphs": 0.0 if self.on_disk == "graphs" else vectors * graph_bytes(GRAPH_M),
            "payload indexes": self.index_bytes + self.captions * CAPTION_INDEX_BYTES
            if self.on_disk == "vectors"
            else 0.0,
            "ids": POINT_ID_BYTES,
        }

    @property
    def reindex_memory(self) -> float:
        """Bytes of an image in the memory of one copy during a re-index: the live collection, and the one it loads."""
        parts = self.memory_parts
        live = sum(parts.values())
        loading = LOADING_FACTOR * (parts["ids"] + parts["payload indexes"])
        return live + max(live, loading)

    @property
    def image_disk(self) -> float:
        """Bytes of an image on the disk of one copy."""
        return disk_bytes(
            points=1,
            vectors=1 + self.captions,
            captions=self.captions,
            dimension=self.model.dimension or 0,
            vector_type=self.vector_type,
            quantization=self.quantization,
            payload_bytes=self.payload_bytes,
        )

    def _qdrant(self) -> Iterator[Line]:
        dimension = self.model.dimension or 0
        vectors = self.images * (1 + self.captions)
        if self.images <= EMBEDDED_MAX_IMAGES:
            how = "the embedded store, without VIEWFINDER_QDRANT_URL; its disk is that of int8"
            yield Line("Qdrant", "images without a server", EMBEDDED_MAX_IMAGES, "images", "measured", how)
        yield Line("Qdrant", "vectors", vectors, "", "arithmetic", f"of {dimension}; captions: {self.captions:.0%}")
        parts = self.memory_parts
        for name, size in parts.items():
            yield Line("Qdrant", f"memory for {name}", size, "B/image", _PART_BASIS[name], self._how_part(name))
        resident = sum(parts.values()) * self.images * self.headroom / 1e9
        yield Line("Qdrant", "memory of one copy", resident, "GB", "assumed", f"all of these x {self.headroom:g}")
        disk = self.image_disk * self.images * self.headroom / 1e9
        full = self._vector_bytes(self.vector_type)
        of_point = f"{INDEX_DISK_BYTES:g} B of indexes, payload {self.payload_bytes:g} B"
        how = f"{self.vector_type} {full:g} B per vector, {of_point}"
        yield Line("Qdrant", "disk of one copy", disk, "GB", "assumed", how)
        memory, space = resident * self.copies, disk * self.copies
        yield Line("Qdrant", f"memory of {self.copies} copies", memory, "GB", "arithmetic", "on at least as many nodes")
        reindex = self.reindex_memory * self.images * self.headroom * self.copies / 1e9
        yield Line("Qdrant", "memory during a re-index", reindex, "GB", "arithmetic", "two collections exist")
        yield Line("Qdrant", "disk during a re-index", 2 * space, "GB", "arithmetic", "two collections exist")
        by_memory, by_disk = math.ceil(reindex / self.node_memory), math.ceil(2 * space / self.node_disk)
        nodes = max(1 if self.copies == 1 else max(3, self.copies), by_memory, by_disk)
        how = f"{by_memory} by memory ({self.node_memory:g} GB each), {by_disk} by disk ({self.node_disk:g} GB each)"
        yield Line("Qdrant", "nodes for a re-index", nodes, "", "arithmetic", how)
        hours = vectors * self.copies * graph_core_s(vectors / nodes, dimension) / 3600
        how = "each copy builds its own; measured up to 60,000 vectors, beyond with the logarithm, so at least this"
        yield Line("Qdrant", "graph building, core hours", hours, "h", "measured", how)
        price = memory * self.memory_price + 2 * space * self.disk_price
        how = f"${self.memory_price:g} per GB of memory, ${self.disk_price:g} per GB of disk (for two)"
        yield Line("Qdrant", "per month", price, "$", "assumed", how)

    def _how_part(self, name: str) -> str:
        if name == "vectors":
            if self.quantization != "none":
                return f"{self.quantization}, always in memory; the originals are on disk"
            return f"{self.vector_type}, on disk: as much page cache keeps searches fast"
        if name == "graphs":
            return "on disk" if self.on_disk == "graphs" else f"{graph_bytes(GRAPH_M):g} B per vector (m is {GRAPH_M})"
        if name == "payload indexes":
            return "on disk" if self.on_disk != "vectors" else "docs/scaling.md lists them by field"
        return "a UUID and its number, both ways"

    def _service(self) -> Iterator[Line]:
        # Batching absorbs a short burst, but not a constant overload.
        replicas = max(2, math.ceil(self.qps / (0.7 * REPLICA_QPS)))
        how = f"{REPLICA_QPS:g}/s a core with ViT-B-32, 70 % busy, at least two"
        yield Line("service", f"replicas for {self.qps:g} searches per second", replicas, "", "measured", how)
        yield Line("service", "per month", replicas * 730 * self.vcpu_price, "$", "assumed", "one core per replica")

    def _walls(self) -> Iterator[Line]:
        """The number of images at which each part of the named deployment is full, and which is met first."""
        per_copy = sum(self.memory_parts.values()) * self.headroom
        memory, disk = self.nodes * self.node_memory * 1e9, self.nodes * self.node_disk * 1e9
        of_nodes = f"{self.nodes} Qdrant nodes"
        walls = {
            f"memory of {of_nodes}": (memory / per_copy / self.copies, f"{self.node_memory:g} GB each"),
            f"memory of {of_nodes}, re-index": (
                memory / (self.reindex_memory * self.headroom) / self.copies,
                "two collections exist",
            ),
            f"disk of {of_nodes}, re-index": (
                disk / (self.image_disk * self.headroom) / self.copies / 2,
                f"{self.node_disk:g} GB each",
            ),
            "GETs from one prefix": (S3_GETS_PER_S * self.hours * 3600, f"{S3_GETS_PER_S:,}/s for {self.hours:g} h"),
            "manifest on the head node": (HEAD_DISK / MANIFEST_BYTES, f"{MANIFEST_BYTES:g} B per key, 20 GiB"),
        }
        for name, (images, how) in walls.items():
            yield Line("walls", name, images, "images", "arithmetic", how)
        name, (images, _) = min(walls.items(), key=lambda wall: wall[1][0])
        met = "met: this plan needs more" if self.images > images else "not met"
        yield Line("walls", f"first wall: {name}", images, "images", "arithmetic", met)


def graph_core_s(vectors: float, dimension: int) -> float:
    """Seconds of a core that add one vector to a graph that ends with this number of them."""
    growth = math.log(max(2.0, vectors)) / math.log(GRAPH_MEASURED_AT)
    return GRAPH_CORE_S * dimension / 512 * max(growth, 0.1)


def tower(model: ModelSpec) -> str | None:
    """The image tower in TOWERS: the longest name contained in the architecture's name."""
    held = [name for name in TOWERS if re.search(rf"(^|-){re.escape(name)}(-|$)", model.arch)]
    return max(held, key=len, default=None)
