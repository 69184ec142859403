"""Replay a history (`python -m tests.simulation SEED`), or look for one (`python -m tests.simulation FIRST LAST`)."""

import os
import sys
import time

from tests.simulation.history import run_seed, shrink


def main(arguments: list[str]) -> int:
    first, last = int(arguments[0]), int(arguments[-1])
    began = time.monotonic()
    failed = 0
    for seed in range(first, last + 1):
        finding = run_seed(seed)
        if finding is not None:
            failed += 1
            print(shrink(finding), flush=True)
    print(f"{last - first + 1} histories in {time.monotonic() - began:.1f} s, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets would differ between processes
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    sys.exit(main(sys.argv[1:]))
