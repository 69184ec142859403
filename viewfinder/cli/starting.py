"""The answer on the port of a service while it starts: 503 with the phase, from outside its replicas.

A replica without its model must not be healthy, because a proxy sends most requests to the replica that answers
fastest. So the program that starts the service answers until a replica does.
"""

import ctypes
import json
import logging
import socket
import struct
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Self

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5
_TIMEOUT_S = 5.0
# A client that still sends its body does not read the answer; more than this is left unread.
_MAX_BODY_BYTES = 1024**2
# Linux: a filter that chooses among the sockets of one port. This one always chooses the first, which is ours.
_SO_ATTACH_REUSEPORT_CBPF, _SO_DETACH_REUSEPORT_BPF = 51, 68
_RETURN_FIRST = struct.pack("HBBI", 0x06, 0, 0, 0)


class StartingAnswer:
    """Answers every request at an address with 503 until it is closed; `phase` is part of the message.

    The port is shared with Ray Serve, whose proxy listens before a replica is ready: new connections come here first.
    Raises `OSError` if the address cannot be bound.
    """

    def __init__(self, family: socket.AddressFamily, address: tuple[Any, ...], phase: str) -> None:
        self.phase = phase
        self._server = _Server(family, address, self)
        _choose_always(self._server.socket)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="starting", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; connections that wait to be accepted are answered first."""
        _choose_any(self._server.socket)
        self._server.shutdown()
        with suppress(OSError):  # none waits any more
            self._server.socket.setblocking(False)
            while True:
                self._server.process_request(*self._server.get_request())
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingTCPServer):
    allow_reuse_address = allow_reuse_port = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, family: socket.AddressFamily, address: tuple[Any, ...], answer: StartingAnswer) -> None:
        self.address_family = family
        self.answer = answer
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a client went away while the service was starting", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _TIMEOUT_S

    def _answer(self) -> None:
        self.rfile.read(min(int(self.headers.get("Content-Length") or 0), _MAX_BODY_BYTES))
        detail = {
            "code": "not_ready",
            "message": f"The service is starting: {self.server.answer.phase}.",
            "hint": "Try again shortly.",
            "type": "server_error",
        }
        body = json.dumps({"error": detail}).encode()
        self.send_response(503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Retry-After", str(RETRY_AFTER_S))
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


def _choose_always(listener: socket.socket) -> None:
    """Give all connections to this port to its first socket. Where that is not possible, they are divided."""
    program = ctypes.create_string_buffer(_RETURN_FIRST, len(_RETURN_FIRST))
    with suppress(OSError):
        options = struct.pack("HL", 1, ctypes.addressof(program))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, options)


def _choose_any(listener: socket.socket) -> None:
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)
