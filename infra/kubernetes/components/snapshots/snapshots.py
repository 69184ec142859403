"""Make snapshots of an index in Qdrant: of its control collection and the live one, on each node.

python snapshots.py --node http://qdrant-0.qdrant-headless:6333 --node http://qdrant-1.qdrant-headless:6333 --keep 7

Qdrant's own configuration says where they go (`storage.snapshots_config`). The index and the key are the settings
VIEWFINDER_INDEX and VIEWFINDER_QDRANT_API_KEY. Each snapshot is reported as one line of JSON on standard output.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from viewfinder.errors import ConfigurationError
from viewfinder.settings import Settings

# COLLECTION-PEER-YEAR-MONTH-DAY-HOUR-MINUTE-SECOND.snapshot. With S3, every node lists the snapshots of all nodes.
NAME = re.compile(r".+-(?P<peer>\d+)-(?P<time>\d{4}(-\d\d){5})\.snapshot")
# The response arrives when the snapshot is complete, which takes long for a large collection.
TIMEOUT = httpx.Timeout(30.0, read=6 * 3600.0)


def main(argv: Sequence[str] | None = None, transport: httpx.BaseTransport | None = None) -> int:
    """Return 0 if every snapshot was made, 1 if one failed, 2 for wrong usage or configuration."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--node", action="append", required=True, dest="nodes", metavar="URL", help="each node of Qdrant"
    )
    parser.add_argument(
        "--keep", type=int, default=7, metavar="N", help="snapshots to keep of each collection and node (%(default)s)"
    )
    options = parser.parse_args(argv)
    if options.keep < 1:
        parser.error(f"--keep: at least 1, not {options.keep}")
    try:
        settings = Settings.load()
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    key = settings.qdrant_api_key
    headers = {"api-key": key.get_secret_value()} if key else {}
    try:
        for node in options.nodes:
            with httpx.Client(base_url=node, headers=headers, timeout=TIMEOUT, transport=transport) as client:
                for collection in collections(client, settings.index):
                    made = result(client.post(f"/collections/{collection}/snapshots"))
                    print(json.dumps({"node": node, "collection": collection, **made}), flush=True)
                    for name in outdated(client, collection, options.keep):
                        result(client.delete(f"/collections/{collection}/snapshots/{name}"))
    except (httpx.HTTPError, LookupError) as error:
        print(f"error: no snapshot of index {settings.index!r} on {node}: {error}", file=sys.stderr)
        return 1
    return 0


def collections(client: httpx.Client, index: str) -> Iterator[str]:
    """The collections to save, the one that cannot be rebuilt first. Raise `LookupError` if there is no index."""
    aliases = result(client.get("/aliases"))["aliases"]
    live = [each["collection_name"] for each in aliases if each["alias_name"] == index]
    if not live:
        raise LookupError(f"there is no alias {index!r}; has anything been indexed?")
    control = f"{index}__control"
    if result(client.get(f"/collections/{control}/exists"))["exists"]:
        yield control
    yield from live


def outdated(client: httpx.Client, collection: str, keep: int) -> Iterator[str]:
    """The names of all but the newest `keep` snapshots of each node."""
    of_peer = defaultdict(list)
    for each in result(client.get(f"/collections/{collection}/snapshots")):
        if match := NAME.fullmatch(each["name"]):
            of_peer[match["peer"]].append((match["time"], each["name"]))
    for snapshots in of_peer.values():
        yield from (name for _, name in sorted(snapshots)[:-keep])


def result(response: httpx.Response) -> Any:
    """The field "result" of a response; raise `httpx.HTTPStatusError`."""
    response.raise_for_status()
    return response.json()["result"]


if __name__ == "__main__":
    sys.exit(main())
