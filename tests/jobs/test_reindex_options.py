"""The command line of the re-index: what it reads, and how it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.reindex_options import ReindexOptions, parse

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_need_be_said() -> None:
    assert parse([]) == ReindexOptions()


def test_everything_that_can_be_said() -> None:
    line = (
        "--model demo --index x --source a --source b --captions c.json --golden g.jsonl --keep 0 --report r "
        "--max-failure-ratio 0.5 --prune-max-ratio 0.4 --max-quality-loss 0.1 --rebuild --dry-run"
    )
    assert parse(line.split()) == ReindexOptions(
        model="demo",
        index="x",
        sources=("a", "b"),
        captions="c.json",
        golden="g.jsonl",
        keep=0,
        report="r",
        max_failure_ratio=0.5,
        prune_max_ratio=0.4,
        max_quality_loss=0.1,
        rebuild=True,
        dry_run=True,
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--keep -1", "'-1' is not a whole number"),
        ("--rollback --release", "not allowed with"),
        ("--rebuild --when-model-changed", "--when-model-changed rules out"),
        ("--modle demo", "--modle"),
    ],
)
def test_a_wrong_line_ends_with_status_2_and_says_why(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(line.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("entry", ["reindex", "evaluate"])
def test_help_loads_neither_ray_nor_torch(entry: str) -> None:
    program = (
        f"import sys\nfrom jobs.{entry} import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('loaded', sorted({'ray', 'torch', 'open_clip', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--golden" in done.stdout
    assert done.stdout.endswith("loaded []\n")
