"""`viewfinder search`, with and without a service."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
import typer
from rich.console import Console

from tests.cli.conftest import PROGRAM, ROOT, Viewfinder, program
from tests.client.conftest import Planned, Scripted
from tests.fixtures.services import Gallery, Running
from viewfinder.cli.progress import count_progress
from viewfinder.cli.search import show_all_pages
from viewfinder.client import Hit, SearchRequest, SearchResult

pytestmark = pytest.mark.slow


def test_hits_are_tab_separated_lines_in_a_pipe(at_running: Running, viewfinder: Viewfinder) -> None:
    done = viewfinder("search", "a red car", "--top-k", "2")
    assert done.status == 0
    heading, first, second = (line.split("\t") for line in done.out.splitlines())
    assert heading == ["score", "relevance", "uri", "caption", "size"]
    assert first[2:] == ["s3://bucket/2.jpg", "a red car", "300x50"]
    assert float(first[0]) > float(second[0])
    assert done.err == f"Using the service at {at_running.url}.\n"


def test_hits_are_a_table_in_a_terminal(at_running: Running) -> None:
    done = program(["search", "a red car", "-k", "1"], {"TTY_COMPATIBLE": "1", "COLUMNS": "100", "TERM": "dumb"})
    assert "s3://bucket/2.jpg" in done.stdout
    assert "\t" not in done.stdout


def test_a_result_can_be_printed_as_json(at_running: Running, viewfinder: Viewfinder) -> None:
    document = json.loads(viewfinder("search", "a red car", "-k", "1", "--target", "caption", "--json").out)
    assert document["collection"] == at_running.collection
    assert [hit["caption"] for hit in document["hits"]] == ["a red car"]


def test_similar_images_are_one_line_with_their_number(at_gallery: Gallery, viewfinder: Viewfinder) -> None:
    flags = ("image 5", "--collapse", "near", "--collapse-threshold", "0")
    document = json.loads(viewfinder("search", *flags, "--json").out)
    heading, first = (line.split("\t") for line in viewfinder("search", *flags).out.splitlines()[:2])
    assert heading[-1] == "similar"
    assert int(first[-1]) == document["hits"][0]["collapsed"] > 0
    assert len(document["hits"][0]["similar"]) == min(10, document["hits"][0]["collapsed"])
    assert viewfinder("search", "a", "--collapse", "near", "--group-by", "tags").status == 2
    assert viewfinder("search", "a", "--collapse", "exact", "--collapse-threshold", "0.9").status == 2


def test_the_default_limit_is_10(at_gallery: Gallery, viewfinder: Viewfinder) -> None:
    assert len(json.loads(viewfinder("search", "image 5", "--json").out)["hits"]) == 10


def test_the_server_option_overrides_the_settings(
    running: Running, viewfinder: Viewfinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWFINDER_SERVER", "http://127.0.0.1:1")
    assert viewfinder("search", "a cat", "--server", running.url).status == 0
    assert viewfinder("search", "a cat").status == 1
    assert viewfinder("search", "a cat", "--server", "127.0.0.1:1").status == 2


def test_a_service_on_this_machine_is_found_by_its_port(
    running: Running, viewfinder: Viewfinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = running.url.rpartition(":")[2]
    monkeypatch.delenv("VIEWFINDER_SERVER", raising=False)
    monkeypatch.setenv("VIEWFINDER_PORT", port)
    done = viewfinder("search", "a red car", "-k", "1")
    assert "s3://bucket/2.jpg" in done.out
    assert done.err == f"Using the service at http://localhost:{port}.\n"


def test_a_config_file_names_the_service(running: Running, viewfinder: Viewfinder, tmp_path: Path) -> None:
    config = tmp_path / "viewfinder.toml"
    config.write_text(f'server = "{running.url}"\n')
    assert viewfinder("search", "a red car", "--config", str(config)).status == 0


def test_a_search_takes_an_image_an_id_and_several_parts(at_gallery: Gallery, viewfinder: Viewfinder) -> None:
    def found(*arguments: str) -> list[str]:
        done = viewfinder("search", *arguments, "-k", "1", "--json")
        assert done.status == 0, done.err
        return [hit["uri"] for hit in json.loads(done.out)["hits"]]

    uris, files = at_gallery.uris, at_gallery.files
    assert found("--image", str(files[3])) == [uris[3]]
    assert found("--id", uris[3]) != [uris[3]]
    assert found("image 5", "--target", "caption") == [uris[5]]
    assert found("image 5", "--image", str(files[3]), "--id", uris[4])


def test_scores_relevance_and_groups_are_shown(at_gallery: Gallery, viewfinder: Viewfinder) -> None:
    line = ("--target", "caption", "--group-by", "tags", "-k", "2", "--diversity", "0", "--group-size", "1")
    done = viewfinder("search", "image 5", *line)
    heading, first, second = (line.split("\t") for line in done.out.splitlines())
    assert heading[:3] == ["group", "score", "relevance"]
    assert first[:3] == ["odd", "1.000", "100%"]
    assert second[0] == "even"


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        (["--filter", '{"tags": {"eq": "odd"}}', "-k", "50"], 12),
        (["--rank", "words", "--filter", '{"caption": {"text": "17"}}'], 1),
        (["--rank", "hybrid", "--weights", "clip=1,words=2", "-k", "5"], 5),
        (["--threshold", "0.99999", "--target", "caption"], 1),
        (["--offset", "20", "-k", "50"], 4),
        (["--threshold=-1", "--order-by", "width", "--offset", "20", "-k", "50"], 4),
        (["--min-relevance", "0", "--order-by=-last_modified", "-k", "7"], 7),
    ],
)
def test_every_option_reaches_the_service(
    flags: list[str], count: int, at_gallery: Gallery, viewfinder: Viewfinder
) -> None:
    assert len(json.loads(viewfinder("search", "image 17", *flags, "--json").out)["hits"]) == count


def test_images_are_listed_without_a_query(at_gallery: Gallery, viewfinder: Viewfinder) -> None:
    done = viewfinder("search", "--filter", '{"tags": {"eq": "odd"}}', "--order-by=-size", "--all")
    assert done.status == 0, done.err
    heading, *lines = (line.split("\t") for line in done.out.splitlines())
    assert heading[:3] == ["score", "relevance", "uri"]
    assert len(lines) == 12
    assert {(score, relevance) for score, relevance, *_ in lines} == {("", "")}


def test_no_hits_are_noted_beside_the_output(at_gallery: Gallery, viewfinder: Viewfinder) -> None:
    done = viewfinder("search", "image 17", "--offset", "1000")
    assert done.status == 3
    assert len(done.out.splitlines()) == 1, "the headings"
    assert done.err.endswith("\nNothing found.\n")


@pytest.mark.parametrize("flags", [["--json"], ["--all"], ["--all", "--json"], ["--group-by", "tags", "--json"]])
def test_a_search_without_hits_has_an_exit_status_of_its_own(
    flags: list[str], at_gallery: Gallery, viewfinder: Viewfinder
) -> None:
    done = viewfinder("search", "image 17", "--filter", '{"tags": {"eq": "no such tag"}}', *flags)
    assert done.status == 3, done.err


@pytest.mark.parametrize("value", ["abc", "3", "-1.5", "nan"])
def test_a_threshold_is_a_cosine(value: str, viewfinder: Viewfinder) -> None:
    done = viewfinder("search", "a cat", f"--threshold={value}")
    assert done.status == 2
    assert f"'{value}' is not a number from -1 to 1" in done.err


def test_an_image_url_reaches_the_service(at_gallery: Gallery, viewfinder: Viewfinder) -> None:
    done = viewfinder("search", "--image-url", "https://example.org/cat.jpg")
    assert done.status == 2
    assert "VIEWFINDER_ALLOW_IMAGE_URL" in done.err


def test_all_hits_are_json_lines(at_gallery: Gallery, viewfinder: Viewfinder) -> None:
    lines = viewfinder("search", "image 5", "--all", "--json").out.splitlines()
    assert {json.loads(line)["uri"] for line in lines} == {*at_gallery.uris}
    assert len(viewfinder("search", "image 5", "--all").out.splitlines()) == 1 + len(at_gallery.uris)


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_warnings_go_to_standard_error(as_json: tuple[str, ...], at_gallery: Gallery, viewfinder: Viewfinder) -> None:
    done = viewfinder("search", "cat " * 200, *as_json)
    assert done.status == 0
    assert "warning: The text is longer than the model reads" in done.err
    assert "warning:" not in done.out


def test_an_invalid_id_is_refused(at_gallery: Gallery, viewfinder: Viewfinder) -> None:
    assert viewfinder("search", "--id", "x").status == 2


def test_an_unknown_image_is_named_as_it_was_given(at_running: Running, viewfinder: Viewfinder) -> None:
    done = viewfinder("search", "--id", "s3://bucket/none.jpg")
    done.check_message(2, "--id: the index holds no image 's3://bucket/none.jpg'.")


def test_words_need_a_text_alone(at_gallery: Gallery, viewfinder: Viewfinder) -> None:
    done = viewfinder("search", "image 3", "--image", str(at_gallery.files[3]), "--rank", "words")
    done.check_message(2, "rank: 'words' searches by a text alone, not by text and image.")
    assert "/docs" not in done.err


class Endless:
    """A search with a further page after each page; `ctrl_c_after` pages the user stops it."""

    def __init__(self, ctrl_c_after: int | None = None) -> None:
        self.pages = 0
        self._last = ctrl_c_after

    def __call__(self, request: SearchRequest) -> SearchResult:
        if self.pages == self._last:
            raise KeyboardInterrupt
        self.pages += 1
        hit = Hit(id=str(self.pages), score=0.5, uri=f"s3://b/{self.pages}", payload={})
        return SearchResult(hits=(hit,) * 3, model="m", collection="c", took_ms=1, cursor=str(self.pages))


def test_an_export_ends_on_ctrl_c_after_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        show_all_pages(Endless(ctrl_c_after=4), {"text": "a cat", "group_by": None}, as_json=True)
    out, err = capsys.readouterr()
    assert (ended.value.exit_code, err) == (1, "Stopped. Not all hits are printed.\n")
    assert [json.loads(line)["id"] for line in out.splitlines()] == [
        str(page) for page in (1, 2, 3, 4) for _ in range(3)
    ]


def test_an_export_prints_each_warning_once_also_that_of_the_last_page(capsys: pytest.CaptureFixture[str]) -> None:
    def search(request: SearchRequest) -> SearchResult:
        number = int(request.get("cursor") or 0)
        hit = Hit(id=str(number), score=0.5, uri=f"s3://b/{number}", payload={})
        warnings = ("cut", "ended") if number == 2 else ("cut",)
        cursor = str(number + 1) if number < 2 else None
        return SearchResult(hits=(hit,), model="m", collection="c", took_ms=1, cursor=cursor, warnings=warnings)

    assert show_all_pages(search, {"text": "a cat", "collapse": "exact"}, as_json=False) == 3
    out, err = capsys.readouterr()
    assert err == "warning: cut\nwarning: ended\n"
    assert [line.split("\t")[-1] for line in out.splitlines()] == ["similar", "0", "0", "0"]


@pytest.mark.parametrize("as_json", [True, False])
def test_an_export_asks_for_no_further_page_when_its_reader_is_gone(
    as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `| head` it read all pages and printed none."""
    reading, writing = os.pipe()
    os.close(reading)
    search = Endless()
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert show_all_pages(search, {"text": "a cat", "group_by": None}, as_json=as_json) == 3
        monkeypatch.undo()
    assert search.pages == 1


def test_the_progress_of_an_export_is_shown_beside_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    with count_progress("Found", Console(file=shown, force_terminal=False)) as show_count:
        show_count(200)
        assert shown.getvalue() == ""  # too early for a line
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 20)
        show_count(4_000)
    assert re.fullmatch(r"Found 4,000, \d+/s\n", shown.getvalue())
    terminal = io.StringIO()
    with count_progress("Found", Console(file=terminal, force_terminal=True, width=80)) as show_count:
        show_count(4_000)
    assert "Found 4,000" in terminal.getvalue() or "Found 0" in terminal.getvalue()


def test_an_export_survives_a_lost_request(viewfinder: Viewfinder) -> None:
    pages = [asdict(Endless()({})) for _ in range(2)]
    pages[1]["cursor"] = None
    first, second = (Planned(200, json.dumps(page).encode()) for page in pages)
    script = Scripted([first, Planned(500, b"bare"), second])
    with script.listening() as server:
        done = viewfinder("search", "a cat", "--all", "--json", "--server", server)
        assert (done.status, len(done.out.splitlines())) == (0, 6)
        assert len(script.bodies) == 3
        assert viewfinder("search", "a cat", "--server", server).status == 1, "a user waits for a single search"
    assert len(script.bodies) == 4


@pytest.mark.full
@pytest.mark.parametrize("ended_by", ["ctrl-c", "reader"])
def test_an_exporting_program_ends_cleanly(ended_by: str) -> None:
    def answer(body: dict[str, Any]) -> Planned:
        page = Endless()(cast(SearchRequest, body))
        return Planned(200, json.dumps({**asdict(page), "cursor": "next"}).encode())

    with Scripted(answer).listening() as server:
        command = [*PROGRAM, "search", "a cat", "--all", "--json", "--server", server]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline() for _ in range(50)]
        if ended_by == "ctrl-c":
            process.send_signal(signal.SIGINT)
            lines += process.stdout.readlines()
        process.stdout.close()
        status, errors = process.wait(30), process.stderr.read()
        process.stderr.close()
    assert all(json.loads(line)["id"] for line in lines)
    assert "Traceback" not in errors
    if ended_by == "ctrl-c":
        assert (status, errors.splitlines()[-1]) == (1, "Stopped. Not all hits are printed.")
    else:
        assert status == 0
