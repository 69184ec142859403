"""Print the hits of a search: a table on a terminal, tab-separated lines in a pipe, or JSON."""

from dataclasses import asdict

from viewfinder.cli import output
from viewfinder.client import Hit, SearchResult
from viewfinder.engine.engine import grades, print_results


def show_page(result: SearchResult, *, as_json: bool, as_lines: bool, headed: bool) -> None:
    """Print one page of hits, as JSON lines with `as_lines`, with column names first if `headed`."""
    if as_json and as_lines:
        for hit in result.hits if result.groups is None else result.groups:
            output.print_json_line(asdict(hit))
    elif as_json:
        output.print_json(asdict(result))
    elif output.stdout().is_terminal:
        print_results(result)
        return  # print_results also prints the warnings
    else:
        _print_columns(result, headed=headed)
    for warning in result.warnings:
        output.note(f"warning: {warning}")


def _print_columns(result: SearchResult, *, headed: bool) -> None:
    columns = ["score", "relevance", "uri", "caption", "size"]
    rows = [_hit_cells(hit) for hit in result.hits]
    if result.groups is not None:
        columns = ["group", *columns]
        rows = [[str(group.value), *_hit_cells(hit)] for group in result.groups for hit in group.hits]
    if lines := ([columns] if headed else []) + rows:
        output.print_lines(lines)
    if headed and not rows:
        output.note("Nothing found.")


def _hit_cells(hit: Hit) -> list[str]:
    size = f"{hit.width}x{hit.height}" if hit.width and hit.height else ""
    return [*grades(hit), hit.uri, hit.caption or "", size]
