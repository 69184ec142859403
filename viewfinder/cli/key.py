"""`viewfinder key`: create an API key."""

import hashlib
import secrets
from typing import Annotated

import typer

from viewfinder.cli import output
from viewfinder.cli.options import JsonOption, examples
from viewfinder.errors import ConfigurationError

EPILOG = examples("viewfinder key", "viewfinder key --admin --json")


def key_command(
    admin: Annotated[bool, typer.Option("--admin", help="Create a key that also allows takedowns.")] = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="Create a key that allows GET /metrics alone.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create an API key.

    The service stores only a digest of the key, from which the key cannot be recovered.
    """
    if admin and metrics:
        raise ConfigurationError("--admin allows metrics too: pass one of --admin and --metrics.")
    scope = ":admin" if admin else ":metrics" if metrics else ""
    secret = secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest() + scope
    if as_json:
        output.print_json({"key": secret, "digest": digest})
        return
    output.print_text(
        f"API key, shown only once:\n  {secret}\n"
        "Setting for the service (separate several digests with commas):\n"
        f"  VIEWFINDER_API_KEYS={digest}"
    )
