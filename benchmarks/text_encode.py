"""One short query from text to unit vector: open_clip's `encode_text` against ours, same weights and threads."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from benchmarks.harness import Measurement, WrongAnswerError
from benchmarks.ratio import Ratio, in_turn
from benchmarks.vit import model_name, torch_threads, vit_checkpoint
from viewfinder.arrays import Vectors
from viewfinder.models.cpu import multiplies_bfloat16
from viewfinder.models.encoder import Encoder
from viewfinder.settings import Settings

QUERY = "a red car parked in the snow"
# Vectors of these must agree too: an empty text, other scripts, and a text that is truncated.
OTHERS = ["", "a dog", "一只猫在窗台上", "two children on a beach, one of them waving", "many words " * 50]

# Threads of a replica by default.
REPLICA_THREADS = round(Settings.model_fields["replica_cpus"].default)

MAXIMUM_DIFFERENCE = 1e-5
MINIMUM_COSINE = 0.999

Encode = Callable[[list[str]], Vectors]


def measure_float32(quick: bool) -> Measurement:
    """open_clip's time ÷ ours, both in float32; raise `WrongAnswerError` if vectors differ by more than 1e-5."""
    theirs, ours = _opponent(quick), _ours(quick, "float32")
    difference = float(np.abs(_each_alone(theirs) - _each_alone(ours)).max())
    if not difference <= MAXIMUM_DIFFERENCE:  # `not <=`, because NaN compares false
        raise WrongAnswerError(f"the vectors differ by {difference:.1e}; {MAXIMUM_DIFFERENCE:.0e} is allowed")
    with torch_threads(REPLICA_THREADS):
        ratio = _time("text_encode_fp32", theirs, ours, quick)
    with torch_threads(None) as threads:
        wide = _time(f"text_encode_fp32, {threads} threads", theirs, ours, quick, rounds=15)
    return Measurement(
        ratio.value,
        f"{_figures('open_clip', ratio)}; {_with(quick)}; largest difference {difference:.1e} "
        f"{_apart(theirs)}; with torch's own {threads} threads {wide.value:.2f} ({wide})",
    )


def measure_bfloat16(quick: bool) -> Measurement:
    """open_clip's time in float32 ÷ ours with bfloat16 weights; raise `WrongAnswerError` below cosine 0.999."""
    import torch

    theirs, ours = _opponent(quick), _ours(quick, "bfloat16")
    cosine = float((_each_alone(theirs) * _each_alone(ours)).sum(axis=1).min())
    if not cosine >= MINIMUM_COSINE:  # `not >=`, because NaN compares false
        raise WrongAnswerError(f"the cosine to open_clip's vectors falls to {cosine:.5f}; {MINIMUM_COSINE} is needed")
    with torch_threads(REPLICA_THREADS):
        ratio = _time("text_encode_bf16", theirs, ours, quick)
        same = _time("text_encode_bf16, both bfloat16", _opponent(quick, torch.bfloat16), ours, quick, rounds=15)
    with torch_threads(None) as threads:
        wide = _time(f"text_encode_bf16, {threads} threads", theirs, ours, quick, rounds=15)
    return Measurement(
        ratio.value,
        f"{_figures('open_clip in float32', ratio)}; {_with(quick)}; minimum cosine {cosine:.5f} "
        f"{_apart(theirs)}; with torch's own {threads} threads {wide.value:.2f} ({wide}); to open_clip in bfloat16 "
        f"{same.value:.2f} ({same.first_ms:.1f} ms); {_processor()}",
    )


def _time(name: str, theirs: Encode, ours: Encode, quick: bool, *, rounds: int = 40) -> Ratio:
    if quick:
        rounds = 2
    return in_turn(name, lambda: theirs([QUERY]), lambda: ours([QUERY]), rounds=rounds, warm_ups=3)


def _ours(quick: bool, precision: Literal["float32", "bfloat16"]) -> Encode:
    encoder = Encoder.load(vit_checkpoint(quick), device="cpu", precision=precision)
    return lambda texts: encoder.encode_texts(texts)[0]


@functools.lru_cache(maxsize=1)
def _opponent(quick: bool, dtype: Any = None) -> Encode:
    """As in open_clip's documentation."""
    import open_clip
    import torch

    name = f"local-dir:{vit_checkpoint(quick).weights.parent}"
    model = open_clip.create_model(name, device="cpu").eval()
    if dtype is not None:
        model = model.to(dtype)
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
    return "this processor has no AMX or AVX512-BF16: torch may convert to float32 and back"


def _figures(opponent: str, ratio: Ratio) -> str:
    return f"{opponent} {ratio.first_ms:.1f} ms, viewfinder {ratio.second_ms:.1f} ms ({ratio}), tokenizing in both"


def _with(quick: bool) -> str:
    return f"{model_name(quick)}, {REPLICA_THREADS} thread each as in a replica, query {QUERY!r}"


def _apart(encode: Encode) -> str:
    # If all vectors were alike, any comparison would pass.
    first, second = encode([QUERY, OTHERS[1]])
    return f"(cosine of two different texts {float(first @ second):.3f})"
