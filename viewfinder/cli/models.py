"""`viewfinder models`: list the known models, and prepare some of them for the CPUs of this machine."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from viewfinder.cli import output
from viewfinder.cli.options import JsonOption, choice, examples
from viewfinder.extras import packages_of
from viewfinder.models.registry import REGISTRY

EPILOG = examples("viewfinder models", "viewfinder models --json", "viewfinder models prepare ViT-B-32::openai")

MODELS_ACTIONS = ("list", "prepare")

# In characters; narrower terminals would break words within columns.
TABLE_WIDTH = 150


def models_command(
    action: Annotated[
        str,
        typer.Argument(
            metavar="[list|prepare]",
            help="List the models, or prepare some for this machine.",
            show_default=False,
            parser=choice(*MODELS_ACTIONS),
        ),
    ] = "list",
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="The models to prepare.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the known models, or prepare some for this machine.

    'list' shows dimension, image size, maximum number of tokens, languages and licence. Also accepted: any open_clip
    ARCH::TAG, hf-hub:ORG/NAME, or a local checkpoint directory. 'prepare' downloads the weights that are missing and
    exports the models for CPUs, which otherwise happens when they are first used; it takes about half a minute.
    """
    if (action == "prepare") != bool(names):
        raise typer.BadParameter("'prepare' takes one or more models, 'list' takes none.", param_hint="'NAME'")
    if names:
        _prepare(names, as_json=as_json)
    else:
        _list(as_json=as_json)


def _prepare(names: Sequence[str], *, as_json: bool) -> None:
    with packages_of("local", "'viewfinder models prepare'"):
        from viewfinder.models.checkpoint import locate
        from viewfinder.models.exporter import prepare

    for name in names:
        export = prepare(locate(name))
        if as_json:
            output.print_json_line({"name": name, "directory": str(export.directory), **asdict(export.manifest)})
        else:
            output.print_text(f"{name} is ready: {export.directory}")


def _list(*, as_json: bool) -> None:
    specs = list(REGISTRY.values())
    if as_json:
        output.print_json([asdict(spec) for spec in specs])
        return
    console = output.stdout()
    if console.is_terminal and console.width < TABLE_WIDTH:
        for spec in specs:
            sizes = f"{spec.dimension} dimensions, {spec.image_size} px, {spec.context_length} tokens"
            console.print(f"{spec.name}\n  {sizes}, {spec.languages}, {spec.licence}\n  {spec.good_for}")
        return
    headings = ["name", "dimension", "image", "tokens", "languages", "licence", "good for"]
    rows = [
        [
            spec.name,
            str(spec.dimension),
            f"{spec.image_size} px",
            str(spec.context_length),
            spec.languages,
            spec.licence,
            spec.good_for,
        ]
        for spec in specs
    ]
    output.print_table(headings, rows)
