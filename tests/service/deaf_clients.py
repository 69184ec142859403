"""Clients that ask for a large answer and never read it, on real sockets."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# The smallest buffers of both sides: an answer of more than about 100 kB does not fit into them.
_BUFFER_BYTES, _SEGMENT_BYTES = 4096, 536
_WAIT_S = 120.0
_BEGINNING = b"HTTP/1.1 200"


@contextmanager
def deaf_clients(port: int, count: int, request: bytes) -> Iterator[None]:
    """Connect `count` clients to this machine; the answer to each has begun."""
    with ExitStack() as open_sockets:
        clients = [open_sockets.enter_context(_client(port)) for _ in range(count)]
        for each in clients:
            each.sendall(request)
            assert _beginning(each) == _BEGINNING
        yield


def _client(port: int) -> socket.socket:
    client = socket.socket()
    client.settimeout(_WAIT_S)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)
    client.connect(("127.0.0.1", port))
    return client


def _beginning(client: socket.socket) -> bytes:
    """The first bytes of the answer, which stay unread."""
    deadline = time.monotonic() + _WAIT_S
    while len(found := client.recv(len(_BEGINNING), socket.MSG_PEEK)) < len(_BEGINNING):
        assert found, "the service has ended the connection"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return found
