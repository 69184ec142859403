"""The embedded store for several programs at once: its holder answers the others through a Unix socket.

The first program to open the directory holds it. The others send their calls to the holder; when it ends, one of them
takes over.
"""

import logging
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from viewfinder.edge.refusal import Refusal
from viewfinder.errors import StoreError, StoreUnavailableError, ViewfinderError

logger = logging.getLogger(__name__)

AnswerRequest = Callable[[str, str, Any], Any]
"""Answers a request of the REST interface: method, path and body."""

_SOCKET_PREFIX = "viewfinder-"
_SOCKET = "store.sock"
_BACKLOG = 64


class StoreSocket:
    """Answers requests of other programs of the same user with `answer`, using one thread per connection.

    The socket is in `directory` if it can be, so that it goes with it and no cleaner of temporary files removes it.
    """

    def __init__(self, answer: AnswerRequest, directory: Path) -> None:
        self._answer = answer
        try:
            self._listen(directory)
        except OSError:  # a path too long for a socket, or a file system without sockets
            self._listen(None)
        self._lock = threading.Lock()
        self._connections: set[Connection[Any, Any]] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="store-socket", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Accept no further calls and end the connections; waiting programs then connect to the next holder."""
        if self._closed:
            return
        self._closed = True
        self._listening.shutdown(socket.SHUT_RDWR)  # to close it would not wake its thread
        self._thread.join()
        self._listening.close()
        with self._lock:
            connections = list(self._connections)
        for each in connections:
            _end_connection(each)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _listen(self, parent: Path | None) -> None:
        # Unpickling a message can run any code, so other users must not have access to the directory.
        self._directory = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir=parent))
        self.path = str(self._directory / _SOCKET)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.setblocking(True)
        try:
            self._listening.bind(self.path)
            self._listening.listen(_BACKLOG)
        except OSError:
            self._listening.close()
            shutil.rmtree(self._directory, ignore_errors=True)
            raise

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listening.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.1)  # too many open files, for example
                continue
            accepted.setblocking(True)  # a program may have set a time limit for all its sockets
            connection: Connection[Any, Any] = Connection(accepted.detach())
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="store-call", daemon=True).start()

    def _serve(self, connection: "Connection[Any, Any]") -> None:
        try:
            while not self._closed:
                connection.send(self._result(connection.recv()))
        except (EOFError, OSError):
            logger.debug("A program has disconnected from the store.")
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _result(self, message: tuple[Any, ...]) -> tuple[Any, Exception | None]:
        try:
            method, path, body = message
        except ValueError:
            return None, StoreError("Another version of viewfinder holds the embedded store. Restart both programs.")
        try:
            return self._answer(method, path, body), None
        except (ViewfinderError, Refusal, OSError, ValueError) as error:
            return None, error
        except Exception as error:
            logger.exception("A request of another program failed: %s %s", method, path)
            return None, StoreError(f"The embedded store failed at {method} {path}: {error!r}.")


class SocketClient:
    """Sends requests to the socket of the program that holds the directory.

    Has as many connections as there are requests at the same time, so that none waits here for a long one. Raises
    `StoreUnavailableError` when that program ends.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._idle = [Client(path, family="AF_UNIX")]
        self._closed = False

    def answer(self, method: str, path: str, body: Any = None) -> Any:
        """Return the "result" of a request; raise what the other program raised."""
        connection = None
        try:
            connection = self._take()
            connection.send((method, path, body))
            answer, error = connection.recv()
        except (EOFError, OSError) as ended:
            if connection is not None:
                connection.close()
            raise StoreUnavailableError("The program that held the embedded store has ended.") from ended
        self._keep(connection)
        if error is not None:
            raise error
        return answer

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for each in self._idle:
                each.close()
            self._idle.clear()

    def _take(self) -> "Connection[Any, Any]":
        with self._lock:
            if self._closed:
                raise EOFError
            if self._idle:
                return self._idle.pop()
        return Client(self._path, family="AF_UNIX")

    def _keep(self, connection: "Connection[Any, Any]") -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()


def remove_socket(path: str) -> None:
    """Remove the socket that a killed holder has left behind."""
    directory = Path(path).parent
    if Path(path).name == _SOCKET and directory.name.startswith(_SOCKET_PREFIX):
        shutil.rmtree(directory, ignore_errors=True)


def _end_connection(connection: "Connection[Any, Any]") -> None:
    """End a connection that another thread may be reading; closing it does not wake that thread."""
    try:
        with socket.socket(fileno=socket.dup(connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
    except (OSError, ValueError):
        logger.debug("A connection had ended already.")
