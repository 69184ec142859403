"""Tokens for Qdrant: their format, and a read token is enough for searching."""

import base64
import hashlib
import hmac
import io
import json
import re
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.infra.manifests import KUBERNETES
from tests.service.conftest import INDEX, World, checkpoints, local_client
from viewfinder.models.encoder import Encoder
from viewfinder.service.generation.follower import Follower
from viewfinder.service.generation.models import Models
from viewfinder.service.search_service import SearchService
from viewfinder.settings import Settings
from viewfinder.store import StoreAddress, connect
from viewfinder.testing.qdrant import QdrantDouble

pytestmark = pytest.mark.slow

__all__ = ["checkpoints"]

SCRIPT = KUBERNETES / "qdrant/qdrant_token.py"
# Requests of viewfinder that Qdrant's access table allows to `r`.
READING = re.compile(
    r"GET /(|aliases|collections(/[^/]+(/exists|/points/[^/]+|/optimizations)?)?)"
    r"|POST /collections/[^/]+/(facet|points(|/count|/scroll|/query(/(batch|groups))?))"
)


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_a_token_is_signed_with_the_key_and_holds_access_and_expiry() -> None:
    make = runpy.run_path(str(SCRIPT))["token"]
    header, claims, signature = make("the key", access="r", expires=1_900_000_000).split(".")
    assert json.loads(decoded(header)) == {"alg": "HS256", "typ": "JWT"}
    assert json.loads(decoded(claims)) == {"access": "r", "exp": 1_900_000_000}
    assert decoded(signature) == hmac.digest(b"the key", f"{header}.{claims}".encode(), hashlib.sha256)


def test_the_signature_is_that_of_the_example_in_rfc_7515() -> None:
    """RFC 7515, appendix A.1: the same algorithm over a known key and text."""
    key = decoded("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
    signed = (
        b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9."
        b"eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    )
    encode = runpy.run_path(str(SCRIPT))["_base64"]
    assert encode(hmac.digest(key, signed, hashlib.sha256)) == "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"


def test_the_key_is_read_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("the key\n"))
    assert main(["--access", "m", "--days", "90"]) == 0
    claims = json.loads(decoded(capsys.readouterr().out.split(".")[1]))
    assert claims["access"] == "m"
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(SystemExit, match="2"):
        main(["--access", "m", "--days", "90"])


@pytest.fixture
def qdrant() -> Iterator[QdrantDouble]:
    with QdrantDouble(api_key="the key") as double:
        yield double


def test_a_read_token_is_enough_for_searching(
    qdrant: QdrantDouble, checkpoints: dict[str, object], tmp_path: Path
) -> None:
    settings = Settings.load({}, qdrant_url=qdrant.url, qdrant_api_key="the key", data_dir=tmp_path)
    store = connect(replace(StoreAddress.of(settings)))
    follower = Follower(
        store,
        INDEX,
        Models(lambda checkpoint: Encoder.load(checkpoint, device="cpu"), batch_size=8),
        refresh_s=3600,
    )
    service = SearchService(store, [follower], settings)
    from viewfinder.service.http.api import build_api

    with local_client(build_api(service)) as client:
        World(store, service, client, checkpoints).build("first")  # type: ignore[arg-type]  # a client over ASGI
        written = len(qdrant.requests)
        follower.refresh()
        (hit, *_) = client.post("/v1/search", json={"text": "a cat on a mat", "target": "both"}).json()["hits"]
        for method, path, body in (
            ("POST", "/v1/search", {"id": hit["id"], "filter": {"width": {"gte": 100}}, "rank": "clip"}),
            ("POST", "/v1/search", {"text": "cat", "rank": "hybrid", "group_by": "uri"}),
            ("POST", "/v1/search/batch", {"searches": [{"text": "a"}, {"text": "b", "diversity": 0.3}]}),
            ("GET", "/v1/stats", None),
            ("GET", "/v1/facets?field=tags", None),
            ("GET", f"/v1/images/{hit['id']}", None),
            ("GET", "/v1/takedowns", None),
            ("GET", "/readyz", None),
        ):
            answer = client.request(method, path, json=body)
            assert answer.status_code == 200, (path, answer.text)
        asked = [f"{each.method} {each.path}" for each in qdrant.requests[written:]]
        assert len(asked) >= 8
        assert [each for each in asked if not READING.fullmatch(each)] == []

        client.delete(f"/v1/images/{hit['id']}")
        asked = [f"{each.method} {each.path}" for each in qdrant.requests[written:]]
        assert [each for each in asked if not READING.fullmatch(each)], "a takedown writes, and the check sees it"
    service.close()
