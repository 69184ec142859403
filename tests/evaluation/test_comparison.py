"""Evaluation of collections with known answers, in an embedded store."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from jobs.evaluate import main
from viewfinder.arrays import Vectors
from viewfinder.evaluation.comparison import CURVE_DEPTH
from viewfinder.models.checkpoint import locate
from viewfinder.models.encoder import Encoder
from viewfinder.settings import Settings
from viewfinder.sources.uris import point_id
from viewfinder.store import PointBatch, Store, StoreAddress, open_local
from viewfinder.store.schema import ModelIdentity

pytestmark = pytest.mark.slow

TEXTS = [f"image number {number}" for number in range(30)]
URIS = [f"s3://bucket/{number}.jpg" for number in range(30)]


def collect(store: Store, model: str, order: Sequence[int]) -> str:
    """Make a collection in which image n has the vector of caption order[n]; return its name."""
    checkpoint = locate(model)
    captions = Encoder.load(checkpoint, device="cpu").encode_texts(TEXTS)[0]
    made = store.collections.create("images", ModelIdentity.of(checkpoint))
    payloads = [{"uri": uri, "caption": text, "caption_hash": text} for uri, text in zip(URIS, TEXTS, strict=True)]
    images: Vectors = captions[list(order)]
    batch = PointBatch([point_id(uri) for uri in URIS], payloads, image=images, caption=captions)
    store.points.upsert(made, batch, wait=True)
    return made.name


@pytest.fixture
def collections(tmp_path: Path, tiny_model: str, other_model: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """One in which every text finds its own image, and one in which every text finds its neighbour's."""
    monkeypatch.setenv("VIEWFINDER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("VIEWFINDER_DEVICE", "cpu")
    with open_local(StoreAddress.of(Settings.load())) as store:
        right = collect(store, tiny_model, range(30))
        wrong = collect(store, other_model, [*range(1, 30), 0])
        store.collections.promote("images", right)
    return right, wrong


@pytest.fixture
def evaluation_set(tmp_path: Path) -> str:
    path = tmp_path / "queries.jsonl"
    lines = [json.dumps({"text": text, "relevant": [uri]}) for text, uri in zip(TEXTS, URIS, strict=True)]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize("with_set", [True, False])
def test_two_collections_are_compared(
    collections: tuple[str, str],
    evaluation_set: str,
    tmp_path: Path,
    with_set: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--evaluation-set", evaluation_set] if with_set else []
    right, wrong = collections
    out = tmp_path / "out"
    assert main([*flags, "--collection", right, "--collection", wrong, "--out", str(out)]) == 0
    good, bad = json.loads((out / "evaluation.json").read_text())
    assert (good["collection"], bad["collection"]) == (right, wrong)
    assert good["recall"]["1"] == good["mrr"] == good["ndcg"] == 1
    assert bad["recall"]["1"] == 0
    assert bad["mrr"] < 1
    assert good["queries"] == 30
    assert len(good["recall"]) == CURVE_DEPTH
    assert good["approximate_recall"] == 1
    table = (out / "evaluation.md").read_text()
    assert table in capsys.readouterr().out
    assert table.splitlines()[0] == f"| collection | `{right}` | `{wrong}` |"
    assert "| recall@1 | 1.0000 | 0.0000 |" in table


def test_the_plot_shows_both_curves(collections: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["--collection", collections[0], "--collection", collections[1], "--out", str(out)]) == 0
    with Image.open(out / "evaluation.png") as image:
        assert image.size == (1600, 700)
        colours = {colour for _, colour in image.convert("RGB").getcolors(2**24) or []}
    assert {(0x1F, 0x77, 0xB4), (0xD6, 0x27, 0x28)} <= colours


def test_without_a_name_the_live_collection_is_measured(
    collections: tuple[str, str], evaluation_set: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(["--evaluation-set", evaluation_set, "--out", str(out)]) == 0
    assert [each["collection"] for each in json.loads((out / "evaluation.json").read_text())] == [collections[0]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--collection", "nothing"], "It has: images__"),
        (["--index", "other"], "There is no index 'other'"),
        (["--evaluation-set", "/no/such/file"], "/no/such/file"),
    ],
)
def test_a_mistake_is_reported_in_one_message(
    collections: tuple[str, str], flags: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*flags, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_more_than_two_collections_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--collection", "a", "--collection", "b", "--collection", "c"]) == 2
