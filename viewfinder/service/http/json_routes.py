"""Routes that parse large JSON bodies and build large JSON answers off the event loop.

`json.loads` and pydantic keep the interpreter lock while they run, in a thread too. So the structure of a body is
limited before it is parsed: 3,000,000 empty lists in 9 MB take 1.4 s and 200 MB; what the limits let through takes some
tens of milliseconds, as does an image of the largest size in base64.
"""

import asyncio
import functools
import inspect
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.types import Receive, Scope, Send

from viewfinder.json_objects import RepeatedNameError, parse_unrepeated
from viewfinder.query.errors import QueryError
from viewfinder.service.http.errors import HTTPError, refusal

# Bodies up to this size are parsed at once: a thread would take longer.
INLINE_BYTES = 16 * 1024
# Lists, objects and keys of objects in one body. A batch of 64 searches with long filters has some thousands.
MAX_CONTAINERS = 20_000
# Commas in one body: 256 vectors of 1,152 numbers have 295,000.
MAX_COMMAS = 300_000
# Strings in one body, counted only where the text of strings must be told from the structure.
MAX_STRINGS = 100_000
# One string that is not ASCII, as base64 is: pydantic encodes it in the event loop, 30 MB in 60 ms.
MAX_TEXT_BYTES = 1024**2


class JsonRequest(Request):
    """A request whose JSON is parsed in a thread if it is large."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = await parse_in_turn(await self.body())
        return self._json


class JsonRoute(APIRoute):
    """A route that answers with the JSON of its endpoint's result, built in a thread, or with its `Response`."""

    def __init__(self, path: str, endpoint: Callable[..., Awaitable[Any]], **options: Any) -> None:
        super().__init__(path, _with_json_result(endpoint), **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json


class OpenAIRoute(JsonRoute):
    """A route that refuses invalid requests with status 400, as its clients expect, and not with 422."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_400(request: Request) -> Response:
            try:
                return await handle(request)
            except (QueryError, RequestValidationError) as error:
                refused = refusal(request, error)
                if refused.status != 422:
                    raise
                raise HTTPError(400, refused.code, refused.message, refused.hint) from error

        return handle_with_400


class HeldResponse(StreamingResponse):
    """JSON in parts, each made in a thread when it is sent; then `release` is called, also if the client is gone."""

    def __init__(self, parts: Iterable[Callable[[], bytes]], release: Callable[[], object]) -> None:
        super().__init__(self._made(parts), media_type="application/json")
        # Also called if the response is never sent.
        self._release = weakref.finalize(self, release)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()

    @staticmethod
    async def _made(parts: Iterable[Callable[[], bytes]]) -> AsyncIterator[bytes]:
        for make in parts:
            yield await asyncio.to_thread(make)


async def parse_in_turn(body: bytes) -> Any:
    """As `parse`, in a thread if the text is long."""
    return parse(body) if len(body) <= INLINE_BYTES else await asyncio.to_thread(parse, body)


def parse(body: bytes) -> Any:
    """The value of a JSON text; raises `ValueError`, and an `HTTPError` for more structure than any request needs."""
    # Only UTF-8: `json.loads` detects UTF-16 and UTF-32 as well, in which the characters counted here look different.
    text = body.decode("utf-8-sig")
    simple = _is_simple(body)
    if not simple or (len(body) > MAX_TEXT_BYTES and not body.isascii()):
        around, within = _split(body)
        if not (simple or _is_simple(around)):
            raise HTTPError(
                413,
                "body_too_large",
                f"The JSON has more than {MAX_CONTAINERS:,} lists, objects and keys, or {MAX_COMMAS:,} values.",
                "Send fewer searches, texts or vectors in one request.",
            )
        if any(len(each) > MAX_TEXT_BYTES and not each.isascii() for each in within):
            raise HTTPError(
                413,
                "body_too_large",
                f"The JSON has a text of more than {MAX_TEXT_BYTES:,} bytes.",
                "Send an image as base64, which is ASCII.",
            )
    return parse_object(text)


def parse_object(text: str) -> Any:
    """The value of a JSON text; raises `ValueError`, and an `HTTPError` for a name that an object has twice."""
    try:
        return parse_unrepeated(text)
    except RepeatedNameError as error:
        raise HTTPError(400, "invalid_json", f"The JSON is ambiguous: {error}.", "Give each name once.") from error


def _is_simple(body: bytes) -> bool:
    containers = body.count(b"[") + body.count(b"{") + body.count(b":")
    return containers <= MAX_CONTAINERS and body.count(b",") <= MAX_COMMAS


def _split(body: bytes) -> tuple[bytes, list[bytes]]:
    """The structure of a JSON text without its strings, and the strings, which may hold any characters."""
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if plain.count(b'"') > 2 * MAX_STRINGS:
        return body, [body]
    parts = plain.split(b'"')
    return b"".join(parts[::2]), parts[1::2]


def _with_json_result(endpoint: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Response]]:
    """The endpoint, with its result as a JSON response; FastAPI still reads its signature for the schema."""
    if getattr(endpoint, "__wrapped__", None) is not None:
        return endpoint  # encoded already: FastAPI makes each route anew when a router is included
    annotation = inspect.signature(endpoint).return_annotation
    if annotation is Response:
        return endpoint
    answer: TypeAdapter[Any] = TypeAdapter(annotation)

    @functools.wraps(endpoint)
    async def encoded(*arguments: Any, **options: Any) -> Response:
        result = await endpoint(*arguments, **options)
        return Response(await asyncio.to_thread(answer.dump_json, result), media_type="application/json")

    return encoded
