"""The encode stage."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from viewfinder.indexing.encode import Encode
from viewfinder.indexing.rows import Row, table_of
from viewfinder.models.checkpoint import locate
from viewfinder.models.encoder import Encoder
from viewfinder.models.torch_runtime import TorchRuntime

pytestmark = pytest.mark.slow


def rows(count: int, size: int) -> list[Row]:
    """Images, every third with a caption; one row has failed."""
    pixels = np.random.default_rng(5).integers(0, 256, (count, size, size, 3), np.uint8)
    made: list[Row] = [{"action": "index", "count": 1, "pixels": each.tobytes()} for each in pixels]
    for number, row in enumerate(made):
        if number % 3 == 0:
            row["caption"] = "a red kite over a field " * (number + 1)
    made[1] = {"action": "failed", "count": 1, "stage": "decode", "reason": "not_an_image"}
    return made


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewfinder.indexing.encode.cpu_cores", lambda: 8)


@pytest.mark.parametrize("count", [2, 5, 12])
def test_a_batch_divided_among_threads_keeps_its_order(count: int) -> None:
    checkpoint = locate("demo-small")
    made = [
        Encode(
            checkpoint.name, checkpoint.fingerprint, device="cpu", precision="float32", runtime="torch", cores=cores
        )(table_of(rows(count, checkpoint.preprocess.size))).to_pylist()
        for cores in (1, 3)
    ]
    for whole, divided in zip(*made, strict=True):
        assert whole["caption_cut"] == divided["caption_cut"]
        for vector in ("image_vector", "caption_vector"):
            assert (whole[vector] is None) == (divided[vector] is None)
            if whole[vector] is not None:
                np.testing.assert_allclose(
                    *(np.frombuffer(row[vector], np.float32) for row in (whole, divided)), atol=1e-5
                )
    present = [np.frombuffer(row["image_vector"], np.float32) for row in made[0] if row["image_vector"]]
    assert len(present) == count - 1
    assert len({vector.round(4).tobytes() for vector in present}) == len(present), (
        "equal vectors would hide a wrong order"
    )


def test_texts_are_divided_too_and_may_be_none() -> None:
    checkpoint = locate("demo-small")
    stage = Encode(checkpoint.name, checkpoint.fingerprint, device="cpu", precision="float32", runtime="torch", cores=3)
    texts = ["a red car", "two dogs", "a guitar by the sea", "a lemon", "three horses", "a hedgehog", "a town"]
    vectors, cuts = stage.encode_texts(texts)
    whole, _ = stage.encoder().encode_texts(texts)
    assert np.sum(vectors * whole, axis=1).min() > 0.9999
    assert cuts.tolist() == [0] * 7
    assert stage.encode_texts([])[0].shape == (0, checkpoint.dimension)


def test_images_are_read_without_copying_from_arrow() -> None:
    checkpoint = locate("demo-small")
    stage = Encode(checkpoint.name, checkpoint.fingerprint, device="cpu", precision="float32", runtime="torch", cores=1)
    whole = table_of(rows(12, checkpoint.preprocess.size))
    expected = stage(whole)["image_vector"].to_pylist()
    # As Ray passes them: slices of blocks, joined, with and without a failed row between them.
    parts = pa.concat_tables([whole.slice(3, 4), whole.slice(0, 3), whole.slice(11), whole.slice(1, 1)])
    assert parts["pixels"].num_chunks == 4
    for given, wanted in zip(
        stage(parts)["image_vector"].to_pylist(), [*expected[3:7], *expected[:3], *expected[11:], None], strict=True
    ):
        assert (given is None) == (wanted is None)
        if wanted is not None:
            np.testing.assert_allclose(np.frombuffer(given, np.float32), np.frombuffer(wanted, np.float32), atol=1e-5)


@pytest.mark.parametrize("sizes", [[5], [0], [100], [-1, 1], [0, 2]])
def test_cells_of_a_wrong_size_are_refused(sizes: list[int]) -> None:
    checkpoint = locate("demo-small")
    right = checkpoint.preprocess.size**2 * 3
    cells = [bytes(right + size) if abs(size) == 1 else bytes(size * right // 2) for size in sizes]
    stage = Encode(checkpoint.name, checkpoint.fingerprint, device="cpu", precision="float32", runtime="torch", cores=1)
    with pytest.raises(ValueError, match="are not images of"):
        stage(table_of([{"action": "index", "count": 1, "pixels": cell} for cell in cells]))


def test_concurrent_calls_share_one_encoder_and_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = locate("demo-small")
    loaded = []
    load, encode_images = Encoder.load, Encoder.encode_images
    monkeypatch.setattr(Encoder, "load", lambda *args, **options: loaded.append(1) or load(*args, **options))
    stage = Encode(
        checkpoint.name, checkpoint.fingerprint, device="cpu", precision="float32", runtime="torch", cores=None
    )
    tables = [table_of(rows(count, checkpoint.preprocess.size)) for count in (8, 12)]
    alone = [stage(table)["image_vector"].to_pylist() for table in tables]

    both_are_in = threading.Barrier(2)

    def meet(encoder: Encoder, images: np.ndarray) -> np.ndarray:
        both_are_in.wait(30)
        return encode_images(encoder, images)

    monkeypatch.setattr(Encoder, "encode_images", meet)
    stage = Encode(
        checkpoint.name, checkpoint.fingerprint, device="cpu", precision="float32", runtime="torch", cores=None
    )
    loaded.clear()
    began = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        at_once = list(pool.map(stage, tables))
    seconds = time.perf_counter() - began
    assert len(loaded) == 1
    for before, made in zip(alone, at_once, strict=True):
        for one, other in zip(before, made["image_vector"].to_pylist(), strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_allclose(np.frombuffer(one, np.float32), np.frombuffer(other, np.float32), atol=1e-5)
    busy = sum(sum(table["encode_s"].to_pylist()) for table in at_once)
    assert 0 < busy <= seconds, "time in which two calls were under way counts once"


def test_a_gpu_computes_for_one_call_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    runtime = TorchRuntime.load(locate("demo-small"), "cpu", "float32", None)
    within, most = [], []

    def compute(pixels: object) -> object:
        within.append(1)
        most.append(len(within))
        time.sleep(0.5)
        within.pop()
        return torch.ones(len(pixels), 8)

    monkeypatch.setattr(runtime.model, "encode_image", compute)
    preprocess = locate("demo-small").preprocess
    images = np.zeros((2, preprocess.size, preprocess.size, 3), np.uint8)
    for turn, expected in (
        (runtime._device_lock, 2),
        (TorchRuntime(runtime.model, preprocess, "meta", "float32")._device_lock, 1),
    ):
        most.clear()
        monkeypatch.setattr(runtime, "_device_lock", turn)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(runtime.encode_images, [images, images]))
        assert max(most) == expected


def test_a_gpu_encodes_a_batch_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    # Metal aborts a process in which two threads compute.
    checkpoint = locate("demo-small")
    stage = Encode(checkpoint.name, checkpoint.fingerprint, device="cpu", precision="float32", runtime="torch", cores=3)
    encoder, calls = stage.encoder(), []
    encode = encoder.encode_images
    monkeypatch.setattr(encoder, "encode_images", lambda images: calls.append(len(images)) or encode(images))
    table = table_of(rows(7, checkpoint.preprocess.size))
    stage(table)
    assert sorted(calls) == [2, 2, 2], "six images, one row has failed"
    calls.clear()
    monkeypatch.setattr(encoder.runtime, "device", "mps")
    monkeypatch.setattr(encoder, "encode_images", lambda images: calls.append(len(images)) or np.ones((len(images), 2)))
    monkeypatch.setattr(encoder, "encode_texts", lambda texts: (np.ones((len(texts), 2)), np.zeros(len(texts))))
    stage(table)
    assert calls == [6]


class Diverging:
    """An encoder of vectors [1, 0] with some that have no direction."""

    device = "cpu"

    class preprocess:  # noqa: N801 - as in the encoder
        size = 1

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        made = np.tile(np.array([1, 0], np.float32), (len(pixels), 1))
        for place, value in enumerate((np.nan, np.inf, 0.0, 1e30), start=1):
            made[place] = value
        return made

    def encode_texts(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        made = np.tile(np.array([0, 1], np.float32), (len(texts), 1))
        made[-1] = -np.inf
        return made, np.zeros(len(texts), np.int64)


def test_a_vector_without_direction_is_a_failed_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encode, "encoder", lambda self: Diverging())
    made: list[Row] = [{"action": "index", "count": 1, "pixels": bytes(3), "exists": False} for _ in range(7)]
    made[0]["caption"], made[6]["caption"] = "fine", "broken"
    made.append({"action": "unchanged", "count": 9})
    encode = Encode("demo-small", "", device="cpu", precision="float32", runtime="torch", cores=1)
    table = encode(table_of(made))
    encode.close()
    assert table.schema == table_of(made).schema
    done = table.to_pylist()
    assert [row["action"] for row in done] == ["index", *["failed"] * 4, "index", "failed", "unchanged"]
    failed = [row for row in done if row["action"] == "failed"]
    assert {(row["stage"], row["reason"], row["permanent"]) for row in failed} == {("encode", "unusable_vector", False)}
    assert failed[0]["message"] == "The model's vector of the image is not finite or is 0."
    assert failed[-1]["message"] == "The model's vector of the caption is not finite or is 0."
    assert all(row["image_vector"] is None for row in failed)
