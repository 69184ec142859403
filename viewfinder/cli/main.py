"""The `viewfinder` command line. Each command is a module of this package."""

import itertools
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from viewfinder._version import __version__
from viewfinder.cli import (
    evaluate,
    index,
    key,
    models,
    output,
    reindex,
    search,
    serve,
    size,
    sources,
    status,
    takedown,
)
from viewfinder.cli.doctor import command as doctor
from viewfinder.cli.entry import exit_status
from viewfinder.cli.options import Command, RayCommand, examples

EPILOG = examples(
    "viewfinder index photos/",
    'viewfinder search "a red car"',
    "viewfinder serve",
    "viewfinder index --help",
)

app = typer.Typer(
    help="Describe what you are looking for, get the images.",
    epilog=EPILOG,
    no_args_is_help=True,
    # Plain help: no boxes, and the same in a pipe.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
app.command("index", epilog=index.EPILOG, cls=RayCommand)(index.index_command)
app.command("search", epilog=search.EPILOG, cls=Command)(search.search_command)
app.command("serve", epilog=serve.EPILOG, cls=Command)(serve.serve_command)
app.command("reindex", epilog=reindex.EPILOG, cls=RayCommand)(reindex.reindex_command)
app.command("evaluate", epilog=evaluate.EPILOG, cls=Command)(evaluate.evaluate_command)
app.command("status", epilog=status.EPILOG, cls=Command)(status.status_command)
app.command("models", epilog=models.EPILOG, cls=Command)(models.models_command)
app.command("size", epilog=size.EPILOG, cls=Command)(size.size_command)
app.command("doctor", epilog=doctor.EPILOG, cls=Command)(doctor.doctor_command)
app.command("key", epilog=key.EPILOG, cls=Command)(key.key_command)
app.command("takedown", epilog=takedown.TAKEDOWN_EPILOG, cls=Command)(takedown.takedown_command)
app.command("restore", epilog=takedown.RESTORE_EPILOG, cls=Command)(takedown.restore_command)
app.command("sources", epilog=sources.EPILOG, cls=Command)(sources.sources_command)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        output.print_text(__version__)
        raise typer.Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status. A user's mistake prints one message, never a traceback.

    With --json the message is a JSON object on standard error.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    as_json = "--json" in itertools.takewhile("--".__ne__, arguments)

    def run() -> None:
        status = app(args=arguments, prog_name="viewfinder", standalone_mode=not as_json)
        if isinstance(status, int):
            sys.exit(status)

    return exit_status(run, as_json=as_json)
