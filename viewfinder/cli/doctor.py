"""`viewfinder doctor`: check this machine."""

from dataclasses import asdict
from typing import Annotated

import typer

from viewfinder.cli import checks, output
from viewfinder.cli.entry import FAILED
from viewfinder.cli.options import Config, Json, examples, source_uri

EPILOG = examples(
    "viewfinder doctor",
    "viewfinder doctor --source s3://bucket/prefix",
    statuses="Exit status: 0 nothing failed, 1 a check failed, 2 wrong usage.",
)


def doctor(
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            help="Check that this s3:// prefix or directory can be read.",
            metavar="SRC",
            show_default=False,
            parser=source_uri,
        ),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Check that this machine is set up.

    Looks at packages, settings, store, model, GPU, Ray, port and keys.
    """
    found = checks.examine(source, config=config)
    if as_json:
        output.print_json([asdict(check) for check in found])
    else:
        rows = [[check.name, check.state, check.found, check.advice] for check in found]
        output.print_table(["check", "state", "found", "what to do"], rows)
    if any(check.state == "failed" for check in found):
        raise typer.Exit(FAILED)
