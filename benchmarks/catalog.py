"""Every benchmark with the bound that it has to meet."""

import importlib

from benchmarks.harness import Benchmark, Measure, Measurement


def _in(module: str, function: str = "measure") -> Measure:
    """A measurement of one of the modules beside this one, imported when it is run: torch is not needed for --help."""

    def measure(quick: bool) -> Measurement:
        result: Measurement = getattr(importlib.import_module(f"benchmarks.{module}"), function)(quick)
        return result

    return measure


def _missing(reason: str) -> Measure:
    return lambda quick: Measurement(None, reason)


BENCHMARKS = (
    Benchmark("pipeline_efficiency", 0.85, "higher", _missing("not built yet")),
    Benchmark("memory_growth", 1.2, "lower", _missing("not built yet")),
    Benchmark("text_encode_fp32", 2.5, "higher", _in("text_encode", "measure_float32")),
    Benchmark("text_encode_bf16", 5, "higher", _in("text_encode", "measure_bfloat16")),
    Benchmark("jpeg_decode_12mp", 4, "higher", _in("jpeg_decode")),
    Benchmark("rerun", 0.1, "lower", _missing("not built yet")),
    Benchmark("vs_plain_loop", 1.5, "higher", _missing("not built yet")),
    Benchmark("batching", 2, "higher", _in("batching")),
    Benchmark("service_overhead_ms", 5, "lower", _in("service_overhead")),
    Benchmark("gpu_pipeline", 0.6, "higher", _missing("needs a GPU (one H200), and is not built yet")),
)
