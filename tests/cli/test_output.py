"""Tables on terminals of several widths."""

import pytest

from viewfinder.cli.output import note, print_lines, print_record, print_table

HEADINGS = ["collection", "state", "built"]
ROW = ["images__vit_b_32__0123456789abcdef__1", "live", "2026-11-28T18:00:00+00:00"]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Standard output is taken for a terminal; the test sets COLUMNS."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    return monkeypatch


def test_a_table_that_does_not_fit_is_printed_as_lines(
    terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Regression: names and times were cut into pieces that could not be copied.
    terminal.setenv("COLUMNS", "60")
    print_table(HEADINGS, [ROW, ["other", "", "never"]])
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        ROW[0],
        "  state: live",
        f"  built: {ROW[2]}",
        "other",
        "  built: never",
    ]


def test_a_table_that_fits_stays_a_table(terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.setenv("COLUMNS", "100")
    print_table(HEADINGS, [ROW])
    lines = capsys.readouterr().out.splitlines()
    assert any(all(cell in line for cell in ROW) for line in lines)


HOSTILE = "s3://b/\x1b[31m:cat:  [bold].jpg"


@pytest.mark.parametrize("width", ["200", "40"])
def test_a_terminal_shows_the_text_of_a_key_and_does_not_act_on_it(
    width: str, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Regression: escape sequences acted, and `:cat:` became an emoji, so that the key could not be copied.
    terminal.setenv("COLUMNS", width)
    print_table(["uri", "state"], [[HOSTILE, HOSTILE]])
    print_record([(HOSTILE, HOSTILE)])
    note(HOSTILE)
    out, err = capsys.readouterr()
    shown = r"s3://b/\x1b[31m:cat:  [bold].jpg"
    assert out.replace("\x1b[1m", "").replace("\x1b[0m", "").count("\x1b") == 0
    assert shown in out
    assert err == shown + "\n"


def test_a_pipe_gets_a_key_with_all_its_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    # Regression: two spaces became one, which names another object.
    print_lines([["s3://b/two  spaces.jpg", "a\tcaption\nof lines"]])
    assert capsys.readouterr().out == "s3://b/two  spaces.jpg\ta caption of lines\n"
