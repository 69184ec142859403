"""`python -m benchmarks [NAME ...] [--quick] [--out FILE]`."""

import argparse
import functools
import signal
import sys
from pathlib import Path

from benchmarks.catalog import BENCHMARKS
from benchmarks.harness import print_table, run, write

RESULTS = Path(__file__).parent / "out" / "results.json"


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table, write the results. Return 1 if a benchmark raised an error."""
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"benchmarks to run (all): {', '.join(names)}")
    parser.add_argument(
        "--quick", action="store_true", help="run the code once on tiny models; the values mean nothing"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE", help="file for the results (%(default)s)")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind, so that no job keeps running
    if unknown := [name for name in arguments.name if name not in names]:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(names)}")

    keep = functools.partial(write, path=arguments.out)
    results = run(BENCHMARKS, arguments.name or names, quick=arguments.quick, after_each=keep)
    print_table(results)
    print(f"Written to {arguments.out}")
    return 1 if any(result.broke for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
