"""A fetcher with a resolver and servers of the test."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from viewfinder.query.errors import AddressError
from viewfinder.query.fetcher import Address, Fetcher

LOOPBACK = ipaddress.ip_address("127.0.0.1")
# Trusts no authority. Loading the ones that the service trusts takes a tenth of a second.
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Names:
    """A resolver with answers from a list; the last one repeats, and None means that the name does not exist."""

    def __init__(self, **names: list[str | None]) -> None:
        self.answers = {name.replace("_", "."): answers for name, answers in names.items()}
        self.lookups: list[str] = []

    async def __call__(self, name: str) -> list[Address]:
        self.lookups.append(name)
        answers = self.answers.get(name, [None])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [ipaddress.ip_address(address) for address in answer.split()]


def replying(content: bytes, *, requests: list[bytes] | None = None) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if requests is not None:
            requests.append(request)
        writer.write(content)

    return handler


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on a free port of loopback."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has closed the connection
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


def fetcher(port: int = 80, **options: Any) -> Fetcher:
    """A fetcher for which 127.0.0.1 is the only public address."""
    given = {"max_bytes": 1000, "resolve": Names(images_test=["127.0.0.1"]), "ports": {port}, "tls": TLS}
    return Fetcher(**(given | {"allowed": lambda address: address == LOOPBACK} | options))


async def refusal(fetching: Fetcher, url: str) -> AddressError:
    with pytest.raises(AddressError) as error:
        await fetching.fetch(url)
    fetching.close()
    return error.value
