"""Middleware that authenticates requests, limits their rate, size, number and time, and sets security headers.

Plain ASGI around the routes, so that a client's disconnect reaches them and bodies stream. Its refusals have the same
shape as those of the routes.
"""

import asyncio
import logging
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from viewfinder.addresses import is_loopback
from viewfinder.service.http.errors import HTTPError, error_response, http_error_of
from viewfinder.service.http.keys import METRICS_PATH, Key, KeyRing, presented_key
from viewfinder.service.http.rates import RateLimiter, TrustedProxies, client_of
from viewfinder.service.http.receiving import at_minimum_rate
from viewfinder.service.http.sending import PAUSE_S, Sending, SlowClientError
from viewfinder.service.images.links import ThumbnailLinks
from viewfinder.service.telemetry import access_log
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.settings import Settings

# Paths without a key: health, documentation, and the page, which contains no index data and asks for a key itself.
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json", "/favicon.ico"})
OPEN_PREFIXES = ("/page/", "/docs/")

LOOPBACK_HINT = (
    "Without API keys the service answers this machine only. Set VIEWFINDER_API_KEYS, or VIEWFINDER_ALLOW_ANONYMOUS=1 "
    "to allow searches without a key."
)

CHALLENGE = {"www-authenticate": 'Bearer realm="viewfinder"'}

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


# Paths of requests that may contain images, or thousands of texts. Other bodies are filters and ids.
IMAGE_PATHS = frozenset(
    {
        "/v1/search",
        "/v1/search/image",
        "/v1/search/batch",
        "/v1/embed",
        "/v1/embeddings",
        "/v1/images",
        "/v1/rank",
        "/v1/rerank",
        "/v2/rerank",
    }
)
MAX_TEXT_BODY_BYTES = 4 * 1024**2
# Maximum number of requests whose bodies are still arriving. They do not count as queued: otherwise a few hundred slow
# clients would block all others.
MAX_INCOMING = 1024
# Maximum number of bodies of the maximum size in memory at the same time. Bodies up to the size of `SMALL_BODY_BYTES`
# do not count: otherwise a few clients that stop before the end of a large body would block all searches by text.
MAX_BODIES = 16
SMALL_BODY_BYTES = 256 * 1024


def capacity(settings: Settings) -> int:
    """Maximum number of requests in a replica: several batches running or filling, and its queue."""
    return settings.batch_size * 4 + settings.queue_size


logger = logging.getLogger(__name__)

_ANONYMOUS = Key("", "read")
_OPERATOR = Key("", "admin")


class Guard:
    """Admits requests to `app`, or refuses them."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        metrics: Metrics,
        links: ThumbnailLinks | None = None,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._links = links
        self._keys = KeyRing(settings.api_keys)
        self._anonymous = settings.allow_anonymous
        self._origins = frozenset(settings.cors_origins)
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._rates = RateLimiter(settings.requests_per_minute) if settings.requests_per_minute else None
        self._max_body_bytes = settings.max_body_bytes
        self._timeout_s = settings.request_timeout_s
        self._capacity = capacity(settings)
        self._in_flight = 0
        self._incoming = 0
        self._bytes_in_memory = 0
        self._pause_s = pause_s
        self._sending = Sending()
        self._headers = dict(HEADERS)
        if settings.cors_origins:
            self._headers["cross-origin-resource-policy"] = "cross-origin"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = asyncio.timeout(self._timeout_s)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        request = _Request(path, is_open_path(path), self._max_bytes(path))

        at_rate = self._sending.at_minimum_rate(send)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if scope["state"].get("signed"):
                    # Its purpose is to be shown by pages of other sites. On a 304 too: browsers merge its headers.
                    headers["cross-origin-resource-policy"] = "cross-origin"
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                self._begin_answer(request)
            await at_rate(message)

        async def begin(message: Message) -> None:
            if message["type"] == "http.response.start":
                if limit.expired():
                    raise TimeoutError
                # Only the start of the response is limited: a large image may take longer on a slow connection.
                limit.reschedule(None)
            await answer(message)

        self._incoming += 1
        try:
            async with limit:
                self._admit(scope, request)
                await self._app(scope, self._measured(receive, request), begin)
        except SlowClientError as error:
            logger.info("%s: %s", scope["state"]["id"], error)  # the server breaks the connection
        except Exception as error:
            if request.answering:
                # Too late for an error body: break the connection, so that the client sees a truncated response.
                raise
            late = isinstance(error, TimeoutError) and not request.complete
            answered = self._too_slow() if late else http_error_of(error)
            await error_response(scope["state"]["id"], answered)(scope, receive, answer)
        finally:
            self._leave(request)

    def _enqueue(self, request: "_Request") -> None:
        """Count a request whose body is complete; raises a `HTTPError` if the replica is full."""
        if self._is_full() and not request.is_open:
            raise self._overloaded()
        request.complete = True
        self._incoming -= 1
        self._in_flight += 1
        self._metrics.in_flight(self._in_flight)

    def _begin_answer(self, request: "_Request") -> None:
        """Free the request's place: a client that does not read its answer must not keep it."""
        self._free(request)
        request.answering = True
        self._sending.count += 1

    def _leave(self, request: "_Request") -> None:
        if request.answering:
            self._sending.count -= 1
        else:
            self._free(request)

    def _free(self, request: "_Request") -> None:
        self._bytes_in_memory -= request.counted_bytes
        request.received_bytes = 0
        if request.complete:
            self._in_flight -= 1
            self._metrics.in_flight(self._in_flight)
        else:
            self._incoming -= 1

    def _admit(self, scope: Scope, request: "_Request") -> None:
        """Check everything but the body; sets `request.state.scope` or raises a `HTTPError`."""
        headers = Headers(scope=scope)
        host = scope["client"][0] if scope.get("client") else ""
        if not self._keys and not self._anonymous:
            self._refuse_other_hosts(host, headers)
        scope["state"]["scope"] = "read"
        if not request.is_open:
            client, key = self._identify(scope, request)
            scope["state"]["scope"] = key.scope
            scope["state"]["key_filter"] = key.filter
            scope["state"]["key_indexes"] = key.indexes
            if scope["state"]["scope"] == "metrics" and request.path != METRICS_PATH:
                raise HTTPError(403, "forbidden", "This key is for metrics only.", "Send a key for searches.")
            if self._rates and (wait_s := self._rates.take(client)):
                raise HTTPError(
                    429,
                    "rate_limited",
                    "Too many requests.",
                    "Wait for the seconds in Retry-After, then try again.",
                    retry_after_s=wait_s,
                )
        self._check_query(scope["query_string"])
        self._check_headers(headers)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > request.max_bytes:
            raise self._too_large(request)
        if scope["method"] != "POST" or (length in ("", "0") and "transfer-encoding" not in headers):
            self._enqueue(request)
        elif self._incoming > MAX_INCOMING or self._is_full():
            raise self._overloaded()

    def _is_full(self) -> bool:
        return self._in_flight >= self._capacity or self._sending.is_full()

    def _identify(self, scope: Scope, request: "_Request") -> tuple[str, Key]:
        """The client that the rate limit counts, and its key, or the rights of a request without one."""
        if self._keys and (presented := presented_key(scope["headers"])):
            if key := self._keys.find(presented):
                if record := access_log.current.get():
                    record.key = key.id
                return key.id, key
            raise HTTPError(401, "unauthorized", "The API key is unknown.", "Check the key.", headers=CHALLENGE)
        if (
            self._links
            and scope["method"] in ("GET", "HEAD")
            and self._links.allows(request.path, scope["query_string"])
        ):
            scope["state"]["signed"] = True
            # Signed for a key that sees this image; it opens nothing else.
            return client_of(self._proxies.client(scope)), _ANONYMOUS
        if self._keys and not self._anonymous:
            raise HTTPError(
                401,
                "unauthorized",
                "An API key is needed.",
                "Send Authorization: Bearer KEY, or X-API-Key: KEY.",
                headers=CHALLENGE,
            )
        # Without keys, this machine may do everything and anonymous clients may only read.
        return client_of(self._proxies.client(scope)), _ANONYMOUS if self._anonymous else _OPERATOR

    def _refuse_other_hosts(self, host: str, headers: Headers) -> None:
        """Refuse other machines, and pages of other sites in a browser on this machine.

        Such a page can point its own name to this machine (DNS rebinding), but the browser still sends that name as
        `Host`; and it cannot hide its `Origin` when it posts across sites.
        """
        if not is_loopback(host):
            raise HTTPError(403, "forbidden", "The service answers requests from its own machine only.", LOOPBACK_HINT)
        named = [f"//{each}" for each in headers.getlist("host")]
        named += [each for each in headers.getlist("origin") if each not in self._origins]
        if not named or not all(is_loopback(each) for each in named):
            raise HTTPError(
                403,
                "forbidden",
                "The service answers requests for its own machine's names only.",
                LOOPBACK_HINT,
            )

    def _check_query(self, query: bytes) -> None:
        try:
            unquote_to_bytes(query).decode()
        except UnicodeDecodeError as error:
            # A route would see replacement characters instead, and search for them.
            raise HTTPError(
                422, "invalid_request", "The query string is not UTF-8.", "Percent-encode texts as UTF-8."
            ) from error

    def _check_headers(self, headers: Headers) -> None:
        """Refuse headers by which a client could lift Ray Serve's limits, and bodies that must be decoded first."""
        # Of a header that is repeated, Serve reads the last.
        timeouts = headers.getlist("x-request-timeout-seconds")
        if not all(_is_within(each, self._timeout_s) for each in timeouts) or (
            "?1" in headers.getlist("x-request-disconnect-disabled")
        ):
            raise HTTPError(
                400,
                "invalid_header",
                "X-Request-Timeout-Seconds and X-Request-Disconnect-Disabled cannot lift the limits of the service.",
                f"Leave them out, or set a timeout of up to {self._timeout_s:g} seconds.",
            )
        encodings = [each for each in headers.getlist("content-encoding") if each.lower() != "identity"]
        if encodings:
            raise HTTPError(
                415,
                "unsupported_encoding",
                f"The body has the Content-Encoding {encodings[0][:40]!r}.",
                "Send the body uncompressed, without Content-Encoding.",
                headers={"accept-encoding": "identity"},
            )

    def _measured(self, receive: Receive, request: "_Request") -> Receive:
        """`receive`, which raises a `HTTPError` once this body, or all bodies together, are too large."""

        at_rate = at_minimum_rate(receive, pause_s=self._pause_s)

        async def measured() -> Message:
            # Once the body is complete, a route waits here for the client to disconnect.
            message = await (receive if request.complete else at_rate)()
            if request.answering:
                return message
            self._bytes_in_memory -= request.counted_bytes
            request.received_bytes += len(message.get("body", b""))
            self._bytes_in_memory += request.counted_bytes
            if request.received_bytes > request.max_bytes:
                raise self._too_large(request)
            if request.counted_bytes and self._bytes_in_memory > MAX_BODIES * self._max_body_bytes:
                raise self._overloaded()
            if message["type"] == "http.request" and not message.get("more_body") and not request.complete:
                self._enqueue(request)
            return message

        return measured

    def _max_bytes(self, path: str) -> int:
        return self._max_body_bytes if path in IMAGE_PATHS else min(self._max_body_bytes, MAX_TEXT_BODY_BYTES)

    def _too_large(self, request: "_Request") -> HTTPError:
        return HTTPError(
            413,
            "body_too_large",
            f"The body is larger than {request.max_bytes:,} bytes.",
            "Send a smaller image, or fewer images or texts in one request."
            if request.path in IMAGE_PATHS
            else "Send fewer or shorter texts in one request.",
        )

    def _overloaded(self) -> HTTPError:
        return HTTPError(503, "overloaded", "Too many requests are waiting.", "Try again shortly.", retry_after_s=1)

    def _too_slow(self) -> HTTPError:
        return HTTPError(
            408,
            "body_too_slow",
            f"The body did not arrive within {self._timeout_s:g} seconds.",
            "Send a smaller body, or use a faster connection.",
        )


@dataclass
class _Request:
    """The state of one request; `complete` once its body has arrived, `answering` once its answer has begun."""

    path: str
    is_open: bool
    max_bytes: int
    complete: bool = False
    answering: bool = False
    received_bytes: int = 0

    @property
    def counted_bytes(self) -> int:
        """The bytes that count towards the memory of all bodies together."""
        return self.received_bytes if self.received_bytes > SMALL_BODY_BYTES else 0


def _is_within(seconds: str, limit_s: float) -> bool:
    try:
        return 0 < float(seconds) <= limit_s
    except ValueError:
        return True  # Serve ignores it


def is_open_path(path: str) -> bool:
    """Return True for a path that never needs a key."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)
