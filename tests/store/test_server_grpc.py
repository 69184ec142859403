"""Errors of a server over gRPC, over a real socket."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from opentelemetry.sdk.trace import TracerProvider
from qdrant_client import models

from tests.store.test_server import FINAL_500, NO_SHARD, TRANSIENT_500
from viewfinder import tracing
from viewfinder.errors import StoreError, StoreUnavailableError
from viewfinder.store import StoreAddress
from viewfinder.store.server import ServerClient

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
Answer = tuple[grpc.StatusCode, str]


class Refusing(grpc.GenericRpcHandler):
    """Answers every call with `answer`, and keeps the methods and API keys."""

    answer: Answer = (grpc.StatusCode.UNKNOWN, "")

    def __init__(self) -> None:
        self.called: list[tuple[str, Any]] = []
        self.traceparent: Any = None

    def service(self, handler_call_details: Any) -> Any:
        metadata = dict(handler_call_details.invocation_metadata)
        self.called.append((handler_call_details.method, metadata.get("api-key")))
        self.traceparent = metadata.get("traceparent")
        return grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(*self.answer))


@pytest.fixture(scope="module")
def refusing() -> Iterator[tuple[Refusing, int]]:
    handler = Refusing()
    server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, port
    server.stop(None)


@pytest.fixture
def refused(refusing: tuple[Refusing, int], tmp_path: Path) -> Iterator[Callable[[Answer], StoreError]]:
    handler, port = refusing
    grpc_url = f"http://127.0.0.1:{port}"
    client = ServerClient(StoreAddress(tmp_path, url="http://127.0.0.1:9", grpc_url=grpc_url, timeout_s=5))

    def refuse(answer: Answer) -> StoreError:
        handler.answer = answer
        with pytest.raises(StoreError) as caught:
            client.call("delete", collection_name="images", points_selector=[1])
        return caught.value

    yield refuse
    client.close()


@pytest.mark.parametrize(
    "answer",
    [
        (grpc.StatusCode.UNAVAILABLE, "Connection refused"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Timeout error: Operation 'Search' timed out after 60 seconds"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Rate limit exceeded"),
        (grpc.StatusCode.CANCELLED, "Timeout expired"),
        *((grpc.StatusCode.INTERNAL, f"Service internal error: {text}") for text in TRANSIENT_500),
        (grpc.StatusCode.FAILED_PRECONDITION, f"Pre-condition failure: {NO_SHARD}"),
    ],
    ids=str,
)
def test_transient_errors_are_retryable(refused: Callable[[Answer], StoreError], answer: Answer) -> None:
    assert isinstance(refused(answer), StoreUnavailableError)


@pytest.mark.parametrize(
    "answer",
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "Wrong input: please retry with 4 dimensions"),
        (grpc.StatusCode.NOT_FOUND, "Not found: Shard key"),
        (grpc.StatusCode.PERMISSION_DENIED, "Forbidden"),
        (grpc.StatusCode.FAILED_PRECONDITION, "Storage locked: recovery"),
        (grpc.StatusCode.OUT_OF_RANGE, "Error, decoded message length too large: found 40000000 bytes"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (40000000 vs. 33554432)"),
        *((grpc.StatusCode.INTERNAL, f"Service internal error: {text}") for text in FINAL_500),
    ],
    ids=str,
)
def test_other_errors_are_final(refused: Callable[[Answer], StoreError], answer: Answer) -> None:
    assert not isinstance(refused(answer), StoreUnavailableError)


def test_points_are_written_by_grpc_at_its_own_port_and_read_by_rest(
    refusing: tuple[Refusing, int], tmp_path: Path
) -> None:
    # Regression: no port but 6334 could be named.
    handler, port = refusing
    address = StoreAddress(
        tmp_path, url="http://127.0.0.1:9", grpc_url=f"http://127.0.0.1:{port}", api_key="secret", timeout_s=5
    )
    handler.answer, handler.called = (grpc.StatusCode.UNAVAILABLE, "restarting"), []
    client = ServerClient(address)
    try:
        point = models.PointStruct(id=1, vector=[1.0])
        for method, arguments in (
            ("upsert", {"points": [point]}),
            ("delete", {"points_selector": [1]}),
            ("set_payload", {"payload": {"a": 1}, "points": [1]}),
            ("batch_update_points", {"update_operations": [models.DeleteOperation(delete=_first())]}),
        ):
            with pytest.raises(StoreUnavailableError, match=rf"gRPC at http://127\.0\.0\.1:{port}\).*QDRANT_GRPC_URL"):
                client.call(method, collection_name="images", **arguments)
        assert handler.called == [
            (f"/qdrant.Points/{name}", "secret") for name in ("Upsert", "Delete", "SetPayload", "UpdateBatch")
        ]
        with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:9 cannot be reached"):
            client.call("retrieve", collection_name="images", ids=[1])
    finally:
        client.close()


def _first() -> models.PointIdsList:
    return models.PointIdsList(points=[1])


@pytest.mark.full
def test_grpc_over_tls(tmp_path: Path) -> None:
    key, certificate = self_signed(tmp_path / "ca.pem")
    handler = Refusing()
    handler.answer = (grpc.StatusCode.PERMISSION_DENIED, "over TLS")
    server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    program = f"""
from pathlib import Path
from viewfinder.errors import StoreError
from viewfinder.store import StoreAddress
from viewfinder.store.server import ServerClient
address = StoreAddress(Path("."), url="http://localhost:9", grpc_url="https://localhost:{port}", timeout_s=5)
client = ServerClient(address)
try:
    client.call("delete", collection_name="images", points_selector=[1])
except StoreError as error:
    print(error)
"""
    # grpc reads the authorities once in a process.
    environment = {**os.environ, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(tmp_path / "ca.pem")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
    finally:
        server.stop(None)
    assert "over TLS" in done.stdout, done.stderr
    assert [method for method, _ in handler.called] == ["/qdrant.Points/Delete"]


def self_signed(path: Path) -> tuple[bytes, bytes]:
    """A key and a certificate for localhost, which is also written to `path`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    path.write_bytes(certificate)
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain), certificate


def test_a_traced_write_has_the_traceparent_of_its_request(
    refusing: tuple[Refusing, int], refused: Callable[[Answer], StoreError]
) -> None:
    handler, _ = refusing
    refused((grpc.StatusCode.NOT_FOUND, "no collection"))
    assert handler.traceparent is None
    traces = tracing.start(TracerProvider())
    try:
        with traces.span("request", "SERVER") as span:
            refused((grpc.StatusCode.NOT_FOUND, "no collection"))
    finally:
        tracing.stop()
    context = span.get_span_context()
    assert handler.traceparent.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
