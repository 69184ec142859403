"""Answers HEAD like GET, without the body."""

from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """Middleware next to the routes: a path with GET also has HEAD, unless it has a route of its own for that."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        if not _takes(scope, "HEAD") and _takes(scope, "GET"):
            scope["method"] = "GET"
        await self._app(scope, receive, without_body)


def _takes(scope: Scope, method: str) -> bool:
    return any(each.matches({**scope, "method": method})[0] is Match.FULL for each in scope["app"].routes)
