"""The encoding stage by itself."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from jobs.stages import Encode, Row, table_of
from viewfinder.captions import CaptionRecord
from viewfinder.encoder import Encoder
from viewfinder.models import locate


def rows(count: int, size: int) -> list[Row]:
    """Pictures, every third with a caption; one row has failed."""
    pixels = np.random.default_rng(5).integers(0, 256, (count, size, size, 3), np.uint8)
    made: list[Row] = [{"action": "index", "count": 1, "pixels": each.tobytes()} for each in pixels]
    for number, row in enumerate(made):
        if number % 3 == 0:
            row["caption"] = CaptionRecord("a red kite over a field " * (number + 1)).to_json()
    made[1] = {"action": "failed", "count": 1, "stage": "decode", "reason": "not_an_image"}
    return made


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)


@pytest.mark.parametrize("count", [2, 5, 12])
def test_a_batch_divided_among_threads_comes_back_in_order(count: int) -> None:
    checkpoint = locate("demo-small")
    made = [
        Encode(checkpoint.name, checkpoint.fingerprint, device="cpu", precision="float32", cores=cores)(
            table_of(rows(count, checkpoint.preprocess.size))
        ).to_pylist()
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
    assert len({vector.round(4).tobytes() for vector in present}) == len(present), "or any order would do"


def test_texts_are_divided_too_and_none_is_no_mistake() -> None:
    checkpoint = locate("demo-small")
    stage = Encode(checkpoint.name, checkpoint.fingerprint, device="cpu", precision="float32", cores=3)
    texts = ["a red car", "two dogs", "a guitar by the sea", "a lemon", "three horses", "a hedgehog", "a town"]
    vectors, cuts = stage.encode_texts(texts)
    whole, _ = stage.encoder().encode_texts(texts)
    assert np.sum(vectors * whole, axis=1).min() > 0.9999
    assert cuts.tolist() == [0] * 7
    assert stage.encode_texts([])[0].shape == (0, checkpoint.dimension)


def test_pictures_are_read_where_arrow_keeps_them() -> None:
    checkpoint = locate("demo-small")
    stage = Encode(checkpoint.name, checkpoint.fingerprint, device="cpu", precision="float32", cores=1)
    whole = table_of(rows(12, checkpoint.preprocess.size))
    expected = stage(whole)["image_vector"].to_pylist()
    # As Ray hands them out: slices of blocks, joined, with a failed row between and without.
    parts = pa.concat_tables([whole.slice(3, 4), whole.slice(0, 3), whole.slice(11), whole.slice(1, 1)])
    assert parts["pixels"].num_chunks == 4
    for given, wanted in zip(
        stage(parts)["image_vector"].to_pylist(), [*expected[3:7], *expected[:3], *expected[11:], None], strict=True
    ):
        assert (given is None) == (wanted is None)
        if wanted is not None:
            np.testing.assert_allclose(np.frombuffer(given, np.float32), np.frombuffer(wanted, np.float32), atol=1e-5)
    with pytest.raises(ValueError, match="buffer is smaller"):
        stage(table_of([{"action": "index", "count": 1, "pixels": b"half"}]))


def test_calls_at_once_share_one_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = locate("demo-small")
    loaded = []
    load = Encoder.load
    monkeypatch.setattr(Encoder, "load", lambda *args, **options: loaded.append(1) or load(*args, **options))
    stage = Encode(checkpoint.name, checkpoint.fingerprint, device="cpu", precision="float32", cores=None)
    tables = [table_of(rows(count, checkpoint.preprocess.size)) for count in (3, 8, 5, 12)]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(stage, tables))
    assert len(loaded) == 1
    for table, made in zip(tables, at_once, strict=True):
        for one, other in zip(stage(table)["image_vector"].to_pylist(), made["image_vector"].to_pylist(), strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_allclose(np.frombuffer(one, np.float32), np.frombuffer(other, np.float32), atol=1e-5)


def test_a_gpu_takes_a_batch_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Metal ends a process in which two threads compute.
    checkpoint = locate("demo-small")
    stage = Encode(checkpoint.name, checkpoint.fingerprint, device="cpu", precision="float32", cores=3)
    encoder, calls = stage.encoder(), []
    encode = encoder.encode_images
    monkeypatch.setattr(encoder, "encode_images", lambda images: calls.append(len(images)) or encode(images))
    table = table_of(rows(7, checkpoint.preprocess.size))
    stage(table)
    assert sorted(calls) == [2, 2, 2], "six pictures, one row has failed"
    calls.clear()
    monkeypatch.setattr(encoder, "device", "mps")
    monkeypatch.setattr(encoder, "encode_images", lambda images: calls.append(len(images)) or np.ones((len(images), 2)))
    monkeypatch.setattr(encoder, "encode_texts", lambda texts: (np.ones((len(texts), 2)), np.zeros(len(texts))))
    stage(table)
    assert calls == [6]
