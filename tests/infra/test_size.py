"""The arithmetic of `viewfinder size`, and the input that it refuses."""

import json
import math
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from viewfinder.cli.main import main
from viewfinder.cli.size import GPUS, REPLICA_QPS, S3_GET_PRICE, S3_GETS_PER_S, S3_LIST_PRICE, TOWERS, quantity
from viewfinder.models.registry import REGISTRY

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


def test_memory_is_vectors_times_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    plain = {"--images": "1M", "--headroom": "1", "--index-bytes": "1e-9"}
    flags = [word for pair in plain.items() for word in pair]
    assert size(capsys, *flags)["memory of one copy"] == pytest.approx((2048 + 136) / 1000)
    assert size(capsys, *flags, "--quantization", "int8")["memory of one copy"] == pytest.approx((512 + 136) / 1000)
    assert size(capsys, *flags, "--quantization", "4bit")["memory of one copy"] == pytest.approx((256 + 136) / 1000)
    # A caption is a second vector with a graph of its own; quantized vectors stand beside the full ones on disk.
    assert size(capsys, *flags, "--captions", "0.5")["memory of one copy"] == pytest.approx(1.5 * 2.184)
    quantized = size(capsys, *flags, "--quantization", "int8", "--payload-bytes", "100")
    assert quantized["disk of one copy"] == pytest.approx(2.048 + 0.512 + 0.136 + 0.1)


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
    # Half as much again as the vectors: https://qdrant.tech/documentation/guides/capacity-planning
    theirs = 1e6 * 512 * 4 * 1.5 / 1e9
    assert size(capsys, "--images", "1M")["memory of one copy"] == pytest.approx(theirs, rel=0.1)


SCALING = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


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
        f"{round(1e8 / 86_400, -2):,.0f} GETs a second finish in a day",
        f"{figure(largest[0])} GB in int8, {figure(largest[1])} GB in 4-bit, for one copy",
        f"The listing is {billion['LIST requests of a run']:,.0f} requests",
        f"÷ (0.7 × {REPLICA_QPS:.0f})",
        f"where this page has {figure(million['memory of one copy'])}",
        f"T4 {GPUS['T4'][0]:.0f}, A100 {GPUS['A100'][0]:.0f}, L40S {GPUS['L40S'][0]:.0f} TFLOP/s",
        f"L4 {GPUS['L4'][0]:.0f}, H100 and H200 {GPUS['H200'][0]:.0f}",
        f"A10G {GPUS['A10G'][0]:.0f}",
        f"{S3_GETS_PER_S:,} GETs a second",
        f"${S3_GET_PRICE} for 1,000 GETs, ${S3_LIST_PRICE} for 1,000 LISTs",
    ):
        assert said in text, said
    assert int8["per month"] > int8["machines, once"], "a month of Qdrant costs more than indexing everything"
