"""`viewfinder search`: find images through a service, or in the index on this machine."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from viewfinder.cli import output
from viewfinder.cli.advice import advice
from viewfinder.cli.options import (
    ConfigOption,
    IndexNameOption,
    JsonOption,
    ServerOption,
    choice,
    examples,
    number,
    optional,
    ratio,
    whole,
)
from viewfinder.cli.service import find_service
from viewfinder.client import Hit, Part, Rank, SearchRequest, SearchResult, Target
from viewfinder.client.requests import (
    DEFAULT_LIMIT,
    MAX_HITS,
    MAX_LIMIT,
    MAX_RANKED_HITS,
    diverse_candidates,
    image_bytes,
    image_id,
    is_blank,
    next_page,
    search_body,
)
from viewfinder.engine.engine import print_results
from viewfinder.extras import packages_of
from viewfinder.settings import Settings

# The exit status of a search that found nothing.
NO_HITS = 3
EPILOG = examples(
    'viewfinder search "a red car"',
    "viewfinder search --image cat.jpg --limit 20",
    'viewfinder search "a dog" --filter \'{"width": {"gte": 800}}\' --json',
    'viewfinder search "a dog" --all --json > hits.jsonl',
    statuses="Exit status: 0 found, 1 failed, 2 wrong usage or configuration, 3 no hits.",
)


def _json_object(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise typer.BadParameter(f"{text!r} is not a JSON object.")
    return document


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, separator, value = part.partition("=")
        if not separator:
            raise typer.BadParameter(f"{text!r} does not have the form clip=1,words=0.5.")
        weights[choice("clip", "words")(name.strip())] = number(0, 100)(value)
    if not any(weights.get(name, 1.0) for name in ("clip", "words")):
        raise typer.BadParameter("At least one weight must be above 0.")
    return weights


def _query_text(text: str) -> str:
    if is_blank(text):
        raise typer.BadParameter("The text is empty: it has no visible character.")
    return text


def search_command(
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="TEXT", help="Description of the images, in plain words.", show_default=False, parser=_query_text
        ),
    ] = None,
    image: Annotated[Path | None, optional(help="Find images similar to this file.", metavar="PATH")] = None,
    image_url: Annotated[
        str | None,
        optional(help="Find images similar to the one at this address.", metavar="URL"),
    ] = None,
    id: Annotated[
        str | None,
        optional("--id", help="Find images similar to this image of the index.", metavar="URI|ID"),
    ] = None,
    target: Annotated[
        Target,
        typer.Option(
            metavar="|".join(get_args(Target)),
            help="Compare with images, with captions, or with both.",
            parser=choice(*get_args(Target)),
        ),
    ] = "image",
    rank: Annotated[
        Rank,
        typer.Option(
            metavar="|".join(get_args(Rank)),
            help="Rank by the model, by the words of captions, or by both.",
            parser=choice(*get_args(Rank)),
        ),
    ] = "clip",
    weights: Annotated[
        dict[str, float] | None,
        optional(
            help="Weights of --rank hybrid, for example clip=1,words=0.5.",
            metavar="WEIGHTS",
            parser=_weights,
        ),
    ] = None,
    filter: Annotated[
        dict[str, Any] | None,
        optional(
            "--filter",
            help='Conditions on the payload, for example {"width": {"gte": 800}}.',
            metavar="JSON",
            parser=_json_object,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        optional(help="Leave out hits with a lower cosine.", metavar="X", parser=number(-1, 1)),
    ] = None,
    offset: Annotated[int | None, optional(help="Skip the N best hits.", metavar="N", parser=whole(0))] = None,
    limit: Annotated[
        int | None,
        optional(
            "--limit",
            "-k",
            "--top-k",
            help=f"Maximum number of hits, or of groups, 1 to {MAX_LIMIT}. [default: {DEFAULT_LIMIT}]",
            metavar="N",
            parser=whole(1, MAX_LIMIT),
        ),
    ] = None,
    diversity: Annotated[
        float | None,
        optional(help="Variety among the hits, 0 to 1.", metavar="X", parser=ratio),
    ] = None,
    group_by: Annotated[str | None, optional(help="Group hits by a payload field.", metavar="FIELD")] = None,
    group_size: Annotated[
        int | None,
        optional(help="Hits in each group, 1 to 10. [default: 3]", metavar="N", parser=whole(1, 10)),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Print all hits; with --json, one per line.")] = False,
    index: IndexNameOption = None,
    server: ServerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find images by a description, by an image, or by both.

    Uses the service at VIEWFINDER_SERVER, else a service on this machine, else the local index.
    """
    parts: dict[str, Any] = {"text": text, "image": image, "image_url": image_url, "id": id}
    parts = {name: value for name, value in parts.items() if value is not None}
    if not parts:
        raise typer.BadParameter("Give a text, --image, --image-url or --id.", param_hint="'TEXT'")
    if all_ and limit is not None:
        raise typer.BadParameter("Prints all hits, so it cannot be combined with --limit.", param_hint="'--all'")
    if group_size is not None and group_by is None:
        raise typer.BadParameter("Needs --group-by.", param_hint="'--group-size'")
    if weights is not None and rank != "hybrid":
        raise typer.BadParameter("Needs --rank hybrid.", param_hint="'--weights'")
    if image is not None:
        parts["image"] = image_bytes(image)
    if id is not None:
        image_id(id)  # refused before anything is opened
    request: SearchRequest = {
        "target": target,
        "rank": rank if rank != "clip" else None,
        "weights": weights,
        "limit": MAX_LIMIT if all_ else limit or DEFAULT_LIMIT,
        "offset": offset,
        "filter": filter,
        "score_threshold": threshold,
        "diversity": diversity,
        "group_by": group_by,
        "group_size": group_size,
    }
    if len(parts) == 1:
        request = {**request, **parts}  # type: ignore[typeddict-item]  # the name is a key of SearchRequest
    else:
        request["queries"] = [Part(**{name: value}) for name, value in parts.items()]
    settings = Settings.load(config=config, server=server, index=index)
    with advice(given_id=id), _searcher(settings, request) as find:
        following: SearchRequest | None = request
        count = 0
        while following is not None:
            page = find(following)
            _print(page, as_json=as_json, as_lines=all_, headed=count == 0)
            count += len(page.hits if page.groups is None else page.groups)
            following = next_page(following, page.cursor) if all_ else None
    if all_ and count + (offset or 0) >= last_position(request):
        output.note(f"Stopped after {count:,} {'groups' if group_by else 'hits'}: a search returns no more of them.")
    if not count:
        raise typer.Exit(NO_HITS)


def last_position(request: SearchRequest) -> int:
    """The last position that `--all` reaches."""
    if request["diversity"]:
        return min(MAX_RANKED_HITS, diverse_candidates(request["limit"] or DEFAULT_LIMIT))
    by_cosine = not (request["rank"] or request["target"] == "both" or request["group_by"])
    return MAX_HITS if by_cosine else MAX_RANKED_HITS


@contextmanager
def _searcher(settings: Settings, request: SearchRequest) -> Iterator[Callable[[SearchRequest], SearchResult]]:
    """Yield the search of a service, else of the local index opened in this process."""
    if (client := find_service(settings)) is not None:
        with client:
            yield lambda request: client.search(**request)
        return
    with packages_of("local", "'viewfinder search'"):
        from viewfinder.cluster.session import store_of
        from viewfinder.query.local import LocalSearch
        from viewfinder.query.query import parse_query

    parse_query(search_body(request))  # refused before the store is opened
    output.note(f"Searching index {settings.index!r} in this process.")
    with store_of(settings) as store, LocalSearch(store, settings) as local:
        yield local.search


def _print(result: SearchResult, *, as_json: bool, as_lines: bool, headed: bool) -> None:
    """Print one page of hits, with column names first if `headed`."""
    if as_json and as_lines:
        for hit in result.hits if result.groups is None else result.groups:
            output.print_json_line(asdict(hit))
    elif as_json:
        output.print_json(asdict(result))
    elif output.stdout().is_terminal:
        print_results(result)
        return  # print_results also prints the warnings
    else:
        columns = ["score", "relevance", "uri", "caption", "size"]
        rows = [_row(hit) for hit in result.hits]
        if result.groups is not None:
            columns = ["group", *columns]
            rows = [[str(group.value), *_row(hit)] for group in result.groups for hit in group.hits]
        lines = ([columns] if headed else []) + rows
        if lines:
            output.print_lines(lines)
        if headed and not rows:
            output.note("Nothing found.")
    for warning in result.warnings:
        output.note(f"warning: {warning}")


def _row(hit: Hit) -> list[str]:
    # Rounded down, so that 100% means a score above all unrelated pairs.
    relevance = "" if hit.relevance is None else f"{math.floor(hit.relevance * 100)}%"
    size = f"{hit.width}x{hit.height}" if hit.width and hit.height else ""
    return [f"{hit.score:.3f}", relevance, hit.uri, hit.caption or "", size]
