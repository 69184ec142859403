"""`viewfinder search`: find images through a service, or in the index on this machine."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import typer

from viewfinder.cli import output
from viewfinder.cli.advice import advice
from viewfinder.cli.entry import FAILED
from viewfinder.cli.options import ConfigOption, IndexNameOption, JsonOption, ServerOption, examples
from viewfinder.cli.progress import count_progress
from viewfinder.cli.search_options import (
    AllOption,
    CollapseOption,
    CollapseThresholdOption,
    DiversityOption,
    FilterOption,
    GroupByOption,
    GroupSizeOption,
    IdOption,
    ImageOption,
    ImageUrlOption,
    LimitOption,
    MinRelevanceOption,
    OffsetOption,
    OrderByOption,
    RankOption,
    TargetOption,
    TextArgument,
    ThresholdOption,
    WeightsOption,
)
from viewfinder.cli.search_report import show_page
from viewfinder.cli.service import find_service
from viewfinder.client import Part, SearchOptions, SearchRequest, SearchResult
from viewfinder.client.requests import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    image_bytes,
    image_id,
    last_position,
    next_page,
    search_body,
)
from viewfinder.extras import packages_of
from viewfinder.settings import Settings

# The exit status of a search that found nothing.
NO_HITS = 3
# Of each page of `--all`, so that one lost request does not end an export.
_EXPORT_RETRIES = 3
EPILOG = examples(
    'viewfinder search "a red car"',
    "viewfinder search --image cat.jpg --limit 20",
    'viewfinder search "a dog" --filter \'{"width": {"gte": 800}}\' --json',
    'viewfinder search "a dog" --min-relevance 0.95 --order-by=-last_modified',
    'viewfinder search --filter \'{"tags": {"eq": "beach"}}\' --order-by size',
    'viewfinder search "a dog" --collapse near',
    'viewfinder search "a dog" --all --json > hits.jsonl',
    statuses="Exit status: 0 found, 1 failed, 2 wrong usage or configuration, 3 no hits.",
)

SearchCall = Callable[[SearchRequest], SearchResult]


def search_command(
    text: TextArgument = None,
    image: ImageOption = None,
    image_url: ImageUrlOption = None,
    id: IdOption = None,
    target: TargetOption = "image",
    rank: RankOption = "clip",
    weights: WeightsOption = None,
    filter: FilterOption = None,
    order_by: OrderByOption = None,
    min_relevance: MinRelevanceOption = None,
    threshold: ThresholdOption = None,
    offset: OffsetOption = None,
    limit: LimitOption = None,
    diversity: DiversityOption = None,
    group_by: GroupByOption = None,
    group_size: GroupSizeOption = None,
    collapse: CollapseOption = None,
    collapse_threshold: CollapseThresholdOption = None,
    all_: AllOption = False,
    index: IndexNameOption = None,
    server: ServerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find images by a description, by an image, or by both.

    Without these, --filter and --order-by list images in the order of a field.
    Uses the service at VIEWFINDER_SERVER, else a service on this machine, else the local index.
    """
    if all_ and limit is not None:
        raise typer.BadParameter("Prints all hits, so it cannot be combined with --limit.", param_hint="'--all'")
    options: SearchOptions = {
        "target": target,
        "rank": rank,
        "weights": weights,
        "limit": MAX_LIMIT if all_ else limit or DEFAULT_LIMIT,
        "offset": offset,
        "filter": filter,
        "order_by": order_by,
        "min_relevance": min_relevance,
        "score_threshold": threshold,
        "diversity": diversity,
        "group_by": group_by,
        "group_size": group_size,
        "collapse": collapse,
        "collapse_threshold": collapse_threshold,
    }
    query = _searched_by(text, image, image_url, id)
    _check_search_options(query, options)
    request: SearchRequest = {**query, **options}
    settings = Settings.load(config=config, server=server, index=index)
    with advice(given_id=id), _open_search(settings, request, _EXPORT_RETRIES if all_ else 0) as search:
        show = show_all_pages if all_ else _show_first_page
        count = show(search, request, as_json=as_json)
    end = last_position(
        limit or MAX_LIMIT,
        target=target,
        rank=rank,
        order_by=order_by,
        diversity=diversity,
        group_by=group_by,
        collapse=collapse,
    )
    if all_ and query and count + (offset or 0) >= end:
        output.note(f"Stopped after {count:,} {'groups' if group_by else 'hits'}: a search returns no more of them.")
    if not count:
        raise typer.Exit(NO_HITS)


def _check_search_options(query: SearchRequest, options: SearchOptions) -> None:
    """Refuse a search without a query or order, and options that need another one."""
    if not query and options["filter"] is None and options["order_by"] is None:
        raise typer.BadParameter(
            "Give a text, --image, --image-url or --id; or --filter or --order-by to list images.", param_hint="'TEXT'"
        )
    if options["group_size"] is not None and options["group_by"] is None:
        raise typer.BadParameter("Needs --group-by.", param_hint="'--group-size'")
    if collapse_refusal := _collapse_refusal(options):
        raise typer.BadParameter(collapse_refusal, param_hint="'--collapse'")
    if options["weights"] is not None and options["rank"] != "hybrid":
        raise typer.BadParameter("Needs --rank hybrid.", param_hint="'--weights'")


def _collapse_refusal(options: SearchOptions) -> str | None:
    if options["collapse_threshold"] is not None and options["collapse"] != "near":
        return "--collapse-threshold needs --collapse near."
    if options["collapse"] is not None and options["group_by"] is not None:
        return "Cannot be combined with --group-by."
    return None


def _searched_by(text: str | None, image: Path | None, image_url: str | None, id: str | None) -> SearchRequest:
    """The part of the request to search by; empty for a list of images.

    A wrong image or id is refused before anything is opened.
    """
    given: dict[str, Any] = {
        "text": text,
        "image": None if image is None else image_bytes(image),
        "image_url": image_url,
        "id": id,
    }
    if id is not None:
        image_id(id)
    parts = [Part(**{name: value}) for name, value in given.items() if value is not None]
    if len(parts) > 1:
        return {"queries": parts}
    return cast(SearchRequest, {name: value for name, value in given.items() if value is not None})


@contextmanager
def _open_search(settings: Settings, request: SearchRequest, retries: int) -> Iterator[SearchCall]:
    """Yield the search of a service, else of the local index opened in this process."""
    if (client := find_service(settings, retries=retries)) is not None:
        with client:
            yield lambda request: client.search(**request)
        return
    with packages_of("local", "'viewfinder search'"):
        from viewfinder.cluster.session import store_of
        from viewfinder.query.body import parse_query
        from viewfinder.query.local import LocalSearch

    parse_query(search_body(request))  # refused before the store is opened
    output.note(f"Searching index {settings.index!r} in this process.")
    with store_of(settings) as store, LocalSearch(store, settings) as local:
        yield local.search


def _show_first_page(search: SearchCall, request: SearchRequest, *, as_json: bool) -> int:
    """Print the first page and return the number of hits or groups."""
    page = search(request)
    show_page(page, as_json=as_json, as_lines=False, headed=True, collapses=bool(request.get("collapse")))
    return _count_hits(page)


def show_all_pages(search: SearchCall, request: SearchRequest, *, as_json: bool) -> int:
    """Print all pages and return the number of hits or groups. Ctrl-C ends with status 1 after a whole line."""
    following: SearchRequest | None = request
    count, warned = 0, set[str]()
    collapses = bool(request.get("collapse"))
    try:
        with count_progress("Found") as show_count:
            while following is not None:
                page = search(following)
                is_read = show_page(
                    page, as_json=as_json, as_lines=True, headed=count == 0, collapses=collapses, warned=warned
                )
                count += _count_hits(page)
                show_count(count)
                following = next_page(following, page.cursor) if is_read else None
    except KeyboardInterrupt:
        output.note("Stopped. Not all hits are printed.")
        raise typer.Exit(FAILED) from None
    return count


def _count_hits(page: SearchResult) -> int:
    return len(page.hits if page.groups is None else page.groups)
