"""The towers of an export: each is loaded when it is first used, and refused if it is not what was written."""

import errno
import functools
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models.exported import Exported, changed, exported, published
from tests.models.test_encoder import TEXTS, random_images
from viewfinder.errors import ViewfinderError
from viewfinder.models import exporter, exports, openvino_runtime, probes
from viewfinder.models.encoder import Encoder
from viewfinder.models.exports import Export, ExportMissingError, Manifest
from viewfinder.models.openvino_runtime import OpenVinoRuntime
from viewfinder.models.runtime import TowerName

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported("clip", tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize(("tower", "vectors"), [("text", "texts"), ("image", "images")])
def test_a_tower_whose_vectors_differ_is_refused(
    clip: Exported, tmp_path: Path, tower: TowerName, vectors: str
) -> None:
    with np.load(clip.export.file("probes.npz")) as found:
        vectors_of = {name: found[name] for name in found.files}
    vectors_of[vectors] = vectors_of[vectors][:, ::-1]
    np.savez(tmp_path / "probes.npz", **vectors_of)
    other = changed(clip.export, tmp_path, **{"probes.npz": (tmp_path / "probes.npz").read_bytes()})
    with pytest.raises(
        ExportMissingError, match=f"its {tower} vectors differ from torch's in float32: cosine"
    ) as refused:
        OpenVinoRuntime(other, "float32").load("text", "image")
    assert not refused.value.retry


@pytest.mark.parametrize("name", ["text.xml", "image.xml"])
def test_files_that_openvino_cannot_read_are_refused(clip: Exported, tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportMissingError, match="OpenVINO cannot use its export") as refused:
        OpenVinoRuntime(changed(clip.export, tmp_path, **{name: b"<net>"}), "float32").load("text", "image")
    assert refused.value.retry


@pytest.mark.parametrize("name", ["image.xml", "image.bin"])
def test_a_damaged_file_of_a_tower_is_named(clip: Exported, tmp_path: Path, name: str) -> None:
    damaged = changed(clip.export, tmp_path)
    content = damaged.file(name).read_bytes()
    damaged.file(name).write_bytes(content[: len(content) // 2])
    runtime = OpenVinoRuntime(damaged, "float32")
    runtime.load("text")
    with pytest.raises(ExportMissingError, match=f"is damaged \\({name} has changed\\)"):
        runtime.encode_images(random_images(1, 32))


@pytest.fixture
def without_images(clip: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The image tower of this machine's export of the model, which OpenVINO cannot read."""
    return published(clip, tmp_path, monkeypatch, **{"image.xml": b"<net>"}).file("image.xml")


def test_a_tower_is_read_when_it_is_first_used(clip: Exported, without_images: Path) -> None:
    whole = Encoder.load(clip.checkpoint, device="cpu", towers=["text"])
    without_images.unlink()
    vectors, _ = whole.encode_texts(TEXTS)
    np.testing.assert_allclose(vectors, clip.encoder.encode_texts(TEXTS)[0], rtol=0, atol=1e-5)
    assert whole.runtime.name == "openvino"


def test_an_encoder_goes_on_with_torch_where_a_tower_cannot_be_used(
    clip: Exported, without_images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = Encoder.load(clip.checkpoint, device="cpu", precision="float32", towers=["text"])
    before, _ = encoder.encode_texts(TEXTS)
    images = random_images(4, 32)
    expected = clip.encoder.encode_images(images)
    with caplog.at_level("INFO"), ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(encoder.encode_images, [images] * 4):
            np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)
    lines = [each.getMessage() for each in caplog.records if "runs on torch" in each.getMessage()]
    assert len(lines) == 1, "four threads load one model"
    assert "OpenVINO cannot use its export" in lines[0]
    assert encoder.runtime.name == "torch"
    np.testing.assert_allclose(encoder.encode_texts(TEXTS)[0], before, rtol=0, atol=1e-5)


def test_an_export_is_made_again_where_openvino_is_set(
    clip: Exported, without_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = functools.partial(
        Encoder.load, clip.checkpoint, device="cpu", runtime="openvino", precision="float32", towers=["text"]
    )
    whole = changed(clip.export, without_images.parents[1] / "whole")
    monkeypatch.setattr(exporter, "prepare", lambda _: whole)
    encoder, images = load(), random_images(4, 32)
    np.testing.assert_allclose(encoder.encode_images(images), clip.encoder.encode_images(images), rtol=0, atol=1e-5)
    assert encoder.runtime.name == "openvino"
    assert encoder.is_complete
    monkeypatch.setattr(exporter, "prepare", lambda _: replace(whole, directory=without_images.parent))
    encoder = load()
    with pytest.raises(ViewfinderError, match=r"does not run on OpenVINO: its export in .* is damaged"):
        encoder.encode_images(images)
    assert len(encoder.encode_texts(TEXTS)[0]) == len(TEXTS)


def test_a_file_that_cannot_be_read_now_is_read_by_the_next_call(
    clip: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process with too many open files went on with torch until it ended."""
    runtime = OpenVinoRuntime(clip.export, "float32")
    encoder = Encoder(clip.checkpoint, runtime, None, lambda: pytest.fail("the model is loaded again"))
    verify, failing = Export.verify, [OSError(errno.EMFILE, "Too many open files")]

    def verify_later(export: Export, *names: str) -> None:
        if failing:
            raise failing.pop()
        verify(export, *names)

    monkeypatch.setattr(Export, "verify", verify_later)
    images = random_images(1, 32)
    with pytest.raises(OSError, match="Too many open files"):
        encoder.encode_images(images)
    np.testing.assert_allclose(encoder.encode_images(images), clip.encoder.encode_images(images), rtol=0, atol=1e-5)


def test_a_refused_tower_leaves_nothing_to_the_next_one(
    clip: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the second model was checked with a request of the first."""
    other = changed(clip.export, tmp_path)
    monkeypatch.setattr(probes, "lowest_cosine", lambda *_: -1.0)
    runtime = OpenVinoRuntime(other, "float32", threads=1)
    images = random_images(2, 32)
    expected = clip.encoder.runtime.encode_images(images)
    with pytest.raises(ExportMissingError, match="vectors differ"):
        runtime.encode_images(images)
    assert not runtime.is_complete
    monkeypatch.undo()
    used: list[Any] = []
    infer = openvino_runtime._Compiled.__call__

    def note(compiled: Any, inputs: Any) -> Any:
        used.append(compiled._model)
        return infer(compiled, inputs)

    monkeypatch.setattr(openvino_runtime._Compiled, "__call__", note)
    np.testing.assert_allclose(runtime.encode_images(images), expected, atol=1e-5)
    assert len({id(each) for each in used}) == 1


def test_a_dropped_runtime_is_freed_without_a_collection_of_garbage(clip: Exported) -> None:
    """A replica freezes what is there when it has started: in a cycle, its first model would stay for ever."""
    runtime = OpenVinoRuntime(clip.export, "float32", threads=1)
    encoder = Encoder(clip.checkpoint, runtime)
    encoder.encode_texts(["a cat"])
    encoder.encode_images(random_images(1, 32))
    reference = weakref.ref(runtime)
    gc.disable()
    try:
        del runtime, encoder
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("damage", ["unusable", "damaged", "passing"])
def test_a_runtime_whose_tower_was_refused_is_freed_when_it_is_replaced(
    clip: Exported, without_images: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Regression: an error kept the frames of loading, and these the model."""
    if damage == "damaged":
        without_images.write_bytes(b"other")
    if damage == "passing":
        monkeypatch.setattr(exports, "sha256", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "failed")))
    export = Export(without_images.parent, Manifest.load(without_images.parent))
    runtime = OpenVinoRuntime(export, "float32", threads=1)
    encoder = Encoder(clip.checkpoint, runtime, None, lambda: clip.encoder)
    reference = weakref.ref(runtime)
    gc.disable()
    try:
        if damage == "passing":
            with pytest.raises(OSError, match="failed"):
                encoder.encode_images(random_images(1, 32))
            del encoder
        else:
            encoder.encode_images(random_images(1, 32))
        del runtime
        assert reference() is None
    finally:
        gc.enable()
