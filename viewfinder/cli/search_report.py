"""Print the hits of a search: a table on a terminal, tab-separated lines in a pipe, or JSON."""

from dataclasses import asdict

from viewfinder.cli import output
from viewfinder.client import Hit, SearchResult
from viewfinder.engine.engine import grades, print_results


def show_page(result: SearchResult, *, as_json: bool, as_lines: bool, headed: bool) -> bool:
    """Print one page of hits, as JSON lines with `as_lines`, with column names first if `headed`.

    Returns False if the reader of standard output is gone.
    """
    if as_json and as_lines:
        hits = result.hits if result.groups is None else result.groups
        is_read = all(output.print_json_line(asdict(hit)) for hit in hits)
    elif as_json:
        is_read = output.print_json(asdict(result))
    elif output.stdout().is_terminal:
        print_results(result)
        return True  # print_results also prints the warnings
    else:
        is_read = _print_columns(result, headed=headed)
    for warning in result.warnings if headed else ():  # later pages repeat those of the first
        output.note(f"warning: {warning}")
    return is_read


def _print_columns(result: SearchResult, *, headed: bool) -> bool:
    columns = ["score", "relevance", "uri", "caption", "size"]
    rows = [_hit_cells(hit) for hit in result.hits]
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
