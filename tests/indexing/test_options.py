"""The command line: what it reads, and how it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

from viewfinder.indexing.options import IndexOptions, parse

ROOT = Path(__file__).resolve().parents[2]


def test_a_source_is_enough() -> None:
    assert parse(["--source", "s3://b"]) == IndexOptions(sources=("s3://b",))


def test_everything_that_can_be_said() -> None:
    line = (
        "--source a --source b --captions c.json --include *.jpg --exclude t/* --index x --model demo --max-objects 5 "
        "--dry-run --report r --max-failure-ratio 0.5"
    )
    assert parse(line.split()) == IndexOptions(
        sources=("a", "b"),
        captions="c.json",
        include=("*.jpg",),
        exclude=("t/*",),
        index="x",
        model="demo",
        max_objects=5,
        dry_run=True,
        report="r",
        max_failure_ratio=0.5,
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "--source"),
        ("--source a --max-objects 0", "'0' is not a whole number of at least 1"),
        ("--source a --max-objects many", "'many' is not a whole number"),
        ("--source a --max-failure-ratio 2", "'2' is not a number from 0 to 1"),
        ("--source a --prune --max-objects 5", "--prune needs a complete listing"),
        ("--source a --sauce b", "--sauce"),
    ],
)
def test_a_wrong_line_ends_with_status_2_and_says_why(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(line.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_help_loads_neither_ray_nor_torch() -> None:
    program = (
        "import sys\nfrom jobs.index import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('loaded', sorted({'ray', 'torch', 'open_clip'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--max-failure-ratio" in done.stdout
    assert done.stdout.endswith("loaded []\n")
