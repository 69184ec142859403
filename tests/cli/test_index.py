"""Mistakes in the input of `viewfinder index`; without Ray."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Mistake, Viewfinder
from viewfinder.cli.index import check_local_files, check_local_sources
from viewfinder.cli.index_report import show_plan
from viewfinder.errors import SourceError
from viewfinder.indexing.report import IndexPlan


@pytest.mark.parametrize("spelling", ["{path}", "file://{path}", "file://localhost{path}", "file://{escaped}"])
def test_every_spelling_of_an_existing_directory_is_accepted(spelling: str, tmp_path: Path) -> None:
    # Regression: the file:// URIs that viewfinder itself prints were not found.
    directory = tmp_path / "sp ace"
    directory.mkdir()
    check_local_sources([spelling.format(path=directory, escaped=str(directory).replace(" ", "%20"))])


def test_the_nearest_path_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "sp ace").mkdir()
    with pytest.raises(SourceError, match=r"Did you mean '.*/sp ace'"):
        check_local_sources([f"file://{tmp_path}/sp%20acee"])


def test_a_dry_run_says_that_it_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    plan = IndexPlan({"index": 3}, None)
    show_plan(plan, as_json=False)
    assert capsys.readouterr().out.startswith("dry run\tnothing was changed\n")
    show_plan(plan, as_json=True)
    assert json.loads(capsys.readouterr().out)["dry_run"] is True


def test_a_dry_run_reports_what_would_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(IndexPlan({"index": 3}, None, ("'s3://b/gone' is left out.",)), as_json=False)
    assert "'s3://b/gone' is left out." in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "environment", "status", "says"),
    [
        (["s3://no-such-bucket"], {}, 2, "no-such-bucket"),
        (["SOURCE/no/such/prefix"], {}, 2, "no/such/prefix"),
        (["/no/such/directory"], {}, 2, "/no/such/directory"),
        (["gs://bucket/x"], {}, 2, "gs://"),
        (["SOURCE", "--model", "ViT-B-23::openai"], {}, 2, "ViT-B-32::openai"),
        (["SOURCE"], {"VIEWFINDER_QDRANT_URL": "http://127.0.0.1:9"}, 1, "http://127.0.0.1:9"),
        (["SOURCE"], {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}, 2, "secret"),
        (["SOURCE"], {"VIEWFINDER_S3_ENDPOINT_URL": "http://127.0.0.1:9"}, 2, "http://127.0.0.1:9"),
        (["SOURCE"], {"VIEWFINDER_MODLE": "demo"}, 2, "VIEWFINDER_MODEL"),
        (["SOURCE", "--captions", "SOURCE/none.json"], {}, 2, "none.json"),
    ],
)
def test_a_mistake_is_one_clear_message(
    make_mistake: Mistake, flags: list[str], environment: dict[str, str], status: int, says: str
) -> None:
    done = make_mistake(["index", *flags], environment)
    done.check_message(status, says)
    assert "not-the-secret" not in done.err, "a secret is never repeated"


@pytest.mark.parametrize("suffix", ["photos", "list.csv", "captions.json"])
def test_a_path_that_cannot_be_reached_is_named(suffix: str, forbidden: Path) -> None:
    # Regression: a traceback of pathlib.
    with pytest.raises(SourceError, match=rf"^'.*/forbidden/{suffix}' cannot be read: Permission denied\.$"):
        check_local_sources([str(forbidden / suffix)])
    with pytest.raises(SourceError, match=r"cannot be read: Permission denied\.$"):
        check_local_files(None, (forbidden / suffix).as_uri())


def test_a_source_that_cannot_be_reached_does_not_stop_the_others(forbidden: Path, tmp_path: Path) -> None:
    check_local_sources([str(forbidden / "photos"), str(tmp_path)])


def test_the_home_directory_of_an_unknown_user_is_named() -> None:
    with pytest.raises(SourceError, match=r"The home directory in '~no-such-user/photos' does not exist"):
        check_local_sources(["~no-such-user/photos"])


def test_a_name_that_is_too_long_is_named(viewfinder: Viewfinder) -> None:
    viewfinder("index", "x" * 300).check_message(2, "cannot be read: File name too long")
    viewfinder("index", f"data:image/{'x' * 300}").check_message(2, "is not a source")
