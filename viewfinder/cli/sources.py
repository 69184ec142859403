"""`viewfinder sources list` and `remove`: the sources that a re-index reads."""

import sys
from dataclasses import asdict
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from viewfinder.cli import output
from viewfinder.cli.options import ConfigOption, IndexNameOption, JsonOption, YesOption, choice, examples, parse_source
from viewfinder.cli.service import require_index
from viewfinder.errors import ConfigurationError
from viewfinder.extras import packages_of
from viewfinder.settings import Settings
from viewfinder.sources.uris import source_uri, spellings
from viewfinder.wording import counted

if TYPE_CHECKING:
    from viewfinder.store import Collection, Store

EPILOG = examples(
    "viewfinder sources list", "viewfinder sources list --json", "viewfinder sources remove s3://bucket/2019"
)


SOURCES_ACTIONS = ("list", "remove")


def sources_command(
    action: Annotated[
        str,
        typer.Argument(
            metavar="|".join(SOURCES_ACTIONS),
            help="Show the sources, or forget one.",
            show_default=False,
            parser=choice(*SOURCES_ACTIONS),
        ),
    ],
    source: Annotated[
        str | None,
        typer.Argument(metavar="[SRC]", help="The source to remove.", show_default=False, parser=parse_source),
    ] = None,
    yes: YesOption = False,
    index: IndexNameOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show or remove the sources that a re-index reads.

    'list' shows each source with its points, captions files and patterns. 'remove' forgets a source and deletes the
    points of images that are in no other source; the files themselves are not touched.
    """
    if (action == "remove") != (source is not None):
        raise typer.BadParameter("'remove' takes one source, 'list' takes none.", param_hint="'SRC'")
    if source is not None and not yes and not sys.stdin.isatty():
        raise ConfigurationError("Not a terminal: pass --yes to confirm.")
    settings = Settings.load(config=config, index=index)
    with packages_of("local", "'viewfinder sources'"):
        from viewfinder.cluster.session import store_of

    with store_of(settings) as store:
        require_index(store, settings.index)
        live = store.collections.require_live(settings.index)
        if source is None:
            _show_sources(store, live, as_json=as_json)
        else:
            _remove(store, live, source, yes=yes, as_json=as_json)


def _show_sources(store: "Store", live: "Collection", *, as_json: bool) -> None:
    found = [
        {
            **asdict(each),
            "captions": live.recorded.captions_of(each.uri),
            "points": store.points.count(live, {"sources": {"eq": each.uri}}),
        }
        for each in live.recorded.sources.values()
    ]
    if as_json:
        output.print_json(found)
        return
    rows = [
        [
            each["uri"],
            f"{each['points']:,}",
            " ".join(each["captions"]),
            " ".join(each["include"]),
            " ".join(each["exclude"]),
            "" if each["max_objects"] is None else f"{each['max_objects']:,}",
        ]
        for each in found
    ]
    output.print_table(["source", "points", "captions", "include", "exclude", "max objects"], rows)


def _remove(store: "Store", live: "Collection", source: str, *, yes: bool, as_json: bool) -> None:
    from viewfinder.indexing.prune import count_only_in, remove_source

    uri = _recorded(source, live, store)
    if not yes:
        count = count_only_in(store, live, uri)
        typer.confirm(f"Forget {uri} and delete the {counted(count, 'point')} that only it has?", abort=True, err=True)
    deleted = remove_source(store, live, uri)
    if as_json:
        output.print_json({"source": uri, "deleted": deleted})
    else:
        output.print_text(f"{uri} is removed; {counted(deleted, 'point')} deleted.")


def _recorded(source: str, live: "Collection", store: "Store") -> str:
    """Return the recorded source that is spelled like `source`, or one whose removal was interrupted."""
    known = list(live.recorded.sources)
    uri = source_uri(source)
    for each in spellings(uri):
        if each in known:
            return each
    points = store.points.iterate(live, {"sources": {"eq": uri}}, ["sources"])
    if left := {*spellings(uri)} & {each for point in islice(points, 100) for each in point.payload["sources"]}:
        return min(left)
    near = get_close_matches(uri, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigurationError(
        f"Index {live.index!r} has no source {uri!r}.{hint} Recorded: {', '.join(map(repr, known)) or 'none'}."
    )
