"""Tables on terminals of several widths."""

import pytest

from viewfinder.cli.output import print_table

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
