"""All benchmarks, with their bounds."""

import importlib

from benchmarks.harness import Benchmark, Measure, Measurement
from viewfinder.models.cpu import multiplies_bfloat16


def _in(module: str, function: str = "measure") -> Measure:
    """A measurement of another module of this package, imported when it runs, so that --help does not load torch."""

    def measure(quick: bool) -> Measurement:
        result: Measurement = getattr(importlib.import_module(f"benchmarks.{module}"), function)(quick)
        return result

    return measure


_TEXT_BOUND = 6 if multiplies_bfloat16() else 3

BENCHMARKS = (
    # With a bound.
    Benchmark("pipeline_efficiency", 0.85, "higher", _in("pipeline_efficiency", "measure_web")),
    Benchmark("memory_growth", 1.2, "lower", _in("growth", "measure_memory")),
    Benchmark("text_encode", 0.9, "higher", _in("text_encode", "measure_text")),
    Benchmark("image_encode_cpu", 0.95, "higher", _in("text_encode", "measure_images")),
    Benchmark("text_vs_open_clip", _TEXT_BOUND, "higher", _in("text_encode", "measure_open_clip")),
    Benchmark("replica_start", 1, "lower", _in("start_up", "measure_replica")),
    Benchmark("jpeg_decode_12mp", 4, "higher", _in("jpeg_decode")),
    Benchmark("first_vector", 1, "lower", _in("start_up", "measure_first_vector")),
    Benchmark("embedded_insert", 3, "higher", _in("embedded", "measure_insert")),
    Benchmark("embedded_query_ms", 5, "lower", _in("embedded", "measure_query")),
    Benchmark("embedded_swap_wait_ms", 50, "lower", _in("embedded", "measure_swap")),
    Benchmark("rerun_start", 2, "lower", _in("start_up", "measure_rerun")),
    Benchmark("rerun", 0.05, "lower", _in("rerun")),
    Benchmark("vs_plain_loop", 2.5, "higher", _in("vs_plain_loop", "measure_open_clip")),
    Benchmark("batching", 2.5, "higher", _in("batching")),
    Benchmark("service_overhead_ms", 5, "lower", _in("service_overhead")),
    Benchmark("hostile_client", 2, "lower", _in("hostile")),
    Benchmark("gpu_pipeline", 0.6, "higher", _in("gpu_pipeline")),
    Benchmark("gpu_images_per_s", 5000, "higher", _in("gpu_pipeline", "measure_speed")),
    Benchmark("colour_profile", 1.2, "lower", _in("colour_profile")),
    Benchmark("pipeline_efficiency_gpu", 0.85, "higher", _in("pipeline_efficiency", "measure_gpu")),
    # Without a bound.
    Benchmark("pipeline_efficiency_camera", None, "higher", _in("pipeline_efficiency", "measure_camera")),
    Benchmark("vs_transformers_loop", None, "higher", _in("vs_plain_loop", "measure_transformers")),
    Benchmark("text_vs_transformers", None, "higher", _in("vs_transformers", "measure_texts")),
    Benchmark("images_vs_transformers", None, "higher", _in("vs_transformers", "measure_images")),
    Benchmark("service_vs_plain_app", None, "higher", _in("service_vs_plain_app")),
    Benchmark("growth_time", None, "lower", _in("growth", "measure_time")),
    Benchmark("growth_cores", None, "higher", _in("growth", "measure_cores")),
)
