"""JPEG bytes to vectors on one GPU, decoding and encoding in parallel, compared with encoding alone."""

import functools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle, islice
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from benchmarks.bucket import WEB, kept_photograph
from benchmarks.harness import Measurement
from benchmarks.ratio import in_turn
from benchmarks.vit import need_cuda, vit_checkpoint
from viewfinder.arrays import Vectors
from viewfinder.cluster.resources import CALLS_PER_GPU
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import Decoded, ImageLimits
from viewfinder.models.checkpoint import Checkpoint
from viewfinder.models.cpu import cpu_cores
from viewfinder.models.devices import Device
from viewfinder.models.encoder import Encoder
from viewfinder.settings import Settings

BATCH_SIZE = 256
IMAGES = 50 * BATCH_SIZE
ROUNDS = 3

Pixels = NDArray[np.uint8]


def measure(quick: bool) -> Measurement:
    """Images/s from bytes to vectors ÷ images/s of the encoder alone; raise `NoFigureError` without a GPU."""
    return _both(quick)[0]


def measure_speed(quick: bool) -> Measurement:
    """Images/s from bytes to vectors; raise `NoFigureError` without a GPU."""
    return _both(quick)[1]


@functools.cache
def _both(quick: bool) -> tuple[Measurement, Measurement]:
    """Measure once for both figures."""
    need_cuda()
    files = [kept_photograph(seed, *size).read_bytes() for size in WEB for seed in range(3)]
    return measure_on("cuda", vit_checkpoint(quick), files, BATCH_SIZE if quick else IMAGES)


def measure_on(
    device: Device, checkpoint: Checkpoint, files: Sequence[bytes], count: int
) -> tuple[Measurement, Measurement]:
    """Ratio and speed on any device, over `count` images that repeat `files`."""
    import torch

    encoder = Encoder.load(checkpoint, device=device)
    cores = cpu_cores()
    with ExitStack() as stack:
        decoders = [stack.enter_context(_decoder(checkpoint)) for _ in range(cores)]
        batch = np.stack([decoders[0].decode(data).pixels for data in islice(cycle(files), min(BATCH_SIZE, count))])
        encoder.encode_images(batch)  # the first call selects kernels and allocates memory
        ratio = in_turn(
            "gpu_pipeline",
            lambda: _encode(count, (batch for _ in range(0, count, len(batch))), encoder),
            lambda: _encode(count, _batches(decoders, list(islice(cycle(files), count)), len(batch)), encoder),
            rounds=ROUNDS,
            warm_ups=0,
        )
    alone, whole = count / ratio.first_ms * 1000, count / ratio.second_ms * 1000
    name = torch.cuda.get_device_name() if device == "cuda" else device
    detail = (
        f"{whole:,.0f} images/s from bytes to vectors; {alone:,.0f} encoding alone, in batches of "
        f"{len(batch)}, {CALLS_PER_GPU} at once as in a job ({ratio}); {name}, {encoder.precision}, {cores} "
        f"decoder processes; JPEGs of {np.mean([len(data) for data in files]) / 1000:.0f} kB on average"
    )
    return Measurement(ratio.value, detail), Measurement(whole, detail)


def _encode(count: int, batches: Iterator[Pixels], encoder: Encoder) -> None:
    """Encode all batches, as many at once as the job's encoder does."""
    done, in_progress = 0, deque[Future[Vectors]]()
    with ThreadPoolExecutor(CALLS_PER_GPU) as pool:
        for batch in batches:
            in_progress.append(pool.submit(encoder.encode_images, batch))
            if len(in_progress) > CALLS_PER_GPU:
                done += len(in_progress.popleft().result())
        done += sum(len(each.result()) for each in in_progress)
    if done < count:
        raise RuntimeError(f"{done} of {count} images were encoded")


def _batches(decoders: Sequence[Decoder], files: Sequence[bytes], size: int) -> Iterator[Pixels]:
    """Batches of pixels, uint8 [N, height, width, 3]; decoding runs a few batches ahead."""
    with ThreadPoolExecutor(len(decoders)) as pool:
        decoded = _ahead(pool, decoders, files, 4 * size)
        while taken := list(islice(decoded, size)):
            yield np.stack(taken)


def _ahead(
    pool: ThreadPoolExecutor, decoders: Sequence[Decoder], files: Sequence[bytes], maximum: int
) -> Iterator[Pixels]:
    idle: SimpleQueue[Decoder] = SimpleQueue()
    for each in decoders:
        idle.put(each)

    def decode(data: bytes) -> Decoded:
        decoder = idle.get()
        try:
            return decoder.decode(data)
        finally:
            idle.put(decoder)

    in_progress: deque[Future[Decoded]] = deque()
    for data in files:
        in_progress.append(pool.submit(decode, data))
        if len(in_progress) > maximum:
            yield in_progress.popleft().result().pixels
    yield from (each.result().pixels for each in in_progress)


def _decoder(checkpoint: Checkpoint) -> Decoder:
    settings = Settings.load({})
    limits = ImageLimits.of(settings)
    return Decoder(
        checkpoint.preprocess, limits, timeout_s=settings.decode_timeout_s, memory_bytes=settings.decode_memory_bytes
    )
