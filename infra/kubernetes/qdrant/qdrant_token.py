"""Make a token for Qdrant (a JWT, HS256, signed with Qdrant's API key, which is read from standard input).

kubectl -n viewfinder get secret qdrant-admin -o jsonpath='{.data.api-key}' | base64 -d \
  | python infra/kubernetes/qdrant/qdrant_token.py --access r --days 90

`r` may read every collection, which is enough for searching. `m` may change everything; jobs need it. Qdrant has `rw`
only for collections that are named one by one, but each re-index makes a new one, and writing a collection's metadata,
moving the alias and making a collection need `m` in any case.
"""

import argparse
import base64
import hashlib
import hmac
import json
import sys
import time
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make a token for Qdrant from its API key, read from standard input.")
    parser.add_argument("--access", choices=["r", "m"], required=True, help="r: read everything; m: manage")
    parser.add_argument("--days", type=int, required=True, help="days until the token expires")
    options = parser.parse_args(argv)
    key = sys.stdin.read().strip()
    if not key or options.days < 1:
        parser.error("an API key on standard input and at least one day are needed")
    print(token(key, access=options.access, expires=int(time.time()) + 86_400 * options.days))
    return 0


def token(key: str, *, access: str, expires: int) -> str:
    """The signed token; `expires` in seconds since 1970."""
    signed = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part({'access': access, 'exp': expires})}"
    return f"{signed}.{_base64(hmac.digest(key.encode(), signed.encode(), hashlib.sha256))}"


def _part(values: dict[str, object]) -> str:
    return _base64(json.dumps(values, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


if __name__ == "__main__":
    sys.exit(main())
