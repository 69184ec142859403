"""How much of everything an index takes: GPUs, CPU cores, Qdrant's memory and disk, S3 requests, money.

python benchmarks/size.py --images 100M --model ViT-B-32::openai --gpu L4

Each line says what it rests on: measured (by this repository's benchmarks), arithmetic, published (by others), or
assumed. docs/scaling.md explains the figures; whoever has better ones passes them in.
"""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from viewfinder.errors import UnknownModelError
from viewfinder.models.registry import REGISTRY, ModelSpec, find
from viewfinder.settings import Quantization

Basis = Literal["measured", "arithmetic", "published", "assumed"]

# Measured with benchmarks/jpeg_decode.py's pictures at 0.1 to 3.9 MB: CPU seconds of one core for a JPEG to 224 pixels.
DECODE_S = 0.0027
DECODE_S_PER_MB = 0.0070
# Measured beside it: ViT-B-32's image tower, float32, batches of 32, one thread.
CPU_ENCODE_GFLOPS = 92.0
# Measured against a loopback endpoint, whose share is in it: 1,000 objects read in a second by two cores.
FETCH_S = 0.002
# Measured: `batching` of benchmarks/out/results.json, searches/s of a replica with one core, no text asked twice.
REPLICA_QPS = 45.0
# Measured: points of 512 dimensions that one core of a job sends by REST.
WRITTEN_POINTS_PER_S = 20_000.0

# Published by NVIDIA (docs/scaling.md says where): TFLOP/s of the tensor cores in half precision, dense. The price of
# an hour, on demand in a cloud, is an assumption.
GPUS = {
    "T4": (65.0, 0.53),
    "L4": (121.0, 0.80),
    "A10G": (70.0, 1.01),
    "L40S": (362.0, 1.86),
    "A100": (312.0, 3.40),
    "H100": (989.0, 6.90),
    "H200": (989.0, 7.90),
}
# Published by AWS for S3 Standard in us-east-1: dollars for 1,000 requests, and GETs a second for one prefix.
S3_GET_PRICE, S3_LIST_PRICE, S3_GETS_PER_S = 0.0004, 0.005, 5500
LISTED_PER_REQUEST = 1000
# Published by Qdrant: links of a graph's lowest level are twice m, m is 16, a link takes 4 bytes; the levels above add
# one part in sixteen.
GRAPH_BYTES = 2 * 16 * 4 * 17 / 16

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
SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


@dataclass(frozen=True)
class Line:
    """One line of the answer."""

    part: str
    what: str
    value: float
    unit: str
    basis: Basis
    how: str


@dataclass(frozen=True)
class Plan:
    """What is to be sized; every default that is no choice of the user's is an assumption."""

    images: int
    model: ModelSpec
    gpu: str
    hours: float
    image_mb: float
    captions: float
    quantization: Quantization
    copies: int
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
        """Of one picture through the image tower, two for each multiply-add."""
        layers, width, patch, ratio = TOWERS[_tower(self.model) or ""]
        side = (self.model.image_size or 0) // patch
        tokens = side * side + 1
        layer = tokens * width * width * (4 + 2 * ratio) + 2 * tokens * tokens * width
        return 2 * (layers * layer + side * side * 3 * patch * patch * width) / 1e9

    def lines(self) -> Iterator[Line]:
        """The answer, line by line."""
        yield from self._encoding()
        yield from self._bucket()
        yield from self._qdrant()
        yield from self._service()

    def _encoding(self) -> Iterator[Line]:
        core_s = FETCH_S + DECODE_S + DECODE_S_PER_MB * self.image_mb
        yield Line("index", "image tower", self.gflops, "GFLOP/picture", "arithmetic", "layers x tokens x width")
        basis: Basis = "measured"
        if self.gpu == "none":
            rate, how = CPU_ENCODE_GFLOPS / self.gflops, "one core, float32, as ViT-B-32's"
        else:
            rate = GPUS[self.gpu][0] * 1000 * self.utilisation / self.gflops
            basis, how = "assumed", f"{self.utilisation:.0%} of {GPUS[self.gpu][0]:g} published TFLOP/s"
        one = "core" if self.gpu == "none" else self.gpu
        yield Line("index", f"pictures a second of one {one}", rate, "1/s", basis, how)
        work_h = self.images / rate / 3600
        yield Line("index", f"encoding, {one} hours", work_h, "h", "arithmetic", "pictures / rate")
        encoders = math.ceil(work_h / self.hours)
        yield Line("index", f"{one}s to be done in {self.hours:g} h", encoders, "", "arithmetic", "rounded up")
        yield Line("index", "fetch and decode", core_s * 1000, "ms of a core", "measured", f"{self.image_mb:g} MB JPEG")
        cpu_h = self.images * core_s / 3600
        yield Line("index", "fetch and decode, core hours", cpu_h, "h", "arithmetic", "pictures x time")
        cores = math.ceil(cpu_h / self.hours)
        yield Line("index", f"cores to be done in {self.hours:g} h", cores, "", "arithmetic", "beside the encoders")
        if self.gpu != "none":
            yield Line("index", f"cores that keep one {one} busy", rate * core_s, "", "arithmetic", "rate x time")
        writers = self.images / self.hours / 3600 / WRITTEN_POINTS_PER_S
        yield Line("index", "cores that write points", writers, "", "measured", f"{WRITTEN_POINTS_PER_S:,.0f}/s each")
        price = cpu_h * self.vcpu_price + work_h * (self.vcpu_price if self.gpu == "none" else self.gpu_price)
        prices = f"${self.vcpu_price:g} a core hour" + (
            "" if self.gpu == "none" else f", ${self.gpu_price:g} a GPU hour"
        )
        yield Line("index", "machines, once", price, "$", "assumed", f"{prices}; spot is less")

    def _bucket(self) -> Iterator[Line]:
        lists = math.ceil(self.images / LISTED_PER_REQUEST)
        yield Line("S3", "LIST requests of a run", lists, "", "arithmetic", f"{LISTED_PER_REQUEST:,} keys each")
        yield Line("S3", "GET requests of a first run", self.images, "", "arithmetic", "one a picture; reruns: changes")
        read = self.images * self.image_mb / 1e6
        yield Line("S3", "read by a first run", read, "TB", "arithmetic", "free within a region, not through a NAT")
        first = self.images / 1000 * S3_GET_PRICE + lists / 1000 * S3_LIST_PRICE
        yield Line("S3", "first run", first, "$", "published", f"${S3_GET_PRICE} and ${S3_LIST_PRICE} for 1,000")
        yield Line("S3", "run that finds nothing new", lists / 1000 * S3_LIST_PRICE, "$", "published", "LIST alone")
        prefixes = math.ceil(self.images / self.hours / 3600 / S3_GETS_PER_S)
        yield Line(
            "S3", "prefixes to read from at that rate", prefixes, "", "published", f"{S3_GETS_PER_S:,} GET/s each"
        )

    def _qdrant(self) -> Iterator[Line]:
        dimension = self.model.dimension or 0
        vectors = self.images * (1 + self.captions)
        yield Line("Qdrant", "vectors", vectors, "", "arithmetic", f"of {dimension}; captions: {self.captions:.0%}")
        full, small = 4 * dimension, {"none": 0.0, "int8": dimension, "4bit": dimension / 2}[self.quantization]
        resident = vectors * (small or full) + vectors * GRAPH_BYTES + self.images * self.index_bytes
        held = "float32" if self.quantization == "none" else self.quantization
        each = f"{held} {small or full:g} B, graph {GRAPH_BYTES:g} B"
        how = f"{each} a vector; {self.index_bytes:g} B a point"
        yield Line("Qdrant", "memory of one copy", resident * self.headroom / 1e9, "GB", "assumed", how)
        disk = vectors * (full + small + GRAPH_BYTES) + self.images * (self.index_bytes + self.payload_bytes)
        how = f"float32 {full} B a vector besides, payload {self.payload_bytes:g} B a point"
        yield Line("Qdrant", "disk of one copy", disk * self.headroom / 1e9, "GB", "assumed", how)
        memory, space = (one * self.headroom * self.copies / 1e9 for one in (resident, disk))
        yield Line("Qdrant", f"memory of {self.copies} copies", memory, "GB", "arithmetic", "on as many nodes at least")
        yield Line("Qdrant", "memory during a re-index", 2 * memory, "GB", "arithmetic", "two collections stand")
        yield Line("Qdrant", "disk during a re-index", 2 * space, "GB", "arithmetic", "two collections stand")
        price = memory * self.memory_price + 2 * space * self.disk_price
        how = f"${self.memory_price:g} a GB of memory, ${self.disk_price:g} of disk, disk for two"
        yield Line("Qdrant", "a month", price, "$", "assumed", how)

    def _service(self) -> Iterator[Line]:
        # Batches make up for a busy moment; a queue that never empties they do not.
        replicas = max(2, math.ceil(self.qps / (0.7 * REPLICA_QPS)))
        how = f"{REPLICA_QPS:g}/s a core with ViT-B-32, 70 % busy, two at least"
        yield Line("service", f"replicas for {self.qps:g} searches a second", replicas, "", "measured", how)
        yield Line("service", "a month", replicas * 730 * self.vcpu_price, "$", "assumed", "a core a replica")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan; 2 for what cannot be sized."""
    plan, as_json = _parse(argv)
    lines = list(plan.lines())
    text = json.dumps([asdict(line) for line in lines], indent=2) if as_json else _table(plan, lines)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has read what it wanted; Python would complain once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def quantity(text: str) -> int:
    """`100M` → 100,000,000; also `2.5k`, `1B`, `250_000`. Raises `ValueError`."""
    if not (match := re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", text.replace("_", "").replace(",", "").upper())):
        raise ValueError(f"{text!r} is not a number as 250000, 100k, 2.5M or 1B")
    value = float(match[1]) * SUFFIXES[match[2]]
    if value < 1 or value != int(value):
        raise ValueError(f"{text!r} is not a whole number of at least 1")
    return int(value)


def _parse(argv: Sequence[str] | None) -> tuple[Plan, bool]:
    parser = argparse.ArgumentParser(
        prog="benchmarks/size.py", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("--images", required=True, type=_checked(quantity), metavar="N", help="pictures: 100k, 2.5M, 1B")
    add("--model", default="ViT-B-32::openai", metavar="NAME", help="as 'viewfinder models' lists them (%(default)s)")
    add("--gpu", default="L4", metavar="KIND", help=f"{', '.join(GPUS)}, or none (%(default)s)")
    add("--hours", default=24.0, type=_positive, metavar="H", help="for the first run (%(default)g)")
    add("--image-mb", default=0.5, type=_positive, metavar="MB", help="mean size of a picture (%(default)g)")
    add("--captions", default=0.0, type=_share, metavar="SHARE", help="of the pictures that have one (%(default)g)")
    add("--quantization", default="none", choices=get_args(Quantization), help="in Qdrant's memory (%(default)s)")
    add("--copies", default=2, type=_checked(quantity), metavar="N", help="Qdrant's replication factor (%(default)s)")
    add("--qps", default=20.0, type=_positive, metavar="N", help="searches a second, new texts (%(default)g)")
    add("--utilisation", default=0.25, type=_share, metavar="SHARE", help="of the GPU's peak (%(default)g)")
    add("--payload-bytes", default=1000.0, type=_positive, metavar="B", help="of a point, on disk (%(default)g)")
    add("--index-bytes", default=400.0, type=_positive, metavar="B", help="payload indexes and ids (%(default)g)")
    add("--headroom", default=1.25, type=_positive, metavar="X", help="times what must be there (%(default)g)")
    add("--gpu-price", type=_positive, metavar="$", help="an hour")
    add("--vcpu-price", default=0.045, type=_positive, metavar="$", help="an hour of a core (%(default)g)")
    add("--memory-price", default=5.0, type=_positive, metavar="$", help="a month of a GB (%(default)g)")
    add("--disk-price", default=0.08, type=_positive, metavar="$", help="a month of a GB (%(default)g)")
    add("--json", action="store_true", help="for programs")
    values = vars(parser.parse_args(argv))
    as_json = values.pop("json")
    kinds = {kind.lower(): kind for kind in (*GPUS, "none")}
    if values["gpu"].lower() not in kinds:
        parser.error(f"--gpu: {values['gpu']!r} is not known; there are {', '.join(kinds.values())}")
    values["gpu"] = gpu = kinds[values["gpu"].lower()]
    if values["gpu_price"] is None:
        values["gpu_price"] = 0.0 if gpu == "none" else GPUS[gpu][1]
    if values["utilisation"] == 0:
        parser.error("--utilisation: must be above 0")
    if values["headroom"] < 1:
        parser.error(f"--headroom: must be at least 1, not {values['headroom']:g}")
    try:
        values["model"] = model = find(values["model"])
    except UnknownModelError as error:
        parser.error(f"--model: {error}")
    if _tower(model) is None or not model.dimension or not model.image_size:
        sizes = [name for name, spec in REGISTRY.items() if _tower(spec)]
        parser.error(f"--model: the size of {model.name!r} is not known; take the nearest of {', '.join(sizes)}")
    return Plan(**values), as_json


def _tower(model: ModelSpec) -> str | None:
    """The image tower in TOWERS; the longest name that the architecture's name holds."""
    held = [name for name in TOWERS if re.search(rf"(^|-){re.escape(name)}(-|$)", model.arch)]
    return max(held, key=len, default=None)


def _table(plan: Plan, lines: Sequence[Line]) -> str:
    width = max(len(line.what) for line in lines)
    rows = (
        f"{line.part:8} {line.what:{width}} {_number(line.value):>14} {line.unit:13} {line.basis:10} {line.how}"
        for line in lines
    )
    return "\n".join([f"{plan.images:,} pictures, {plan.model.name}, {plan.gpu}", "", *rows])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _checked(convert: Callable[[str], int]) -> Callable[[str], int]:
    def checked(text: str) -> int:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


def _positive(text: str) -> float:
    value = _float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return value


def _share(text: str) -> float:
    value = _float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 0 to 1")
    return value


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


if __name__ == "__main__":
    sys.exit(main())
