"""Print the hits of a search: a table on a terminal, tab-separated lines in a pipe, or JSON."""

from dataclasses import asdict, replace

from viewfinder.cli import output
from viewfinder.client import Hit, SearchResult
from viewfinder.engine.engine import grades, print_results


def show_page(
    result: SearchResult,
    *,
    as_json: bool,
    as_lines: bool,
    headed: bool,
    collapses: bool = False,
    warned: set[str] | None = None,
) -> bool:
    """Print one page of hits, as JSON lines with `as_lines`, with column names first if `headed`.

    With `collapses` there is a column with the number of images that each hit stands for. Warnings in `warned`, those
    of earlier pages, are not printed again; new ones are added. Returns False if the reader of standard output is gone.
    """
    warned = set() if warned is None else warned
    warnings = tuple(each for each in result.warnings if each not in warned)
    warned.update(warnings)
    if as_json and as_lines:
        hits = result.hits if result.groups is None else result.groups
        is_read = all(output.print_json_line(asdict(hit)) for hit in hits)
    elif as_json:
        is_read = output.print_json(asdict(result))
    elif output.stdout().is_terminal:
        print_results(replace(result, warnings=warnings))
        return True  # print_results also prints the warnings
    else:
        is_read = _print_columns(result, headed=headed, collapses=collapses)
    for warning in warnings:
        output.note(f"warning: {warning}")
    return is_read


def _print_columns(result: SearchResult, *, headed: bool, collapses: bool) -> bool:
    columns = ["score", "relevance", "uri", "caption", "size", *(["similar"] if collapses else [])]
    rows = [[*_hit_cells(hit), *([str(hit.collapsed)] if collapses else [])] for hit in result.hits]
    if result.groups is not None:
        columns = ["group", *columns]
        rows = [[str(group.value), *_hit_cells(hit)] for group in result.groups for hit in group.hits]
    lines = ([columns] if headed else []) + rows
    is_read = output.print_lines(lines) if lines else True
    if headed and not rows:
        output.note("Nothing found.")
    return is_read


def _hit_cells(hit: Hit) -> list[str]:
    size = f"{hit.width}x{hit.height}" if hit.width and hit.height else ""
    return [*grades(hit), hit.uri, hit.caption or "", size]
