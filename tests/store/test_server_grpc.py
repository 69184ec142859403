"""Errors of a server over gRPC, over a real socket."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.store.test_server import FINAL_500, TRANSIENT_500
from viewfinder.errors import StoreError, StoreUnavailableError
from viewfinder.store import StoreAddress
from viewfinder.store.server import ServerClient

pytestmark = pytest.mark.slow

Answer = tuple[grpc.StatusCode, str]


class Refusing(grpc.GenericRpcHandler):
    """Answers every call with `answer`, and keeps the bodies of the requests."""

    answer: Answer = (grpc.StatusCode.UNKNOWN, "")

    def service(self, handler_call_details: Any) -> Any:
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
    client = ServerClient(StoreAddress(tmp_path, url="http://127.0.0.1", grpc=True, timeout_s=5), grpc_port=port)

    def refuse(answer: Answer) -> StoreError:
        handler.answer = answer
        with pytest.raises(StoreError) as caught:
            client.call("retrieve", collection_name="images", ids=[1])
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
        (grpc.StatusCode.OUT_OF_RANGE, "Error, decoded message length too large: found 40000000 bytes"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (40000000 vs. 33554432)"),
        *((grpc.StatusCode.INTERNAL, f"Service internal error: {text}") for text in FINAL_500),
    ],
    ids=str,
)
def test_other_errors_are_final(refused: Callable[[Answer], StoreError], answer: Answer) -> None:
    assert not isinstance(refused(answer), StoreUnavailableError)
