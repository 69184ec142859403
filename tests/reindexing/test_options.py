"""The command line of the re-index, and the crontab in its documentation."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from viewfinder.reindexing.options import ReindexOptions, parse, parse_action

ROOT = Path(__file__).resolve().parents[2]


def test_all_options_have_defaults() -> None:
    assert parse([]) == ReindexOptions()


def test_all_options_are_read() -> None:
    line = (
        "--model demo --index x --source a --source b --captions c.json --evaluation-set g.jsonl --keep 0 --report r "
        "--max-failure-ratio 0.5 --prune-max-ratio 0.4 --max-quality-loss 0.1 --rebuild --dry-run"
    )
    assert parse(line.split()) == ReindexOptions(
        model="demo",
        index="x",
        sources=("a", "b"),
        captions="c.json",
        evaluation_set="g.jsonl",
        keep=0,
        report="r",
        max_failure_ratio=0.5,
        prune_max_ratio=0.4,
        max_quality_loss=0.1,
        rebuild=True,
        dry_run=True,
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--keep -1", "'-1' is not a whole number"),
        ("--rollback --release", "not allowed with"),
        ("--rebuild --when-model-changed", "--rebuild contradicts --when-model-changed"),
        ("--modle demo", "--modle"),
    ],
)
def test_a_wrong_command_line_ends_with_status_2_and_a_reason(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(line.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_golden_is_an_alias_of_evaluation_set() -> None:
    assert parse(["--golden", "g.jsonl"]).evaluation_set == "g.jsonl"


@pytest.mark.parametrize("action", ["rollback", "release", "status"])
def test_an_action_is_chosen_by_its_flag(action: str) -> None:
    assert parse_action([f"--{action}"]) == (action, ReindexOptions())


@pytest.mark.parametrize("entry", ["reindex", "evaluate"])
def test_help_loads_neither_ray_nor_torch(entry: str) -> None:
    program = (
        f"import sys\nfrom jobs.{entry} import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('loaded', sorted({'ray', 'torch', 'open_clip', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--evaluation-set" in done.stdout
    assert done.stdout.endswith("loaded []\n")


CRONTAB = [
    line.strip()
    for line in (ROOT / "docs" / "changing-models.md").read_text().splitlines()
    if re.match(r"    [\d*]\S* .*jobs/reindex", line)
]
# minute, hour, day of month, month, day of week
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def test_the_crontab_in_the_documentation_has_entries() -> None:
    assert len(CRONTAB) == 2


@pytest.mark.parametrize("entry", CRONTAB)
def test_an_entry_of_the_crontab_in_the_documentation_would_run_the_job(entry: str) -> None:
    *fields, command = entry.split(maxsplit=5)
    for value, (minimum, maximum) in zip(fields, RANGES, strict=True):
        assert value == "*" or minimum <= int(value) <= maximum
    assert "%" not in command, "cron reads it as the end of the line"
    change_directory, run = command.split(" && ")
    assert shlex.split(change_directory) == ["cd", "/srv/viewfinder"]
    python, script, *flags = shlex.split(run)
    assert python == ".venv/bin/python"
    assert (ROOT / script).is_file()
    assert parse(flags).evaluation_set == "s3://bucket/queries.jsonl"
