"""The `viewfinder` command. Its output is the only thing in this package that prints."""

import hashlib
import json
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from viewfinder import __version__
from viewfinder.cli import doctor, status_table
from viewfinder.client import Client, Part, Rank, SearchOptions, Target
from viewfinder.engine import INSTALL_ALL, print_results
from viewfinder.errors import ConfigurationError, ServiceError, ViewfinderError
from viewfinder.models.registry import REGISTRY
from viewfinder.settings import Settings

app = typer.Typer(
    help="Describe what you are looking for, get the images.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Server = Annotated[
    str | None, typer.Option("--server", help="Address of the service. Default: VIEWFINDER_SERVER.", metavar="URL")
]
Subject = Annotated[
    str, typer.Argument(metavar="URI|ID", help="The picture: its URI or absolute path, or its id.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and a status, never a traceback."""
    try:
        app()
    except ViewfinderError as error:
        hint = _KEY_HINTS.get(error.status, "") if isinstance(error, ServiceError) else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        sys.exit(error.exit_status)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def search(
    text: Annotated[
        str | None, typer.Argument(help="What the pictures shall show, in plain words.", show_default=False)
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture to look for the likes of.", metavar="PATH", show_default=False)
    ] = None,
    id: Annotated[
        str | None, typer.Option("--id", help="The same with a picture of the index: its id or URI.", metavar="ID")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=200, help="Largest number of hits.")] = 5,
    target: Annotated[Target, typer.Option(help="Compare with the pictures, with their captions, or both.")] = "image",
    rank: Annotated[Rank, typer.Option(help="By the model, by the words of the captions, or both.")] = "clip",
    filter: Annotated[
        str | None,
        typer.Option("--filter", help='Conditions on the payload: \'{"width": {"gte": 800}}\'.', metavar="JSON"),
    ] = None,
    diversity: Annotated[
        float | None, typer.Option(min=0, max=1, help="How far the hits shall differ from each other.")
    ] = None,
    group_by: Annotated[str | None, typer.Option(help="Group the hits by a payload field.", metavar="FIELD")] = None,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Find pictures by a description, by a picture, or by both together."""
    given: dict[str, Any] = {"text": text, "image": image, "id": id}
    sought = {name: value for name, value in given.items() if value is not None}
    if not sought:
        raise ConfigurationError("Say what to look for: a text, --image PATH or --id ID.")
    if len(sought) > 1:
        sought = {"queries": [Part(**{name: value}) for name, value in sought.items()]}
    options = SearchOptions(
        limit=top_k,
        target=target,
        rank=rank if rank != "clip" else None,
        filter=None if filter is None else _json_object("--filter", filter),
        diversity=diversity,
        group_by=group_by,
    )
    with _client(server) as client:
        result = client.search(**sought, **options)
    if as_json:
        _print_json(asdict(result))
        for warning in result.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    else:
        print_results(result, _console())


@app.command()
def stats(server: Server = None, as_json: Json = False) -> None:
    """Show what the service searches: model, collection, number of points."""
    with _client(server) as client:
        record = asdict(client.stats())
    if as_json:
        _print_json(record)
        return
    table = Table(box=SIMPLE_HEAD, show_header=False)
    for name, value in record.items():
        if value not in (None, (), {}):
            table.add_row(name.replace("_", " "), escape(_shown(value)))
    _console().print(table)


@app.command(name="status")
def collections(
    index: Annotated[
        str | None, typer.Option(help="Name of the index. Default: VIEWFINDER_INDEX.", metavar="NAME")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the collections of an index in the store itself: model, state, points, size, which one is live."""
    try:
        from viewfinder.cluster.session import open_store
        from viewfinder.reindexing import status
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"'status' needs {error.name}, which is not installed: {INSTALL_ALL}.") from error
    settings = Settings.load(index=index)
    with open_store(settings) as store:
        found = status.read(store, settings.index)
    if as_json:
        _print_json(asdict(found))
        return
    console = _console()
    console.print(status_table.table(found))
    for note in status_table.notes(found):
        console.print(escape(note))


@app.command()
def remove(
    subject: Subject,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Take a picture out of the index and keep it out of later runs. Needs an admin's key; its file stays."""
    with _client(server) as client:
        if not yes:
            if not sys.stdin.isatty():
                raise ConfigurationError("Nothing was removed: there is nobody to ask. Say --yes to remove it unasked.")
            typer.confirm(f"Take {_known(client, subject)} out of the index and keep it out?", abort=True, err=True)
        removal = client.remove(subject)
    name = removal.uri or removal.id
    if as_json:
        _print_json(asdict(removal))
    elif removal.removed:
        print(f"{name} is out of the index, and later runs leave it out. To undo it: viewfinder restore {removal.id}")
    else:
        print(f"{name} was not in the index; later runs leave it out. To undo it: viewfinder restore {removal.id}")


@app.command()
def restore(subject: Subject, server: Server = None, as_json: Json = False) -> None:
    """Undo a `remove`: the next run of the index job brings the picture back. Needs an admin's key."""
    with _client(server) as client:
        restoration = client.restore(subject)
    if as_json:
        _print_json(asdict(restoration))
    elif restoration.restored:
        print(f"{subject} may come back: the next run of the index job finds it again.")
    else:
        print(f"{subject} was not kept out of the index; nothing has changed.")


@app.command()
def key(
    admin: Annotated[bool, typer.Option("--admin", help="A key that may take pictures down, too.")] = False,
    as_json: Json = False,
) -> None:
    """Make an API key. The service is told its digest alone: nobody can read the key there, nor get it back."""
    secret = secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest() + (":admin" if admin else "")
    if as_json:
        _print_json({"key": secret, "digest": digest})
        return
    print(f"API key, shown this once:\n  {secret}\nIts digest, for the service (after a comma where there are others):")
    print(f"  VIEWFINDER_API_KEYS={digest}")


@app.command(name="doctor")
def examine(
    source: Annotated[
        str | None, typer.Option(help="Also look whether this s3:// prefix or directory can be read.", metavar="URI")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this machine: packages, settings, store, model, GPU, port. Status 1 if something is wrong."""
    checks = doctor.examine(source)
    if as_json:
        _print_json([asdict(check) for check in checks])
    else:
        # Paths and addresses are long words: folded, for what is cut off cannot be copied.
        found, advice = Column("found", overflow="fold"), Column("what to do", overflow="fold")
        table = Table("check", "state", found, advice, box=SIMPLE_HEAD)
        for check in checks:
            state = f"[{_COLOURS[check.state]}]{check.state}[/]"
            table.add_row(check.name, state, escape(check.found), escape(check.advice))
        _console().print(table)
    if any(check.state == "failed" for check in checks):
        raise typer.Exit(1)


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that are known by name, with dimension, image size, languages and licence."""
    if as_json:
        _print_json([asdict(spec) for spec in REGISTRY.values()])
        return
    console = _console()
    narrow = console.width < MODELS_TABLE_WIDTH
    headings = ("name",) if narrow else ("name", "dimension", "image", "tokens", "languages", "licence", "good for")
    table = Table(*headings, box=SIMPLE_HEAD)
    for spec in REGISTRY.values():
        dimension, pixels, tokens = (
            str(each or "?") for each in (spec.dimension, spec.image_size, spec.context_length)
        )
        if narrow:
            sizes = f"{dimension} dimensions, {pixels} px, {tokens} tokens"
            table.add_row(f"{spec.name}\n  {sizes}, {spec.languages}, {spec.licence}\n  {spec.good_for}")
        else:
            table.add_row(spec.name, dimension, f"{pixels} px", tokens, spec.languages, spec.licence, spec.good_for)
    console.print(table)
    console.print("Also: any open_clip ARCH::TAG, hf-hub:ORG/NAME, or a local checkpoint directory.")


_KEY_HINTS = {
    401: " Set VIEWFINDER_API_KEY to a key of this service.",
    403: " The key sent is VIEWFINDER_API_KEY; 'viewfinder key --admin' makes one that may take pictures down.",
}
MODELS_TABLE_WIDTH = 150  # characters; on narrower terminals the columns would break every word
_COLOURS: dict[doctor.State, str] = {"ok": "green", "note": "yellow", "failed": "bold red", "skipped": "dim"}


def _client(server: str | None) -> Client:
    # Somebody is waiting for the answer: they would rather hear at once that there is no index yet.
    return Client.of(Settings.load(server=server), retries=0)


def _known(client: Client, subject: str) -> str:
    """The URI of a picture, so that nobody says yes to a mere id."""
    try:
        return client.image(subject).uri
    except ServiceError as error:
        if error.status != 404:
            raise
        return f"{subject} (which is not in the index)"


def _json_object(option: str, text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"{option} is no JSON: {error}. Given: {text!r}.") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{option} must be a JSON object, not {text!r}.")
    return document


def _shown(value: object) -> str:
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


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def _console() -> Console:
    """Standard output; in a pipe, where rich assumes 80 columns, wide enough that no cell is broken."""
    console = Console()
    return console if console.is_terminal else Console(width=200)
