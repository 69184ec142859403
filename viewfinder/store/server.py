"""Client of a Qdrant server; translates its errors to the `StoreError` family."""

import functools
import inspect
import json
import logging
import math
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.context_headers import headers
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from viewfinder import tracing
from viewfinder.addresses import is_loopback, proxy_problem
from viewfinder.authorities import tls_context
from viewfinder.errors import (
    CollectionMissingError,
    ConfigurationError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from viewfinder.store.connection import StoreAddress

logger = logging.getLogger(__name__)

# Transient HTTP statuses and gRPC codes. 408: Qdrant's own time limit has passed.
_RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})
_RETRIED_GRPC_CODES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"})
_STATUS_OF_GRPC = {
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 500,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "ABORTED": 500,
    "CANCELLED": 500,
}
# A cluster answers 500 (gRPC: INTERNAL) while replicas or the consensus do not keep up. Its other 500s fail again.
_RETRIED_500 = re.compile(
    r"please retry|try again|failed to apply (operation|update)|active replica|replicas? (is|are) (dead|not)"
    r"|read operations failed|consensus|\bleader\b|\braft\b|\btimed?[ -]?out\b|deadline exceeded|unavailable"
    r"|transport error|connection (refused|reset|closed)|error trying to connect|channel closed|broken pipe"
    r"|operation cancelled|task join error|pre-condition failure|h2 protocol error|no address found for peer",
    re.IGNORECASE,
)
# A write to a full disk and a defect of the server (Rust's "panicked") fail again, whatever else the text says.
_FINAL_500 = re.compile(r"no space left|disk (is )?full|out of memory|panicked", re.IGNORECASE)
_TOO_LARGE = re.compile(r"larger than (allowed|max)|length too large|payload too large|too large entity", re.IGNORECASE)
GRPC_PORT = 6334
# The methods that write points; gRPC takes half of the CPU time of REST for them.
_BY_GRPC = frozenset({"upsert", "batch_update_points", "set_payload", "delete"})
# The server's limit passes first, so that it ends the request and answers 408. A search waits less.
_GRACE_S, _SHORT_GRACE_S, _SHORT_S = 5, 1, 10


class ServerClient:
    """A `StoreClient` for a Qdrant server: REST, and gRPC for writing points if the address has one.

    Safe to share between threads.
    """

    max_batch: int | None = None

    def __init__(self, address: StoreAddress, *, timeout_s: float | None = None) -> None:
        self._address = address
        self._timeout_s = max(1, math.ceil(timeout_s or address.timeout_s))
        self._rest = self._connect((address.url or "").rstrip("/"))
        self._rest.http.client.add_middleware(self._with_grace)
        self._grpc = None if address.grpc_url is None else self._connect(address.grpc_url, prefer_grpc=True)

    def _connect(self, url: str, *, prefer_grpc: bool = False) -> QdrantClient:
        local = is_loopback(url)
        if self._address.api_key and url.startswith("http://") and not local:
            logger.warning("The API key goes to %s unencrypted; use https.", url if prefer_grpc else self._address)
        try:
            return QdrantClient(
                url=url,
                prefer_grpc=prefer_grpc,
                grpc_port=urlsplit(url).port or GRPC_PORT,
                timeout=self._answer_s,
                # The same as `api_key=`, without its warning for every client of a loopback address.
                headers={"api-key": self._address.api_key} if self._address.api_key else None,
                # `Store.check` does this; the client would check in a thread and only log a warning.
                check_compatibility=False,
                verify=tls_context() if url.startswith("https:") else False,
                # HTTP_PROXY is for other machines.
                trust_env=not local,
                grpc_options={"grpc.enable_http_proxy": 0} if local else None,
            )
        except Exception as error:
            if (problem := proxy_problem(error)) is None:
                raise
            raise ConfigurationError(problem) from error

    def call(self, method: str, **arguments: Any) -> Any:
        if _has_timeout(method):
            arguments = {"timeout": self._timeout_s, **arguments}
        try:
            client = self._grpc if self._grpc is not None and method in _BY_GRPC else self._rest
            if tracing.active is None:
                return getattr(client, method)(**arguments)
            with headers(tracing.active.headers()):
                return getattr(client, method)(**arguments)
        except (ApiException, QdrantException, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise self._explain_rest(error, method) from error
        except Exception as error:
            # grpc is an optional dependency: its errors are recognised without importing it.
            code = getattr(getattr(error, "code", lambda: None)(), "name", None) if _is_grpc(error) else None
            if code is None:
                raise
            raise self._explain_grpc(error, code, method) from error

    def close(self) -> None:
        self._rest.close()
        if self._grpc is not None:
            self._grpc.close()

    @property
    def _answer_s(self) -> int:
        """Seconds to wait for an answer: longer than the server tries."""
        return self._timeout_s + (_SHORT_GRACE_S if self._timeout_s <= _SHORT_S else _GRACE_S)

    def _with_grace(self, request: httpx.Request, send: Callable[[httpx.Request], httpx.Response]) -> httpx.Response:
        """Wait longer than the server, where qdrant-client would wait for the same time."""
        request.extensions["timeout"] = httpx.Timeout(self._timeout_s, read=self._answer_s).as_dict()
        return send(request)

    def _explain_rest(self, error: Exception, method: str) -> StoreError:
        if isinstance(error, ResourceExhaustedResponse):
            return self._explain(429, error.message, method, float(error.retry_after_s))
        if isinstance(error, UnexpectedResponse):
            said = _error_text(error.content) or error.reason_phrase
            return self._explain(error.status_code or 0, said, method, _seconds(error.headers.get("retry-after")))
        source = error.source if isinstance(error, ResponseHandlingException) else error
        if isinstance(source, httpx.TimeoutException) and not isinstance(source, httpx.ConnectTimeout):
            return StoreTimeoutError(
                f"{self._address} did not answer {_spaced_name(method)} within {self._answer_s} s."
            )
        if isinstance(source, httpx.TransportError):
            detail = str(source) or type(source).__name__
            return StoreUnavailableError(
                f"{self._address} cannot be reached ({detail}). Is it running, and is VIEWFINDER_QDRANT_URL right?"
            )
        if isinstance(error, QdrantException):  # a 429 whose Retry-After is a date
            return self._explain(429, str(error), method, None)
        return StoreError(
            f"{self._address} answered {_spaced_name(method)} with a response that is not Qdrant's: {_short(source)}"
        )

    def _explain_grpc(self, error: Exception, code: str, method: str) -> StoreError:
        detail = str(getattr(error, "details", lambda: "")() or code)
        if code in _RETRIED_GRPC_CODES and not _TOO_LARGE.search(detail):
            kind = StoreTimeoutError if code == "DEADLINE_EXCEEDED" else StoreUnavailableError
            return kind(
                f"{self._address} (gRPC at {self._address.grpc_url}) did not answer {_spaced_name(method)}: {code}, "
                f"{detail.rstrip('.')}. Is VIEWFINDER_QDRANT_GRPC_URL right?"
            )
        return self._explain(_STATUS_OF_GRPC.get(code, 400), detail, method, None)

    def _explain(self, status: int, said: str, method: str, retry_after_s: float | None) -> StoreError:
        what = f"{self._address} refused {_spaced_name(method)} with status {status}: {said.rstrip('.')}."
        if status in _RETRIED_STATUSES or (status == 500 and _RETRIED_500.search(said) and not _FINAL_500.search(said)):
            unavailable = StoreTimeoutError(what) if status == 408 else StoreUnavailableError(what)
            unavailable.retry_after_s = retry_after_s
            return unavailable
        if status in (401, 403):
            given = "The API key does not allow it" if self._address.api_key else "No API key was sent"
            return StoreError(f"{what} {given}; set VIEWFINDER_QDRANT_API_KEY.")
        if status == 404 and "collection" in said.lower():
            return CollectionMissingError(what)
        if "no space left" in said.lower():
            return StoreError(
                f"{what} Its disk is full: searches work, writes fail. Free disk space ('viewfinder status' shows "
                "retired collections) and run the job again; points written so far stay."
            )
        if _TOO_LARGE.search(said):
            return StoreError(
                f"{what} Set VIEWFINDER_QDRANT_MAX_REQUEST_MB to the limit of the server, or of a proxy before it."
            )
        return StoreError(what)


@functools.cache
def _has_timeout(method: str) -> bool:
    """Return True if requests of this method have a `timeout` for the server; without it, it is 60 s."""
    return "timeout" in inspect.signature(getattr(QdrantClient, method)).parameters


def _is_grpc(error: Exception) -> bool:
    return any(kind.__module__.split(".")[0] == "grpc" for kind in type(error).__mro__)


def _error_text(content: bytes) -> str:
    """Return the error text in Qdrant's JSON envelope, or the beginning of any other body."""
    try:
        return str(json.loads(content)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return _short(content.decode("utf-8", "replace"))


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 200 else line[:197] + "..."


def _seconds(header: str | None) -> float | None:
    try:
        return None if header is None else max(0.0, float(header))
    except ValueError:  # an HTTP date: our own back-off is used
        return None


def _spaced_name(method: str) -> str:
    return method.replace("_", " ")
