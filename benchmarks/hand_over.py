"""Share of time that a GPU computes if Ray Data passes its encoder one batch at a time, or two.

`python -m benchmarks.hand_over`. The GPU is replaced by a device that sleeps as long as a GPU would compute. Everything
else is the job's own: blocks in the object store, actor, stage. So it measures the cost of passing batches, no GPU.
"""

import argparse
import logging
import os
import sys
import threading
import time
from statistics import median
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa

from viewfinder.indexing.encode import Encode
from viewfinder.indexing.rows import SCHEMA, table_of
from viewfinder.models.encoder import Encoder

SIDE, DIMENSION = 224, 512
BLOCK, BATCH = 64, 256
CALLS = (1, 2)


class _Device:
    """Take `1 / per_second` seconds per image, one batch after the other."""

    device = "stand-in"
    preprocess = SimpleNamespace(size=SIDE)

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._computing = threading.Lock()
        self.busy_s = self.elapsed_s = 0.0
        self._began: float | None = None

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        upload = np.empty_like(images)
        upload[...] = images  # the encoder copies too, before it needs the GPU
        with self._computing:
            self._began = self._began or time.perf_counter()
            time.sleep(len(images) / self._per_second)
            self.busy_s += len(images) / self._per_second
            self.elapsed_s = time.perf_counter() - self._began
        return np.zeros((len(images), DIMENSION), np.float32)


class _Stage(Encode):
    """The job's stage with the stand-in; each batch carries the device's busy and elapsed time so far."""

    def __init__(self, per_second: float) -> None:
        super().__init__("stand-in", "", device="cpu", precision="float32", runtime="torch", cores=None)
        self._device = _Device(per_second)

    def encoder(self) -> Encoder:
        return cast(Encoder, self._device)

    def __call__(self, table: pa.Table) -> pa.Table:
        table = super().__call__(table)
        for name, value in (("encode_s", self._device.busy_s), ("fetch_s", self._device.elapsed_s)):
            column = pa.array([value] * len(table))
            table = table.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), column)
        return table


def main(argv: list[str] | None = None) -> int:
    """Measure both in turn and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hand_over", description=__doc__)
    parser.add_argument("--per-second", type=float, default=2000, help="images per second of the device (%(default)s)")
    parser.add_argument("--batches", type=int, default=50, help=f"batches of {BATCH} images per round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each, in turn (%(default)s)")
    arguments = parser.parse_args(argv)
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    import ray

    from viewfinder.cluster.session import configure_ray_data

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        configure_ray_data()
        pixels = np.random.default_rng(0).integers(0, 256, (BLOCK, SIDE, SIDE, 3), np.uint8)
        block = table_of([{"action": "index", "count": 1, "pixels": each.tobytes()} for each in pixels])
        blocks = [block] * (arguments.batches * BATCH // BLOCK)
        shares: dict[int, list[float]] = {calls: [] for calls in CALLS}
        for _ in range(arguments.rounds):
            for calls, made in shares.items():
                made.append(_busy(blocks, calls, arguments.per_second))
                print(f"{calls} at a time: the device was busy {made[-1]:.0%} of the time", flush=True)
    finally:
        ray.shutdown()
    one, two = (median(shares[calls]) for calls in CALLS)
    batch_ms = BATCH * 1000 / arguments.per_second
    print(
        f"A device of {arguments.per_second:,.0f} images/s, {batch_ms:.0f} ms per batch: busy {one:.0%} with one batch "
        f"at a time, {two:.0%} with two, {two / one:.2f} times as many images; medians of {arguments.rounds}."
    )
    return 0


def _busy(blocks: list[Any], calls: int, per_second: float) -> float:
    """Busy share of the time from the device's first batch to its last."""
    import ray
    from ray.data import ActorPoolStrategy

    rows = ray.data.from_blocks(blocks).map_batches(
        _Stage,
        fn_constructor_args=(per_second,),
        batch_size=BATCH,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=1, max_concurrent_calls_per_actor=calls, enable_true_multi_threading=True),
        num_cpus=0.9,
    )
    tables = rows.iter_batches(batch_size=None, batch_format="pyarrow")
    elapsed_s, busy_s = max((table["fetch_s"][-1].as_py(), table["encode_s"][-1].as_py()) for table in tables)
    return float(busy_s / elapsed_s)


if __name__ == "__main__":
    sys.exit(main())
