"""`viewfinder size`: estimate the machines, memory, disk, requests and money that an index needs."""

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args

import typer

from viewfinder.cli import output
from viewfinder.cli.options import JsonOption, choice, examples, model_name, number, optional, positive, ratio, whole
from viewfinder.models.registry import REGISTRY, ModelSpec, find
from viewfinder.settings import Quantization
from viewfinder.wording import counted

QUANTIZATIONS = get_args(Quantization)

EPILOG = examples(
    "viewfinder size --images 100M",
    "viewfinder size --images 2.5M --model ViT-L-14::openai --gpu H100 --hours 8",
)

Basis = Literal["measured", "arithmetic", "published", "assumed"]

# Measured with the images of benchmarks/jpeg_decode.py, 0.1 to 3.9 MB: CPU seconds to decode a JPEG to 224 pixels.
DECODE_S = 0.0027
DECODE_S_PER_MB = 0.0070
# Measured in the same run: ViT-B-32's image tower, float32, batches of 32, one thread.
CPU_ENCODE_GFLOPS = 92.0
# Measured against an endpoint on the same machine, whose CPU time is included: 1,000 objects/s on two cores.
FETCH_S = 0.002
# Measured (`batching` in benchmarks/out/results.json): searches/s of a replica with one core, each text new.
REPLICA_QPS = 45.0
# Measured: points/s of 512 dimensions that one core of a job sends by REST.
WRITTEN_POINTS_PER_S = 20_000.0

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
# Published by Qdrant: the lowest level of a graph has 2m links of 4 bytes each, m is 16; the levels above add
# one sixteenth.
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
        """GFLOP of one image in the image tower, counting a multiply-add as two operations."""
        layers, width, patch, ratio = TOWERS[_tower(self.model) or ""]
        side = (self.model.image_size or 0) // patch
        tokens = side * side + 1
        layer = tokens * width * width * (4 + 2 * ratio) + 2 * tokens * tokens * width
        return 2 * (layers * layer + side * side * 3 * patch * patch * width) / 1e9

    def lines(self) -> Iterator[Line]:
        """Yield all figures."""
        yield from self._encoding()
        yield from self._bucket()
        yield from self._qdrant()
        yield from self._service()

    def _encoding(self) -> Iterator[Line]:
        core_s = FETCH_S + DECODE_S + DECODE_S_PER_MB * self.image_mb
        yield Line("index", "image tower", self.gflops, "GFLOP/image", "arithmetic", "layers x tokens x width")
        basis: Basis = "measured"
        if self.gpu == "none":
            rate, how = CPU_ENCODE_GFLOPS / self.gflops, "one core, float32, as ViT-B-32's"
        else:
            rate = GPUS[self.gpu][0] * 1000 * self.utilisation / self.gflops
            basis, how = "assumed", f"{self.utilisation:.0%} of {GPUS[self.gpu][0]:g} published TFLOP/s"
        one = "core" if self.gpu == "none" else self.gpu
        yield Line("index", f"images per second of one {one}", rate, "1/s", basis, how)
        work_h = self.images / rate / 3600
        yield Line("index", f"encoding, {one} hours", work_h, "h", "arithmetic", "images / rate")
        encoders = math.ceil(work_h / self.hours)
        yield Line("index", f"{one}s to be done in {self.hours:g} h", encoders, "", "arithmetic", "rounded up")
        yield Line("index", "fetch and decode", core_s * 1000, "ms of a core", "measured", f"{self.image_mb:g} MB JPEG")
        cpu_h = self.images * core_s / 3600
        yield Line("index", "fetch and decode, core hours", cpu_h, "h", "arithmetic", "images x time")
        cores = math.ceil(cpu_h / self.hours)
        yield Line("index", f"cores to be done in {self.hours:g} h", cores, "", "arithmetic", "beside the encoders")
        if self.gpu != "none":
            yield Line("index", f"cores that keep one {one} busy", rate * core_s, "", "arithmetic", "rate x time")
        writers = self.images / self.hours / 3600 / WRITTEN_POINTS_PER_S
        yield Line("index", "cores that write points", writers, "", "measured", f"{WRITTEN_POINTS_PER_S:,.0f}/s each")
        price = cpu_h * self.vcpu_price + work_h * (self.vcpu_price if self.gpu == "none" else self.gpu_price)
        prices = f"${self.vcpu_price:g} per core hour" + (
            "" if self.gpu == "none" else f", ${self.gpu_price:g} per GPU hour"
        )
        yield Line("index", "machines, once", price, "$", "assumed", f"{prices}; spot is less")

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
        how = f"{each} per vector; {self.index_bytes:g} B per point"
        yield Line("Qdrant", "memory of one copy", resident * self.headroom / 1e9, "GB", "assumed", how)
        disk = vectors * (full + small + GRAPH_BYTES) + self.images * (self.index_bytes + self.payload_bytes)
        how = f"plus float32 {full} B per vector, payload {self.payload_bytes:g} B per point"
        yield Line("Qdrant", "disk of one copy", disk * self.headroom / 1e9, "GB", "assumed", how)
        memory, space = (one * self.headroom * self.copies / 1e9 for one in (resident, disk))
        yield Line("Qdrant", f"memory of {self.copies} copies", memory, "GB", "arithmetic", "on at least as many nodes")
        yield Line("Qdrant", "memory during a re-index", 2 * memory, "GB", "arithmetic", "two collections exist")
        yield Line("Qdrant", "disk during a re-index", 2 * space, "GB", "arithmetic", "two collections exist")
        price = memory * self.memory_price + 2 * space * self.disk_price
        how = f"${self.memory_price:g} per GB of memory, ${self.disk_price:g} per GB of disk (for two)"
        yield Line("Qdrant", "per month", price, "$", "assumed", how)

    def _service(self) -> Iterator[Line]:
        # Batching absorbs a short burst, but not a constant overload.
        replicas = max(2, math.ceil(self.qps / (0.7 * REPLICA_QPS)))
        how = f"{REPLICA_QPS:g}/s a core with ViT-B-32, 70 % busy, at least two"
        yield Line("service", f"replicas for {self.qps:g} searches per second", replicas, "", "measured", how)
        yield Line("service", "per month", replicas * 730 * self.vcpu_price, "$", "assumed", "one core per replica")


def quantity(text: str) -> int:
    """`100M` → 100,000,000; also `2.5k`, `1B`, `250_000`. Raises `ValueError`."""
    if not (match := re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", text.replace("_", "").replace(",", "").upper())):
        raise ValueError(f"{text!r} is not a number like 250000, 100k, 2.5M or 1B")
    value = float(match[1]) * SUFFIXES[match[2]]
    if value < 1 or value != int(value):
        raise ValueError(f"{text!r} is not a whole number of at least 1")
    return int(value)


def _quantity(text: Any) -> int:
    try:
        return quantity(str(text))
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from error


def _share_above_0(text: Any) -> float:
    return positive(ratio(text))


def _amount(metavar: str, help: str) -> Any:
    """An option with a number above 0."""
    return typer.Option(metavar=metavar, help=help, parser=positive)


def size_command(
    images: Annotated[
        int,
        optional(metavar="N", help="Number of images, such as 100k, 2.5M or 1B.", parser=_quantity),
    ],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Model, from 'viewfinder models'.", parser=model_name)
    ] = "ViT-B-32::openai",
    gpu: Annotated[
        str, typer.Option(metavar="KIND", help=f"{', '.join(GPUS)}, or none.", parser=choice(*GPUS, "none"))
    ] = "L4",
    hours: Annotated[float, _amount("H", "Time for the first run.")] = 24.0,
    image_mb: Annotated[float, _amount("MB", "Mean size of an image.")] = 0.5,
    captions: Annotated[float, typer.Option(metavar="R", help="Share of images with a caption.", parser=ratio)] = 0.0,
    quantization: Annotated[
        Quantization,
        typer.Option(
            metavar="|".join(QUANTIZATIONS), help="Format of vectors in Qdrant's memory.", parser=choice(*QUANTIZATIONS)
        ),
    ] = "none",
    copies: Annotated[int, typer.Option(metavar="N", help="Qdrant's replication factor.", parser=whole(1))] = 2,
    qps: Annotated[float, _amount("N", "Searches per second, each with a new text.")] = 20.0,
    utilisation: Annotated[
        float, typer.Option(metavar="R", help="Share of the GPU's peak.", parser=_share_above_0)
    ] = 0.25,
    payload_bytes: Annotated[float, _amount("B", "Payload of a point on disk.")] = 1000.0,
    index_bytes: Annotated[float, _amount("B", "Payload indexes and id of a point.")] = 400.0,
    headroom: Annotated[
        float, typer.Option(metavar="X", help="Factor on Qdrant's memory and disk.", parser=number(1))
    ] = 1.25,
    gpu_price: Annotated[float | None, optional(metavar="$", help="A GPU for an hour.", parser=positive)] = None,
    vcpu_price: Annotated[float, _amount("$", "A CPU core for an hour.")] = 0.045,
    memory_price: Annotated[float, _amount("$", "A GB of memory for a month.")] = 5.0,
    disk_price: Annotated[float, _amount("$", "A GB of disk for a month.")] = 0.08,
    as_json: JsonOption = False,
) -> None:
    """Estimate machines, memory, disk and cost of an index.

    Each line says what it is based on: measured (by this project's benchmarks), arithmetic, published (by others), or
    assumed. docs/scaling.md explains the figures; pass better ones as options.
    """
    if gpu_price is None:
        gpu_price = 0.0 if gpu == "none" else GPUS[gpu][1]
    estimate = Estimate(
        images=images,
        model=_sized_model(model),
        gpu=gpu,
        hours=hours,
        image_mb=image_mb,
        captions=captions,
        quantization=quantization,
        copies=copies,
        qps=qps,
        utilisation=utilisation,
        payload_bytes=payload_bytes,
        index_bytes=index_bytes,
        headroom=headroom,
        gpu_price=gpu_price,
        vcpu_price=vcpu_price,
        memory_price=memory_price,
        disk_price=disk_price,
    )
    _print(estimate, as_json=as_json)


def _print(estimate: Estimate, *, as_json: bool) -> None:
    lines = list(estimate.lines())
    if as_json:
        output.print_json([asdict(line) for line in lines])
        return
    headings = ["part", "figure", "value", "unit", "basis", "how"]
    rows = [[line.part, line.what, _number(line.value), line.unit, line.basis, line.how] for line in lines]
    if output.stdout().is_terminal:
        output.print_text(f"{counted(estimate.images, 'image')}, {estimate.model.name}, {estimate.gpu}")
    output.print_table(headings, rows)


def _sized_model(name: str) -> ModelSpec:
    model = find(name)
    if _tower(model) is None or not model.dimension or not model.image_size:
        sizes = [known for known, spec in REGISTRY.items() if _tower(spec)]
        raise typer.BadParameter(
            f"the size of {model.name!r} is not known; use the most similar of {', '.join(sizes)}.",
            param_hint="'--model'",
        )
    return model


def _tower(model: ModelSpec) -> str | None:
    """The image tower in TOWERS: the longest name contained in the architecture's name."""
    held = [name for name in TOWERS if re.search(rf"(^|-){re.escape(name)}(-|$)", model.arch)]
    return max(held, key=len, default=None)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
