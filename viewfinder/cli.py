"""The `viewfinder` command. Its output is the only thing in this package that prints."""

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from viewfinder import __version__, doctor
from viewfinder.client import Client, Target
from viewfinder.engine import print_results
from viewfinder.errors import ViewfinderError
from viewfinder.registry import REGISTRY
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
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and a status, never a traceback."""
    try:
        app()
    except ViewfinderError as error:
        print(f"error: {error}", file=sys.stderr)
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
    text: Annotated[str, typer.Argument(help="What the pictures shall show, in plain words.", show_default=False)],
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=200, help="Largest number of hits.")] = 5,
    target: Annotated[Target, typer.Option(help="Compare with the pictures, with their captions, or both.")] = "image",
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Ask the service for the pictures that fit a description best."""
    with _client(server) as client:
        result = client.search(text, limit=top_k, target=target)
    if as_json:
        _print_json(asdict(result))
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
        if value is not None:
            table.add_row(name, f"{value:,}" if isinstance(value, int) else value)
    _console().print(table)


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
        table = Table("check", "state", "found", "what to do", box=SIMPLE_HEAD)
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
    table = Table(
        Column("name", no_wrap=True),
        "dimension",
        "image",
        "tokens",
        "languages",
        "licence",
        "good for",
        box=SIMPLE_HEAD,
    )
    for spec in REGISTRY.values():
        size = f"{spec.image_size} px" if spec.image_size else "?"
        table.add_row(
            spec.name, str(spec.dimension), size, str(spec.context_length), spec.languages, spec.licence, spec.good_for
        )
    console = _console()
    console.print(table)
    console.print("Also: any open_clip ARCH::TAG, hf-hub:ORG/NAME, or a local checkpoint directory.")


_COLOURS: dict[doctor.State, str] = {"ok": "green", "note": "yellow", "failed": "bold red", "skipped": "dim"}


def _client(server: str | None) -> Client:
    # Somebody is waiting for the answer: they would rather hear at once that there is no index yet.
    return Client(Settings.load(server=server).server, retries=0)


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def _console() -> Console:
    """Standard output; in a pipe, where rich assumes 80 columns, wide enough that no cell is broken."""
    console = Console()
    return console if console.is_terminal else Console(width=200)
