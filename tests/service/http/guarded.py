"""Minimal routes behind the guard."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, Request, UploadFile
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from tests.service.conftest import local_client
from viewfinder.service.http.errors import install_error_handlers
from viewfinder.service.http.guard import Guard
from viewfinder.service.http.keys import require_admin
from viewfinder.service.http.sending import PAUSE_S
from viewfinder.service.telemetry.access_log import AccessLog, record_generation
from viewfinder.service.telemetry.metrics import Metrics
from viewfinder.settings import Settings

READ_KEY, ADMIN_KEY = "read-key-" + "r" * 32, "admin-key-" + "a" * 32
KEYS = f"{hashlib.sha256(READ_KEY.encode()).hexdigest()},{hashlib.sha256(ADMIN_KEY.encode()).hexdigest()}:admin"
BODY_LIMIT = 2048


class Served:
    """A few routes behind the guard, with clients of any address."""

    def __init__(self, *, pause_s: float = PAUSE_S, **settings: object) -> None:
        self._pause_s = pause_s
        self.metrics = Metrics()
        self.settings = Settings.load({}, **{"max_body_bytes": BODY_LIMIT, **settings})
        self.cancelled = asyncio.Event()
        self.api = self._api()

    def client(self, address: str = "127.0.0.1") -> TestClient:
        return local_client(self.api, address=address)

    def _api(self) -> FastAPI:
        api = FastAPI()
        install_error_handlers(api)
        api.add_middleware(Guard, settings=self.settings, metrics=self.metrics, pause_s=self._pause_s)
        api.add_middleware(AccessLog, count=self.metrics.request)

        @api.get("/healthz")
        async def healthz() -> str:
            return "ok"

        @api.get("/v1/things/{name}")
        async def thing(name: str, request: Request) -> dict[str, str]:
            record_generation(model="demo", collection="images__demo")
            self.metrics.observe("search", 0.25)
            return {"name": name, "scope": request.state.scope}

        @api.post("/v1/echo")
        async def echo(body: dict[str, Any]) -> int:
            return len(body)

        @api.post("/v1/wait")
        async def wait(request: Request) -> str:
            await request.json()
            try:
                async with asyncio.timeout(0.1):
                    await request.receive()  # until the client disconnects
            except TimeoutError:
                pass
            return "done"

        @api.post("/v1/upload")
        async def upload(file: UploadFile, options: Annotated[str, Form()] = "") -> int:
            return len(await file.read())

        @api.delete("/v1/things/{name}", dependencies=[Depends(require_admin)])
        async def remove(name: str) -> str:
            return name

        @api.get("/v1/slow")
        async def slow() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()

        @api.get("/v1/stream")
        async def stream() -> StreamingResponse:
            async def parts() -> AsyncIterator[bytes]:
                yield b"first"
                await asyncio.sleep(0.05)
                yield b" last"

            return StreamingResponse(parts())

        @api.get("/v1/broken")
        async def broken() -> None:
            raise RuntimeError("the password is hush-hush")

        return api


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]
