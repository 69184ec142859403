"""`viewfinder key`: create an API key."""

import hashlib
import json
import secrets
from typing import Annotated

import typer

from viewfinder.cli import output
from viewfinder.cli.options import JsonOption, examples, index_name, optional
from viewfinder.cli.search_options import FilterOption
from viewfinder.errors import ConfigurationError

EPILOG = examples(
    "viewfinder key",
    "viewfinder key --admin --json",
    """viewfinder key --name "team a" --filter '{"meta.team": {"eq": "a"}}'""",
)

NameOption = Annotated[
    str | None, optional(metavar="TEXT", help="Name of the key in the file, for its readers; with --filter or --index.")
]
IndexesOption = Annotated[
    list[str] | None,
    optional("--index", metavar="NAME", help="Index that the key may see; repeatable.", parser=index_name),
]


def key_command(
    admin: Annotated[bool, typer.Option("--admin", help="Create a key that also allows takedowns.")] = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="Create a key that allows GET /metrics alone.")] = False,
    filter: FilterOption = None,
    index: IndexesOption = None,
    name: NameOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create an API key.

    The service stores only a digest of the key, from which the key cannot be recovered. With --filter the key sees only
    images that match, with --index only these indexes; it belongs in the file of VIEWFINDER_API_KEYS_FILE.
    """
    limits: dict[str, object] = {}
    if filter:
        limits["filter"] = filter
    if index:
        limits["indexes"] = list(dict.fromkeys(index))
    if admin and metrics:
        raise ConfigurationError("--admin allows metrics too: pass one of --admin and --metrics.")
    if metrics and limits:
        raise ConfigurationError(
            "Metrics are about all images: --metrics cannot be combined with --filter and --index."
        )
    if name is not None and not limits:
        raise ConfigurationError("--name is for keys with --filter or --index: VIEWFINDER_API_KEYS has digests alone.")
    scope = "admin" if admin else "metrics" if metrics else "read"
    secret = secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    if limits:
        entry = ({"name": name} if name else {}) | {"digest": digest, "scope": scope} | limits
        as_printed, place = {"key": secret, "entry": entry}, "An element of `keys` in the file VIEWFINDER_API_KEYS_FILE"
        setting = json.dumps(entry, ensure_ascii=False)
    else:
        value = digest if scope == "read" else f"{digest}:{scope}"
        as_printed, place = {"key": secret, "digest": value}, "Setting for the service (separate digests with commas)"
        setting = f"VIEWFINDER_API_KEYS={value}"
    if as_json:
        output.print_json(as_printed)
    else:
        output.print_text(f"API key, shown only once:\n  {secret}\n{place}:\n  {setting}")
