"""The arithmetic of `viewfinder size`, and the input that it refuses."""

import json
import math
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.infra.manifests import KUBERNETES
from viewfinder.cli.estimate import (
    GPUS,
    GRAPH_CORE_S,
    GRAPH_MEASURED_AT,
    LOADING_FACTOR,
    REPLICA_QPS,
    S3_GET_PRICE,
    S3_GETS_PER_S,
    S3_LIST_PRICE,
    TOWERS,
    graph_core_s,
)
from viewfinder.cli.main import main
from viewfinder.cli.size import quantity
from viewfinder.footprint import (
    CAPTION_INDEX_BYTES_OF,
    INDEX_BYTES,
    INDEX_BYTES_OF,
    INDEX_DISK_BYTES,
    POINT_ID_BYTES,
    graph_bytes,
)
from viewfinder.models.registry import REGISTRY
from viewfinder.settings import Settings
from viewfinder.store.schema import PAYLOAD_INDEXES
from viewfinder.store.words import CAPTION_WORDS

ROOT = Path(__file__).resolve().parents[2]


def size(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, float]:
    """The printed values, by line."""
    assert main(["size", *flags, "--json"]) == 0
    return {line["what"]: line["value"] for line in json.loads(capsys.readouterr().out)}


@pytest.mark.parametrize(
    ("text", "number"),
    [("250000", 250_000), ("250_000", 250_000), ("100k", 100_000), ("2.5M", 2_500_000), ("1B", 10**9), ("7", 7)],
)
def test_numbers_are_read_as_people_write_them(text: str, number: int) -> None:
    assert quantity(text) == number


@pytest.mark.parametrize("text", ["", "many", "0", "-5", "1.5", "1e6", "10T", "0.0001k"])
def test_an_invalid_number_of_images_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        quantity(text)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--images"),
        (["--images", "plenty"], "'plenty' is not a number like 250000, 100k, 2.5M or 1B"),
        (["--images", "1M", "--gpu", "L5"], "'L5' is not one of 'T4', 'L4'"),
        (["--images", "1M", "--model", "ViT-B-23::openai"], "Closest known: 'ViT-B-32::openai'"),
        (["--images", "1M", "--model", "demo"], "the size of 'demo' is not known; use the most similar of ViT-B-32"),
        (["--images", "1M", "--hours", "0"], "'0' is not a number above 0"),
        (["--images", "1M", "--hours", "nan"], "'nan' is not a number above 0"),
        (["--images", "1M", "--captions", "2"], "'2' is not a number from 0 to 1"),
        (["--images", "1M", "--utilisation", "0"], "is not a number above 0"),
        (["--images", "1M", "--headroom", "0.5"], "'0.5' is not a number of at least 1"),
        (["--images", "1M", "--quantization", "binary"], "'binary' is not one of 'none', 'int8', '4bit'"),
    ],
)
def test_a_mistake_is_one_clear_message(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["size", *flags]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


# Multiply-adds of the image tower as open_clip publishes them in docs/model_profile.csv, in 10^9.
@pytest.mark.parametrize(
    ("model", "gmacs"),
    [
        ("ViT-B-32::openai", 4.41),
        ("ViT-B-16::openai", 17.58),
        ("ViT-L-14::openai", 81.08),
        ("ViT-L-14-336::openai", 191.1),
        ("ViT-H-14::laion2b_s32b_b79k", 167.4),
        ("ViT-bigG-14::laion2b_s39b_b160k", 483.96),
    ],
)
def test_the_work_of_an_image_tower_matches_open_clips_figures(
    model: str, gmacs: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert size(capsys, "--images", "1k", "--model", model)["image tower"] == pytest.approx(2 * gmacs, rel=0.03)


@pytest.mark.parametrize("name", sorted(TOWERS))
def test_the_towers_are_those_of_open_clips_and_timms_configurations(name: str) -> None:
    layers, width, patch, ratio = TOWERS[name]
    file = package("open_clip") / f"model_configs/{name}.json"
    if file.exists() and "layers" in (tower := json.loads(file.read_text())["vision_cfg"]):
        assert (tower["layers"], tower["width"], tower["patch_size"], tower.get("mlp_ratio", 4.0)) == TOWERS[name]
        return
    # open_clip leaves the sizes of the others to timm, whose models are functions.
    source = (package("timm") / "models/vision_transformer.py").read_text()
    found = re.search(
        rf"def vit_{name.split('-')[1].lower()}_patch{patch}_siglip_\d+\(.*?dict\((.*?)\)", source, re.DOTALL
    )
    assert found, name
    said = dict(re.findall(r"(\w+)=([\d.]+)", found[1]))
    assert (int(said["depth"]), int(said["embed_dim"]), float(said["mlp_ratio"])) == (layers, width, ratio)


def package(name: str) -> Path:
    found = find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


@pytest.mark.parametrize("model", [name for name in REGISTRY if "::" in name])
def test_every_model_of_the_registry_has_a_size(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert size(capsys, "--images", "1M", "--model", model)["image tower"] > 8


SCALING = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


BARE = ("--headroom", "1", "--index-bytes", "1e-9")
ENDLESS = ("--node-memory", "1e6", "--node-disk", "1e6")


def test_memory_is_vectors_times_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    def memory(*flags: str) -> float:
        """Bytes of an image in memory, without indexes and id."""
        return size(capsys, "--images", "1M", *BARE, *flags)["memory of one copy"] * 1000 - POINT_ID_BYTES

    assert memory() == pytest.approx(2048 + 136)
    assert memory("--vector-type", "float16") == pytest.approx(1024 + 136)
    assert memory("--quantization", "int8") == pytest.approx(512 + 136)
    assert memory("--quantization", "4bit", "--vector-type", "float16") == pytest.approx(256 + 136)
    assert memory("--quantization", "int8", "--on-disk", "graphs") == pytest.approx(512)
    # A caption is a second vector with a graph of its own, and is indexed.
    of_captions = sum(memory for memory, _ in CAPTION_INDEX_BYTES_OF.values())
    assert memory("--captions", "0.5") == pytest.approx(1.5 * 2184 + 0.5 * of_captions)
    with_indexes = size(capsys, "--images", "1M", "--headroom", "1")["memory of one copy"] * 1000
    assert with_indexes == pytest.approx(2184 + INDEX_BYTES + POINT_ID_BYTES)
    on_disk = size(capsys, "--images", "1M", "--headroom", "1", "--on-disk", "indexes")["memory of one copy"] * 1000
    assert on_disk == pytest.approx(2184 + POINT_ID_BYTES)


def test_quantized_vectors_stand_beside_the_originals_on_disk(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--images", "1M", "--headroom", "1", "--payload-bytes", "100")
    quantized = size(capsys, *flags, "--quantization", "int8")["disk of one copy"] * 1000
    assert quantized == pytest.approx(2048 + 512 + 136 + INDEX_DISK_BYTES + 100)
    halves = size(capsys, *flags, "--vector-type", "float16")["disk of one copy"] * 1000
    assert halves == pytest.approx(1024 + 136 + INDEX_DISK_BYTES + 100)


def test_the_index_bytes_are_those_of_the_indexed_fields() -> None:
    assert {*INDEX_BYTES_OF, *CAPTION_INDEX_BYTES_OF} == {*PAYLOAD_INDEXES, CAPTION_WORDS}
    assert sum(memory for memory, _ in INDEX_BYTES_OF.values()) == INDEX_BYTES
    listed = re.findall(r"\| `(\w+)`(?: \(one\))? \| (\d+) \| (\d+) ", SCALING)
    for field, memory, disk in listed:
        assert INDEX_BYTES_OF[field] == (int(memory), int(disk)), field
    assert {field for field, _, _ in listed} == {field for field, (memory, _) in INDEX_BYTES_OF.items() if memory}


def test_graphs_and_vectors_are_those_of_qdrants_tutorial_on_400_million_images() -> None:
    # 512 dimensions, binary quantization, m 6, float16 originals on disk: 53.8 GB of memory; ids are numbers.
    ours = 400e6 * (512 / 8 + graph_bytes(6) + 12) / 1e9
    assert ours == pytest.approx(53.8, rel=0.05)


def test_a_graph_takes_longer_for_each_vector_that_it_has() -> None:
    assert graph_core_s(GRAPH_MEASURED_AT, 512) == pytest.approx(GRAPH_CORE_S)
    assert graph_core_s(GRAPH_MEASURED_AT**2, 512) == pytest.approx(2 * GRAPH_CORE_S)
    assert graph_core_s(GRAPH_MEASURED_AT, 1024) == pytest.approx(2 * GRAPH_CORE_S)


def test_every_copy_builds_its_own_graphs(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--images", "1M", "--gpu", "none")
    one, two = (size(capsys, *flags, "--copies", copies)["graph building, core hours"] for copies in ("1", "2"))
    assert one == pytest.approx(1e6 * graph_core_s(1e6, 512) / 3600)
    assert two == pytest.approx(2 * 1e6 * graph_core_s(1e6 / 3, 512) / 3600), "on three nodes"


def test_pixels_cross_the_network_where_the_cores_beside_the_gpus_do_not_suffice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pixels = 3 * 224 * 224
    few = size(capsys, "--images", "10M")
    assert few["decoders to encoders"] == 0, "one core is enough, and the GPU's node has eight"
    many = size(capsys, "--images", "100M", "--zones", "2")
    assert many["cores to be done in 24 h"] == 10
    sent = 1e8 * pixels * 0.2 / 1e9
    assert many["decoders to encoders"] == pytest.approx(sent)
    assert many["decoders to encoders, at once"] == pytest.approx(sent * 8 / 86_400)
    points = 1e8 * (512 * 21 + 1000 + 2048 + 1000) / 1e9
    assert size(capsys, "--images", "100M", "--grpc")["points to Qdrant"] == pytest.approx(2 * 1e8 * 3048 / 1e9)
    assert many["points to Qdrant"] == pytest.approx(points)
    assert many["across 2 zones, once"] == pytest.approx((sent + points) / 2 * 0.02)
    assert size(capsys, "--images", "100M", "--zones", "1")["across 1 zones, once"] == 0
    assert size(capsys, "--images", "1M", "--gpu", "none")["decoders to encoders"] == pytest.approx(pixels / 1000)


def test_nodes_are_those_that_a_re_index_needs(capsys: pytest.CaptureFixture[str]) -> None:
    for flags, nodes in (
        (("--images", "1M"), 3),  # a majority of three
        (("--images", "1M", "--copies", "1"), 1),
        (("--images", "10M"), math.ceil(4 * size(capsys, "--images", "10M")["memory of one copy"] / 16)),
        (("--images", "10M", "--node-memory", "1000", "--node-disk", "50"), 4),
    ):
        assert size(capsys, *flags)["nodes for a re-index"] == nodes, flags


def test_a_re_index_needs_memory_for_payload_indexes_while_it_loads(capsys: pytest.CaptureFixture[str]) -> None:
    int8 = ("--images", "10M", "--quantization", "int8")
    plan = size(capsys, *int8)
    loading = LOADING_FACTOR * (POINT_ID_BYTES + INDEX_BYTES) * 1e7 * 2 * 1.25 / 1e9
    assert loading > plan["memory of 2 copies"]
    assert plan["memory during a re-index"] == pytest.approx(plan["memory of 2 copies"] + loading)
    while_loading = LOADING_FACTOR * (POINT_ID_BYTES + INDEX_BYTES)
    assert while_loading == pytest.approx(2500, abs=10), "as docs/scaling.md says"
    for flags in (("--images", "10M"), (*int8, "--on-disk", "indexes")):
        plan = size(capsys, *flags)
        assert plan["memory during a re-index"] == pytest.approx(2 * plan["memory of 2 copies"])


@pytest.mark.parametrize(
    ("flags", "wall", "met"),
    [
        (["--images", "20k"], "memory of 3 Qdrant nodes, re-index", False),
        (["--images", "1M"], "memory of 3 Qdrant nodes, re-index", False),
        (["--images", "3M"], "memory of 3 Qdrant nodes, re-index", True),
        (["--images", "3M", "--node-memory", "500"], "disk of 3 Qdrant nodes, re-index", False),
        (["--images", "1B", *ENDLESS], "manifest on the head node", True),
        (["--images", "1B", *ENDLESS, "--hours", "1"], "GETs from one prefix", True),
    ],
)
def test_the_first_wall_is_the_one_with_the_fewest_images(
    flags: list[str], wall: str, met: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["size", *flags, "--json"]) == 0
    lines = [each for each in json.loads(capsys.readouterr().out) if each["part"] == "walls"]
    first = lines[-1]
    assert first["what"] == f"first wall: {wall}"
    assert first["how"].startswith("met") is met
    assert first["value"] == min([each["value"] for each in lines[:-1]] + [first["value"]])


PLANS = re.findall(r"^\| (\w+) \| (values\S*\.yaml)(, int8, indexes)? \| (.*) \|$", SCALING, re.MULTILINE)


def flags_of(file: str, more: str) -> list[str]:
    """The settings and nodes of Qdrant's values in `infra/kubernetes/qdrant`, as flags."""
    text = (KUBERNETES / "qdrant" / file).read_text()
    values = yaml.safe_load((KUBERNETES / "qdrant/values.yaml").read_text()) | yaml.safe_load(text)
    settings = dict(re.findall(r"^# +VIEWFINDER_(\w+)=(\w+)$", text, re.MULTILINE)) if file != "values.yaml" else {}
    settings |= {"QUANTIZATION": "int8", "ON_DISK": "indexes"} if more else {}
    Settings.load({f"VIEWFINDER_{name}": value for name, value in settings.items()})
    flags = [word for name, value in settings.items() for word in (f"--{name.lower().replace('_', '-')}", value)]
    memory, disk = values["resources"]["limits"]["memory"], values["persistence"]["size"]
    return [
        *flags,
        *("--nodes", str(values["replicaCount"])),
        *("--node-memory", memory.removesuffix("Gi"), "--node-disk", disk.removesuffix("Gi")),
    ]


@pytest.mark.parametrize(("images", "file", "more", "row"), PLANS, ids=[plan[0] for plan in PLANS])
def test_qdrants_values_have_room_for_their_size_and_the_scaling_page_says_so(
    images: str, file: str, more: str, row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = flags_of(file, more)
    plan = size(capsys, "--images", images, *flags)
    nodes = int(flags[flags.index("--nodes") + 1])
    assert plan["nodes for a re-index"] <= nodes
    (wall,) = [what for what in plan if what.startswith("first wall: ")]
    names = ("memory of 2 copies", "memory during a re-index", "disk during a re-index", "nodes for a re-index")
    names += ("graph building, core hours", "decoders to encoders")
    cells = [*(figure(plan[name]) for name in names), f"${figure(plan['across 3 zones, once'])}"]
    cells += [wall.removeprefix("first wall: ").split(" of ")[0], figure(plan[wall])]
    assert row == " | ".join(cells)


def test_qdrants_values_name_the_numbers_of_images_that_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert [plan[0] for plan in PLANS] == ["100k", "1M", "10M", "100M", "1B"]
    text = (KUBERNETES / "qdrant/values.yaml").read_text()
    for more, said in (("", "2.7 million images as it is"), (", int8, indexes", "13 million with")):
        plan = size(capsys, "--images", "1M", *flags_of("values.yaml", more))
        (images,) = [value for what, value in plan.items() if what.startswith("first wall: ")]
        assert float(said.split()[0]) <= images / 1e6 < float(said.split()[0]) + 1
        assert said in text


def test_figures_grow_with_the_images_and_shrink_with_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    small, large = (size(capsys, "--images", images) for images in ("1M", "1B"))
    for what in ("encoding, L4 hours", "fetch and decode, core hours", "memory of one copy", "first run"):
        assert large[what] == pytest.approx(1000 * small[what])
    assert large["LIST requests of a run"] == 10**6
    assert large["GET requests of a first run"] == 10**9
    assert small["L4s to be done in 24 h"] == 1
    assert large["L4s to be done in 24 h"] == 4
    assert size(capsys, "--images", "1B", "--hours", "8")["L4s to be done in 8 h"] == 11


def test_without_a_gpu_cores_encode(capsys: pytest.CaptureFixture[str]) -> None:
    lines = size(capsys, "--images", "1M", "--gpu", "none")
    assert lines["images per second of one core"] == pytest.approx(10.4, abs=0.1)
    assert not any("L4" in what for what in lines)


def test_every_line_names_its_basis(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["size", "--images", "100M", "--gpu", "l4"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0][4] == "basis"
    assert {line[4] for line in lines[1:]} == {"measured", "arithmetic", "published", "assumed"}


def test_memory_is_near_qdrants_rule_of_thumb(capsys: pytest.CaptureFixture[str]) -> None:
    # Half as much again as the vectors, payload indexes not counted:
    # https://qdrant.tech/documentation/guides/capacity-planning
    theirs = 1e6 * 512 * 4 * 1.5 / 1e9
    ours = size(capsys, "--images", "1M", "--on-disk", "indexes")["memory of one copy"]
    assert ours == pytest.approx(theirs, rel=0.15)


@pytest.mark.parametrize("images", ["100k", "1M", "10M", "100M", "1B"])
def test_the_table_of_the_scaling_page_matches_the_program(images: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain, int8, four_bit = (
        size(capsys, "--images", images, "--quantization", each) for each in ("none", "int8", "4bit")
    )
    figures = [plain["encoding, L4 hours"], plain["fetch and decode, core hours"]]
    figures += [each["memory of one copy"] for each in (plain, int8, four_bit)]
    figures += [each["disk of one copy"] for each in (plain, int8)]
    money = [plain["first run"], plain["run that finds nothing new"]]
    row = [images, *map(figure, figures), *(f"${figure(each)}" for each in money)]
    assert f"| {' | '.join(row)} |" in SCALING


@pytest.mark.parametrize("model", re.findall(r"^\| `(\S+::\S+)` \|", SCALING, re.MULTILINE))
def test_the_models_of_the_scaling_page_match_the_program(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain = size(capsys, "--images", "100M", "--model", model)
    int8 = size(capsys, "--images", "100M", "--model", model, "--quantization", "int8")
    names = ("image tower", "images per second of one L4", "encoding, L4 hours", "cores that keep one L4 busy")
    row = [f"`{model}`", *(figure(plain[name]) for name in names), figure(int8["memory of one copy"])]
    assert f"| {' | '.join(row)} |" in SCALING


def test_the_text_of_the_scaling_page_matches_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    text = re.sub(r"\s+", " ", SCALING)

    def plan(images: str, *flags: str) -> dict[str, float]:
        return size(capsys, "--images", images, *flags)

    million, ten, hundred, billion = (plan(images) for images in ("1M", "10M", "100M", "1B"))
    int8 = plan("100M", "--quantization", "int8")
    on_disk = plan("100M", "--quantization", "int8", "--on-disk", "indexes")
    few = [math.ceil(on_disk[what] / 64) for what in ("memory of one copy", "memory of 2 copies")]
    smallest = plan("1B", "--quantization", "4bit", "--on-disk", "graphs")["memory of one copy"]
    nodes = [math.ceil(int8[what] / 64) for what in ("memory of one copy", "memory of 2 copies")]
    on_cores = plan("1M", "--gpu", "none")["encoding, core hours"]
    decoding = ten["fetch and decode, core hours"]
    largest = [plan("1B", "--quantization", each)["memory of one copy"] for each in ("int8", "4bit")]
    for said in (
        f"needs {hundred['cores that keep one L4 busy']:.0f} cores for each L4",
        f"a million images are {on_cores:.0f} core hours on CPUs",
        f"{million['encoding, L4 hours'] * 60:.0f} minutes of an L4",
        f"{figure(million['fetch and decode, core hours'])} core hours of decoding either way",
        f"in {figure(ten['encoding, L4 hours'])} hours; with the four cores",
        f"take {decoding / 4:.0f} hours",
        f"{figure(ten['memory of one copy'])} GB for float32",
        f"{figure(int8['memory of one copy'])} GB in int8 is {nodes[0]} nodes of 64 GB for one copy, {nodes[1]} for",
        f"with payload indexes on disk {figure(on_disk['memory of one copy'])} GB are {few[0]} and {few[1]}.",
        f"{figure(smallest)} GB in 4-bit with indexes and graphs on disk",
        f"{INDEX_BYTES:,.0f} bytes per point in memory, {INDEX_DISK_BYTES:.0f} on disk",
        f"| {POINT_ID_BYTES:.0f} bytes |",
        f"{GRAPH_CORE_S * 1000:.2f} ms of a core per vector",
        f"{billion['GETs from one prefix']:,.0f} GETs in a day",
        f"at {billion['manifest on the head node']:,.0f} keys",
        f"{round(1e8 / 86_400, -2):,.0f} GETs a second finish in a day",
        f"{figure(largest[0])} GB in int8, {figure(largest[1])} GB in 4-bit, for one copy",
        f"The listing is {billion['LIST requests of a run']:,.0f} requests",
        f"a first run in a day reads {figure(billion['read by a first run, at once'])} Gbit/s from S3",
        f"÷ (0.7 × {REPLICA_QPS:.0f})",
        f"where this page has {plan('1M', '--on-disk', 'indexes')['memory of one copy']:.1f} without",
        f"T4 {GPUS['T4'][0]:.0f}, A100 {GPUS['A100'][0]:.0f}, L40S {GPUS['L40S'][0]:.0f} TFLOP/s",
        f"L4 {GPUS['L4'][0]:.0f}, H100 and H200 {GPUS['H200'][0]:.0f}",
        f"A10G {GPUS['A10G'][0]:.0f}",
        f"{S3_GETS_PER_S:,} GETs a second",
        f"${S3_GET_PRICE} for 1,000 GETs, ${S3_LIST_PRICE} for 1,000 LISTs",
    ):
        assert said in text, said
    assert int8["per month"] > int8["machines, once"], "a month of Qdrant costs more than indexing everything"
