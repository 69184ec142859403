"""Texts and images to unit vectors on a CPU: the runtimes called directly, and open_clip, against ours."""

import functools
import time
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.harness import Measurement, WrongAnswerError
from benchmarks.ratio import Ratio, in_turn
from benchmarks.runtimes import image_calls, text_calls
from benchmarks.vit import exported, model_name, torch_threads, vit_checkpoint
from viewfinder.arrays import Vectors
from viewfinder.models.cpu import multiplies_bfloat16
from viewfinder.models.probes import SAME_COSINE, lowest_cosine
from viewfinder.models.tokenizer import Tokenizer
from viewfinder.settings import Settings

QUERY = "a red car parked in the snow"
# Vectors of these must agree too: an empty text, other scripts, and a text that is truncated.
OTHERS = ["", "a dog", "一只猫在窗台上", "two children on a beach, one of them waving", "many words " * 50]
IMAGES = 32

# Threads of a replica by default.
REPLICA_THREADS = round(Settings.model_fields["replica_cpus"].default)

Encode = Callable[[list[str]], Vectors]


def measure_text(quick: bool) -> Measurement:
    """The time of the fastest runtime called directly with the same tokens ÷ ours, tokenizing included in ours."""
    encoder = exported(quick, threads=REPLICA_THREADS)
    tokens, _ = Tokenizer(encoder.checkpoint.tokenizer)([QUERY])
    inputs, calls = text_calls(quick, tokens)
    ours = encoder.encode_texts([QUERY])[0]
    cosine = min(lowest_cosine(call(inputs), ours) for call in calls.values())
    _check(cosine)
    rounds = 2 if quick else 40
    ratios = _in_turn("text_encode", calls, inputs, lambda: encoder.encode_texts([QUERY]), rounds)
    return _measured(ratios, f"{_with(quick)}; minimum cosine {cosine:.5f}")


def measure_images(quick: bool) -> Measurement:
    """The time of the fastest runtime called directly with normalized pixels ÷ ours, which normalizes them too."""
    encoder = exported(quick, threads=REPLICA_THREADS)
    preprocess = encoder.preprocess
    shape = (2 if quick else IMAGES, preprocess.size, preprocess.size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = (images / np.float32(255) - np.array(preprocess.mean, np.float32)) / np.array(preprocess.std, np.float32)
    inputs = {"pixels": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))}
    calls = image_calls(quick)
    ours = encoder.encode_images(images)
    cosine = min(lowest_cosine(call(inputs), ours) for call in calls.values())
    _check(cosine)
    ratios = _in_turn("image_encode_cpu", calls, inputs, lambda: encoder.encode_images(images), 1 if quick else 7)
    return _measured(
        ratios, f"{len(images)} images in a batch, {model_name(quick)}, 1 thread each; minimum cosine {cosine:.5f}"
    )


def measure_open_clip(quick: bool) -> Measurement:
    """open_clip's time for a short query ÷ ours, tokenizing included in both."""
    encoder, theirs = exported(quick, threads=REPLICA_THREADS), _open_clip(quick)

    def ours(texts: list[str]) -> Vectors:
        return encoder.encode_texts(texts)[0]

    cosine = lowest_cosine(_each_alone(theirs), _each_alone(ours))
    _check(cosine)
    with torch_threads(REPLICA_THREADS):
        ratio = in_turn(
            "text_vs_open_clip",
            lambda: theirs([QUERY]),
            lambda: ours([QUERY]),
            rounds=2 if quick else 40,
            warm_ups=3,
            clock=time.process_time,
        )
    first, second = theirs([QUERY, OTHERS[1]])
    return Measurement(
        ratio.value,
        f"CPU time: open_clip {ratio.first_ms:.1f} ms in float32, viewfinder {ratio.second_ms:.1f} ms in "
        f"{encoder.precision} ({ratio}); {_with(quick)}; minimum cosine {cosine:.5f} (of two different texts "
        f"{float(first @ second):.3f}); {_processor()}",
    )


def _in_turn(
    name: str, calls: Mapping[str, Callable[..., object]], inputs: object, ours: Callable[[], object], rounds: int
) -> dict[str, Ratio]:
    return {
        # CPU time: with one thread each it is the time on an idle machine, also on a busy one.
        library: in_turn(
            f"{name}, {library}",
            functools.partial(call, inputs),
            ours,
            rounds=rounds,
            warm_ups=2,
            clock=time.process_time,
        )
        for library, call in calls.items()
    }


def _measured(ratios: Mapping[str, Ratio], what: str) -> Measurement:
    figures = [
        f"{library} {ratio.first_ms:.1f} ms, viewfinder {ratio.second_ms:.1f} ms ({ratio.value:.2f}; {ratio})"
        for library, ratio in ratios.items()
    ]
    return Measurement(
        min(ratio.value for ratio in ratios.values()), f"CPU time: {'; '.join(figures)}; {what}; {_processor()}"
    )


def _check(cosine: float) -> None:
    if not cosine >= SAME_COSINE:  # `not >=`, because NaN compares false
        raise WrongAnswerError(f"the cosine of the vectors falls to {cosine:.5f}; {SAME_COSINE} is needed")


@functools.lru_cache(maxsize=1)
def _open_clip(quick: bool) -> Encode:
    """As in open_clip's documentation."""
    import open_clip
    import torch

    name = f"local-dir:{vit_checkpoint(quick).weights.parent}"
    model = open_clip.create_model(name, device="cpu").eval()
    tokenizer = open_clip.get_tokenizer(name)

    def encode(texts: list[str]) -> Vectors:
        with torch.inference_mode():
            vectors: Vectors = model.encode_text(tokenizer(texts), normalize=True).float().numpy()
            return vectors

    return encode


def _each_alone(encode: Encode) -> Vectors:
    # One at a time, as they are timed: in a batch, short texts run at the length of the longest.
    return np.concatenate([encode([text]) for text in [QUERY, *OTHERS]])


def _processor() -> str:
    if multiplies_bfloat16():
        return "this processor computes in bfloat16 (AMX or AVX512-BF16)"
    return "this processor has no AMX or AVX512-BF16"


def _with(quick: bool) -> str:
    return f"{model_name(quick)}, {REPLICA_THREADS} thread each as in a replica, query {QUERY!r}"
