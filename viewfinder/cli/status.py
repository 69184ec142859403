"""`viewfinder status`: the collection that a service searches, and the collections in the store."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from viewfinder.cli import output
from viewfinder.cli.options import ConfigOption, IndexNameOption, JsonOption, ServerOption, examples
from viewfinder.cli.service import find_service
from viewfinder.client import IndexState, Stats
from viewfinder.errors import ServiceUnavailableError
from viewfinder.extras import packages_of
from viewfinder.settings import Settings
from viewfinder.wording import counted

if TYPE_CHECKING:
    from viewfinder.reindexing.status import IndexStatus

EPILOG = examples("viewfinder status", "viewfinder status --server https://search.example.org --json")


def status_command(
    index: IndexNameOption = None, server: ServerOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Show the index: model, collections, number of points.

    With --server or VIEWFINDER_SERVER, shows the collection of that service. Otherwise shows the collections in the
    store, and the collection of a service on this machine.
    """
    settings = Settings.load(config=config, server=server, index=index)
    named = "server" in settings.model_fields_set
    stats, indexes = _stats(settings, required=named)
    collections = None if named else _collections(settings)
    if as_json:
        output.print_json(
            {
                "service": None if stats is None else asdict(stats),
                "indexes": [asdict(each) for each in indexes],
                "store": None if collections is None else asdict(collections),
            }
        )
        return
    if stats is not None:
        own = {name: kind for name, kind in stats.fields.items() if name.startswith("meta.")}
        shown = asdict(replace(stats, fields=own))
        fields = {name: value for name, value in shown.items() if value not in (None, (), {})}
        output.print_record([(name.replace("_", " "), _shown_value(value)) for name, value in fields.items()])
    if len(indexes) > 1:
        rows = [[each.name, each.model or "", each.collection or "", each.behind or ""] for each in indexes]
        output.print_table(["index", "model", "collection", "behind"], rows)
    if collections is not None:
        _print_collections(collections)


def _stats(settings: Settings, *, required: bool) -> tuple[Stats | None, Sequence[IndexState]]:
    """The stats of the service, None without a service or, unless `required`, without an index; and its indexes."""
    client = find_service(settings)
    if client is None:
        return None, ()
    with client:
        try:
            return client.stats(), client.indexes().indexes
        except ServiceUnavailableError:
            if required:
                raise
            return None, ()


def _collections(settings: Settings) -> "IndexStatus":
    with packages_of("local", "'viewfinder status'"):
        from viewfinder.cluster.session import store_of
        from viewfinder.reindexing.status import read

    with store_of(settings) as store:
        return read(store, settings.index)


def _print_collections(status: "IndexStatus") -> None:
    from viewfinder.reindexing.status import format_bytes

    rows = [
        [
            each.name,
            each.model,
            each.state,
            f"{each.points:,}",
            each.built_at,
            f"~{format_bytes(each.bytes)}",
            "yes" if each.live else "",
        ]
        for each in status.collections
    ]
    if rows:
        output.print_table(["collection", "model", "state", "points", "built", "size", "live"], rows)
    for line in _notes(status):
        output.print_text(line)


def _notes(status: "IndexStatus") -> Iterator[str]:
    if not status.collections:
        yield f"There is no index {status.index!r} yet. Create it: viewfinder index SRC"
    for each in status.collections:
        if each.live and each.skipped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in each.skipped.items())
            yield f"The last run skipped {counted(sum(each.skipped.values()), 'object')}: {reasons}."
    if status.rollback_pause:
        yield f"Scheduled runs are paused {status.rollback_pause}. To resume them: viewfinder reindex --release"
    if status.incomplete:
        yield status.incomplete
    if status.locked_by:
        yield f"The index is locked by {status.locked_by}."


def _shown_value(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case tuple():
            return "\n".join(map(str, value))
        case Mapping():
            return ", ".join(f"{name} ({kind})" for name, kind in value.items())
        case _:
            return str(value)
