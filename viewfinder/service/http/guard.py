"""The door of the service: who comes in, with how much, how often; and what no answer goes out without.

Plain ASGI around everything else, so that a client's disconnect reaches the routes and bodies stream through. What it
refuses has the same shape as what the routes refuse.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from viewfinder.addresses import is_loopback
from viewfinder.service.http.keys import KeyRing, KeyScope, presented_key
from viewfinder.service.http.rates import Rates, client_of
from viewfinder.service.http.refusals import Refusal, refusal_of, refused
from viewfinder.service.telemetry import access_log
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.settings import Settings

# What anybody may see who reaches the service: whether it lives, how to speak with it, and the page, which holds
# nothing of the index and asks for a key itself.
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json", "/favicon.ico"})
OPEN_PREFIXES = ("/page/", "/docs/")

LOOPBACK_HINT = (
    "Without API keys only this machine is answered. Set VIEWFINDER_API_KEYS, or VIEWFINDER_ALLOW_ANONYMOUS=1 where "
    "whoever reaches the service may search."
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


# Requests whose bodies are still on their way. They have no place in the queue yet, or a few hundred clients that send
# a byte now and then would keep everybody else out.
MAX_ARRIVING = 1024
# Bodies of the largest size that may be in memory at the same moment.
MAX_BODIES = 16


def capacity(settings: Settings) -> int:
    """Requests that a replica works on at once: several batches under way or filling, and its queue."""
    return settings.batch_size * 4 + settings.queue_size


class Guard:
    """Admits requests to `app`, and answers for it where it cannot."""

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._keys = KeyRing(settings.api_keys)
        self._anonymous = settings.allow_anonymous
        self._origins = frozenset(settings.cors_origins)
        self._rates = Rates(settings.requests_per_minute) if settings.requests_per_minute else None
        self._max_body_bytes = settings.max_body_bytes
        self._timeout_s = settings.request_timeout_s
        self._capacity = capacity(settings)
        self._in_flight = 0
        self._arriving = 0
        self._held_bytes = 0
        self._headers = dict(HEADERS)
        if settings.cors_origins:
            self._headers["cross-origin-resource-policy"] = "cross-origin"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False
        limit = asyncio.timeout(self._timeout_s)
        visit = _Visit(is_open(scope["path"].removeprefix(scope.get("root_path", ""))))

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        async def begin(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                if limit.expired():
                    raise TimeoutError
                # The limit is for an answer to begin: a large picture may take longer over a slow line.
                limit.reschedule(None)
                started = True
            await answer(message)

        self._arriving += 1
        try:
            async with limit:
                self._admit(scope, visit)
                await self._app(scope, self._measured(receive, visit), begin)
        except Exception as error:
            if started:
                # Too late for another answer: the connection breaks, so that the client sees that something is missing.
                raise
            late = isinstance(error, TimeoutError) and not visit.arrived
            refusal = self._too_slow() if late else refusal_of(error)
            await refused(scope["state"]["id"], refusal)(scope, receive, answer)
        finally:
            self._leave(visit)

    def _arrive(self, visit: "_Visit") -> None:
        """Give a request that is all there a place in the queue; raises a `Refusal` where there is none."""
        if self._in_flight >= self._capacity and not visit.needs_no_room:
            raise self._overloaded()
        visit.arrived = True
        self._arriving -= 1
        self._in_flight += 1
        self._metrics.in_flight(self._in_flight)

    def _leave(self, visit: "_Visit") -> None:
        self._held_bytes -= visit.held_bytes
        if visit.arrived:
            self._in_flight -= 1
            self._metrics.in_flight(self._in_flight)
        else:
            self._arriving -= 1

    def _admit(self, scope: Scope, visit: "_Visit") -> None:
        """Let the request pass, with its scope noted in `request.state.scope`, or raise a `Refusal`."""
        headers = Headers(scope=scope)
        host = scope["client"][0] if scope.get("client") else ""
        if not self._keys and not self._anonymous:
            self._refuse_outsiders(host, headers)
        scope["state"]["scope"] = "read"
        if not visit.needs_no_room:
            client, scope["state"]["scope"] = self._identify(scope["headers"], host)
            if self._rates and (wait_s := self._rates.take(client)):
                raise Refusal(
                    429, "rate_limited", "Too many requests.", "Ask again after Retry-After.", retry_after_s=wait_s
                )
        self._check_query(scope["query_string"])
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_body_bytes:
            raise self._too_large()
        if scope["method"] != "POST" or (length in ("", "0") and "transfer-encoding" not in headers):
            self._arrive(visit)
        elif self._arriving > MAX_ARRIVING or self._in_flight >= self._capacity:
            raise self._overloaded()

    def _identify(self, headers: Iterable[tuple[bytes, bytes]], host: str) -> tuple[str, KeyScope]:
        """Who asks, as its rate is counted, and what it may do."""
        if self._keys and (presented := presented_key(headers)):
            if key := self._keys.find(presented):
                if record := access_log.current.get():
                    record.key = key.id
                return key.id, key.scope
            raise Refusal(
                401, "unauthorized", "The API key is not known.", "Check it, or ask for another one.", headers=CHALLENGE
            )
        if self._keys and not self._anonymous:
            raise Refusal(
                401,
                "unauthorized",
                "An API key is needed.",
                "Send Authorization: Bearer KEY, or X-API-Key: KEY.",
                headers=CHALLENGE,
            )
        # Whoever runs a service for this machine alone may do everything; strangers may look.
        return client_of(host), "read" if self._anonymous else "admin"

    def _refuse_outsiders(self, host: str, headers: Headers) -> None:
        """Keep away other machines, and other sites' pages in a browser on this one.

        Such a page can give its own name this machine's address ("DNS rebinding"), and then reads what it likes, but
        the browser still sends the name as `Host`; and it cannot hide its `Origin` when it posts across sites.
        """
        if not is_loopback(host):
            raise Refusal(403, "forbidden", "The service answers only its own machine.", LOOPBACK_HINT)
        named = [f"//{each}" for each in headers.getlist("host")]
        named += [each for each in headers.getlist("origin") if each not in self._origins]
        if not named or not all(is_loopback(each) for each in named):
            raise Refusal(
                403,
                "forbidden",
                "The service answers only to names of its own machine.",
                LOOPBACK_HINT,
            )

    def _check_query(self, query: bytes) -> None:
        try:
            unquote_to_bytes(query).decode()
        except UnicodeDecodeError as error:
            # Else a route would see question marks in its place, and search for them.
            raise Refusal(
                422, "invalid_request", "The address's query string is not UTF-8.", "Percent-encode texts as UTF-8."
            ) from error

    def _measured(self, receive: Receive, visit: "_Visit") -> Receive:
        """`receive`, ending in a refusal as soon as more has come than a body, or all of them, may hold."""

        async def measured() -> Message:
            message = await receive()
            size = len(message.get("body", b""))
            visit.held_bytes += size
            self._held_bytes += size
            if visit.held_bytes > self._max_body_bytes:
                raise self._too_large()
            if self._held_bytes > MAX_BODIES * self._max_body_bytes:
                raise self._overloaded()
            if message["type"] == "http.request" and not message.get("more_body") and not visit.arrived:
                self._arrive(visit)
            return message

        return measured

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            "body_too_large",
            f"The body is larger than {self._max_body_bytes:,} bytes.",
            "Send a smaller picture, or fewer in one request.",
        )

    def _overloaded(self) -> Refusal:
        return Refusal(503, "overloaded", "Too many requests are waiting.", "Try again shortly.", retry_after_s=1)

    def _too_slow(self) -> Refusal:
        return Refusal(
            408,
            "body_too_slow",
            f"The body did not arrive within {self._timeout_s:g} seconds.",
            "Send a smaller picture, or over a faster line.",
        )


@dataclass
class _Visit:
    """One request: whether its body is all here, and how many bytes of it are."""

    needs_no_room: bool
    arrived: bool = False
    held_bytes: int = 0


def is_open(path: str) -> bool:
    """Whether a path needs no key where others do."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)
