"""`viewfinder key`: make an API key."""

import hashlib
import secrets
from typing import Annotated

import typer

from viewfinder.cli import output
from viewfinder.cli.options import JsonOption, examples

EPILOG = examples("viewfinder key", "viewfinder key --admin --json")


def key_command(
    admin: Annotated[bool, typer.Option("--admin", help="Make a key that also allows takedowns.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make an API key.

    The service gets only the digest of the key, from which nobody can recover the key.
    """
    secret = secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest() + (":admin" if admin else "")
    if as_json:
        output.print_json({"key": secret, "digest": digest})
        return
    output.print_text(
        f"API key, shown only once:\n  {secret}\n"
        "Setting of the service (separate several digests by commas):\n"
        f"  VIEWFINDER_API_KEYS={digest}"
    )
