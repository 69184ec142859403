"""The alternatives that benchmarks compare with give the same vectors, with a tiny model."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu_pipeline, pipeline_efficiency, service_vs_plain_app
from benchmarks.bucket import bucket, photograph
from benchmarks.harness import NoFigureError
from benchmarks.transformers_clip import convert
from viewfinder.images.decoding import ImageLimits, decode
from viewfinder.models.checkpoint import locate
from viewfinder.models.encoder import Encoder
from viewfinder.testing.models import Family, tiny_checkpoint

pytestmark = pytest.mark.full


@pytest.mark.parametrize("family", ["clip", "clip-quickgelu"])
def test_the_converted_model_makes_the_same_vectors(family: Family, tmp_path: Path) -> None:
    import torch
    from transformers import CLIPModel, CLIPProcessor

    checkpoint = locate(str(tiny_checkpoint(tmp_path / "tiny", family)))
    directory = convert(checkpoint, tmp_path / "converted")
    model, processor = CLIPModel.from_pretrained(directory).eval(), CLIPProcessor.from_pretrained(directory)
    encoder = Encoder.load(checkpoint, device="cpu", precision="float32")
    size = checkpoint.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    texts = ["a dog", "", "一只猫", "two children on a beach"]
    with torch.inference_mode():
        seen = model.get_image_features(**processor(images=list(pixels), return_tensors="pt")).pooler_output
        read = model.get_text_features(**processor(text=texts, padding=True, return_tensors="pt")).pooler_output
    for theirs, ours in ((seen, encoder.encode_images(pixels)), (read, encoder.encode_texts(texts)[0])):
        unit = torch.nn.functional.normalize(theirs, dim=-1).numpy()
        np.testing.assert_allclose(unit, ours, atol=1e-5)


def test_the_plain_loop_gives_the_vectors_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = locate(str(tiny_checkpoint(tmp_path / "tiny")))
    with bucket(tmp_path / "s3", [(64, 48)], 3, each=2, kept=tmp_path) as images:
        for name, value in images.environment.items():
            monkeypatch.setenv(name, value)
        command = [sys.executable, "-m", "benchmarks.plain_loop", "open_clip", str(tmp_path / "tiny"), "images"]
        subprocess.run([*command, "3", str(tmp_path / "vectors.npy")], check=True)
        limits = ImageLimits(10**7, 10**7)
        pixels = [decode(path.read_bytes(), checkpoint.preprocess, limits).pixels for path in images.files]
    ours = Encoder.load(checkpoint, device="cpu", precision="float32").encode_images(np.stack(pixels))
    theirs = np.load(tmp_path / "vectors.npy")
    assert theirs.shape == (3, checkpoint.dimension)
    assert (theirs * ours[[0, 1, 0]]).sum(axis=1).min() > 0.99


def test_the_service_and_the_plain_application_answer_all_clients() -> None:
    measured = service_vs_plain_app.measure(quick=True)
    assert measured.value is not None
    assert measured.value > 0


def test_the_gpu_benchmark_runs_on_any_device(tmp_path: Path) -> None:
    checkpoint = locate(str(tiny_checkpoint(tmp_path / "tiny")))
    ratio, speed = gpu_pipeline.measure_on("cpu", checkpoint, [photograph(0, 64, 48), photograph(1, 48, 64)], 30)
    assert ratio.value is not None
    assert ratio.value > 0
    assert speed.value is not None
    assert f"{speed.value:,.0f} images/s from bytes to vectors" in ratio.detail


def test_without_a_gpu_there_is_a_reason_and_no_value() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    for measure in (gpu_pipeline.measure, gpu_pipeline.measure_speed, pipeline_efficiency.measure_gpu):
        with pytest.raises(NoFigureError, match="needs a CUDA device"):
            measure(quick=True)
