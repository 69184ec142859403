"""Arguments of jobs in deployment files, parsed by the command line that will get them."""

from collections.abc import Sequence
from typing import Any

import typer

from viewfinder.cli.main import app


def command_group() -> typer.core.TyperGroup:
    """The `viewfinder` command, which has the others."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return group


def parsed(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The values that `viewfinder COMMAND` reads from `arguments`; raises click's `UsageError`."""
    group = command_group()
    found = group.get_command(typer.Context(group), command)
    assert found is not None, command
    values: dict[str, Any] = found.make_context(command, list(arguments)).params
    return values
