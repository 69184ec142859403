"""Time of a second run over an unchanged bucket ÷ the first."""

from benchmarks.bucket import SMALL, bucket
from benchmarks.harness import Measurement
from benchmarks.job import index, scratch
from benchmarks.margin import Margin

IMAGES = 10_000


def measure(quick: bool) -> Measurement:
    """Seconds of the second run ÷ of the first, both minus the seconds of the same run over one image."""
    count = 40 if quick else IMAGES
    with scratch() as directory, bucket(directory / "s3", SMALL, count) as images:
        seconds = {}
        for limit in (1, count):
            for name in ("first", "second"):
                run = index(images, directory, "--max-objects", str(limit), index=f"of-{limit}")
                expected = limit if name == "first" else 0
                if run.indexed != expected:
                    raise RuntimeError(f"the {name} run indexed {run.indexed} images, not {expected}")
                seconds[name, limit] = run.seconds
        described = images.described
    first, second = (Margin(1, seconds[name, 1], count, seconds[name, count]) for name in ("first", "second"))
    whole = second.many_s / first.many_s
    return Measurement(
        first.per_second / second.per_second,
        f"first run {first}; second {second}; with start-up {whole:.2f}; into the embedded store, model demo, "
        f"{described}",
    )
