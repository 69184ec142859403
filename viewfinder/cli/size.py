"""`viewfinder size`: estimate the machines, memory, disk, network, requests and money that an index needs."""

import re
from dataclasses import asdict
from typing import Annotated, Any, get_args

import typer

from viewfinder.cli import output
from viewfinder.cli.estimate import GPUS, Estimate, tower
from viewfinder.cli.options import JsonOption, choice, examples, model_name, number, optional, positive, ratio, whole
from viewfinder.footprint import INDEX_BYTES, PAYLOAD_BYTES
from viewfinder.models.registry import REGISTRY, ModelSpec, find
from viewfinder.settings import OnDisk, Quantization, VectorType
from viewfinder.wording import counted

QUANTIZATIONS, VECTOR_TYPES, ON_DISK = get_args(Quantization), get_args(VectorType), get_args(OnDisk)
SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}

EPILOG = examples(
    "viewfinder size --images 100M",
    "viewfinder size --images 2.5M --model ViT-L-14::openai --gpu H100 --hours 8",
    "viewfinder size --images 100M --quantization int8 --on-disk indexes",
)


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


_ImagesOption = Annotated[
    int, optional(metavar="N", help="Number of images, such as 100k, 2.5M or 1B.", parser=_quantity)
]
_ModelOption = Annotated[str, typer.Option(metavar="NAME", help="Model, from 'viewfinder models'.", parser=model_name)]
_GpuOption = Annotated[
    str, typer.Option(metavar="KIND", help=f"{', '.join(GPUS)}, or none.", parser=choice(*GPUS, "none"))
]
_CaptionsShareOption = Annotated[float, typer.Option(metavar="R", help="Share of images with a caption.", parser=ratio)]
_QuantizationOption = Annotated[
    Quantization,
    typer.Option(
        metavar="|".join(QUANTIZATIONS), help="Format of vectors in Qdrant's memory.", parser=choice(*QUANTIZATIONS)
    ),
]
_VectorTypeOption = Annotated[
    VectorType,
    typer.Option(metavar="|".join(VECTOR_TYPES), help="Format of the originals.", parser=choice(*VECTOR_TYPES)),
]
_OnDiskOption = Annotated[
    OnDisk,
    typer.Option(metavar="|".join(ON_DISK), help="What Qdrant reads from disk.", parser=choice(*ON_DISK)),
]
_GrpcOption = Annotated[
    bool, typer.Option("--grpc", help="Points are written by gRPC (VIEWFINDER_QDRANT_GRPC_URL), not as JSON.")
]
_UtilisationOption = Annotated[float, typer.Option(metavar="R", help="Share of the GPU's peak.", parser=_share_above_0)]
_HeadroomOption = Annotated[
    float, typer.Option(metavar="X", help="Factor on Qdrant's memory and disk.", parser=number(1))
]


def _whole_amount(help: str) -> Any:
    """An option with a whole number above 0."""
    return typer.Option(metavar="N", help=help, parser=whole(1))


def size_command(
    images: _ImagesOption,
    model: _ModelOption = "ViT-B-32::openai",
    gpu: _GpuOption = "L4",
    hours: Annotated[float, _amount("H", "Time for the first run.")] = 24.0,
    image_mb: Annotated[float, _amount("MB", "Mean size of an image.")] = 0.5,
    captions: _CaptionsShareOption = 0.0,
    quantization: _QuantizationOption = "none",
    vector_type: _VectorTypeOption = "float32",
    on_disk: _OnDiskOption = "vectors",
    copies: Annotated[int, _whole_amount("Qdrant's replication factor.")] = 2,
    grpc: _GrpcOption = False,
    nodes: Annotated[int, _whole_amount("Nodes of Qdrant that exist.")] = 3,
    node_memory: Annotated[float, _amount("GB", "Memory of a node of Qdrant.")] = 16.0,
    node_disk: Annotated[float, _amount("GB", "Disk of a node of Qdrant.")] = 100.0,
    zones: Annotated[int, _whole_amount("Zones that nodes are in.")] = 3,
    gpu_cores: Annotated[float, _amount("N", "Cores beside a GPU.")] = 8.0,
    node_cores: Annotated[float, _amount("N", "Cores of a node without a GPU.")] = 16.0,
    qps: Annotated[float, _amount("N", "Searches per second, each with a new text.")] = 20.0,
    utilisation: _UtilisationOption = 0.25,
    payload_bytes: Annotated[float, _amount("B", "Payload of a point on disk.")] = PAYLOAD_BYTES,
    index_bytes: Annotated[float, _amount("B", "Payload indexes of a point in memory.")] = INDEX_BYTES,
    headroom: _HeadroomOption = 1.25,
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
        vector_type=vector_type,
        on_disk=on_disk,
        copies=copies,
        grpc=grpc,
        nodes=nodes,
        node_memory=node_memory,
        node_disk=node_disk,
        zones=zones,
        gpu_cores=gpu_cores,
        node_cores=node_cores,
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
    rows = [[line.part, line.what, _format_number(line.value), line.unit, line.basis, line.how] for line in lines]
    if output.stdout().is_terminal:
        output.print_text(f"{counted(estimate.images, 'image')}, {estimate.model.name}, {estimate.gpu}")
    output.print_table(headings, rows)


def _sized_model(name: str) -> ModelSpec:
    model = find(name)
    if tower(model) is None or not model.dimension or not model.image_size:
        sizes = [known for known, spec in REGISTRY.items() if tower(spec)]
        raise typer.BadParameter(
            f"the size of {model.name!r} is not known; use the most similar of {', '.join(sizes)}.",
            param_hint="'--model'",
        )
    return model


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
