"""The `viewfinder` command. Its output is the only thing in this package that prints."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from viewfinder import __version__
from viewfinder.errors import ViewfinderError
from viewfinder.registry import REGISTRY

app = typer.Typer(
    help="Describe what you are looking for, get the images.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

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
def models(as_json: Json = False) -> None:
    """List the models that are known by name, with dimension, image size, languages and licence."""
    if as_json:
        print(json.dumps([asdict(spec) for spec in REGISTRY.values()], indent=2, ensure_ascii=False))
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


def _console() -> Console:
    """Standard output; in a pipe, where rich assumes 80 columns, wide enough that no cell is broken."""
    console = Console()
    return console if console.is_terminal else Console(width=200)
