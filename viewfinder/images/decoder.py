"""Decoding in a child process, so that no image can crash or block its reader.

A file that makes a C library crash, hang or allocate without bound fails alone; the next one gets a new child.
"""

import contextlib
import importlib
import json
import math
import os
import pickle
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from viewfinder.child import child_command
from viewfinder.errors import ImageError, ViewfinderError
from viewfinder.images.decoding import (
    REASONS,
    WARNINGS,
    Decoded,
    ImageLimits,
    Preprocess,
    check_bytes,
    configure_own_process,
)

DECODE = "viewfinder.images.decoding:decode"

# The niceness of decoders beside a service, whose searches need the same cores: beside a busy thread of niceness 0 they
# have a tenth of a core, and all of it when the service is idle.
BESIDE_SERVICE = 10

_DecodeFunction = Callable[[bytes, Preprocess, ImageLimits], Decoded]

# A child starts within 0.3 s on an idle machine; the rest is for overloaded ones.
_CHILD_START_TIMEOUT_S = 60.0
# An orphaned child ends this long after the parent's time limit.
_ORPHAN_GRACE_S = 2

# Far above any valid response: a longer one means that the file corrupted the child.
_MAX_FRAME_BYTES = 64 * 1024**2

_LENGTH = struct.Struct(">Q")
_HASH = re.compile("([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?")

# numpy reserves address space for each thread, and decoding uses none of it.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}


class Decoder:
    """A child process that decodes; started at the first file, and again after it ended.

    Calls from several threads are safe but run one at a time: for parallel decoding give each thread a `Decoder`.
    Create it in the process that uses it (it cannot be pickled), and close it or use a `with` block.
    `entry` is the function that the child runs, `module:function`, called like `viewfinder.images.decoding.decode`.
    `niceness` lowers the priority of the child below that of this process.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        limits: ImageLimits,
        *,
        timeout_s: float,
        memory_bytes: int,
        entry: str = DECODE,
        niceness: int = 0,
    ) -> None:
        self._preprocess = preprocess
        self._limits = limits
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._entry = entry
        self._niceness = niceness
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._closed = False

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def decode(self, data: bytes) -> Decoded:
        """Decode one file as `viewfinder.images.decoding.decode` does.

        Raises `ImageError`, with the reasons `decoder_crashed`, `decode_timeout` and `decoder_out_of_memory` too, and
        `ViewfinderError` if no child can be started. Raises `RuntimeError` after `close`, so that a late call cannot
        start a child that nobody ends.
        """
        check_bytes(data, self._limits)
        with self._lock:
            if self._closed:
                raise RuntimeError("The decoder is closed.")
            try:
                return self._decode_once(data)
            except _ChildFailedError:
                # The file may not be the cause (the system may be out of memory, a previous file may have corrupted the
                # heap), and a permanent failure is never retried: record it only if a new child fails too.
                try:
                    return self._decode_once(data)
                except _ChildFailedError as exc:
                    raise exc.as_image_error() from exc

    def close(self) -> None:
        """End the child after its current file. Later calls of `decode` fail."""
        with self._lock:
            self._closed = True
            self._end_child()

    def _decode_once(self, data: bytes) -> Decoded:
        if self._child is None:
            job = (self._entry, self._preprocess, self._limits, self._timeout_s, self._memory_bytes)
            self._child = _Child(job, self._niceness)
        try:
            outcome = _parse_response(*self._child.ask(data, self._timeout_s), self._limits)
        except TimeoutError:
            self._end_child()
            raise ImageError(
                "decode_timeout", f"Decoding was stopped after {self._timeout_s:g} s (VIEWFINDER_DECODE_TIMEOUT_S)."
            ) from None
        except BaseException:  # also for an interrupt: the rest of this response must not be read as the next one
            self._end_child()
            raise
        if isinstance(outcome, ImageError):
            raise outcome
        return outcome

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


def _parse_response(header: dict[str, Any], body: bytearray, limits: ImageLimits) -> Decoded | ImageError:
    """Return the result in a child's response. Raises `_ChildFailedError` if the response is invalid."""
    match header:
        case {"reason": str(reason), "message": str(message)} if reason in REASONS:
            return ImageError(reason, message)
        case {"shape": [*shape], "width": int(width), "height": int(height), "format": str(format_name), **rest}:
            warning, image_hash = rest.get("warning"), str(rest.get("image_hash"))
            are_counts = all(type(each) is int and each >= 0 for each in (*shape, width, height))
            valid = are_counts and len(shape) <= 3 and math.prod(shape) == len(body) > 0
            known = warning is None or (isinstance(warning, str) and warning in WARNINGS)
            if valid and known and _HASH.fullmatch(image_hash) and max(width, height) <= limits.max_pixels:
                pixels = np.frombuffer(body, dtype=np.uint8).reshape(shape)
                return Decoded(pixels, width, height, format_name, warning, image_hash)
    raise _ChildFailedError(None)


class _ChildFailedError(Exception):
    """The child ended with `status`, or sent an invalid response (None)."""

    def __init__(self, status: int | None) -> None:
        super().__init__(
            "The decoder process sent an invalid response."
            if status is None
            else f"The decoder process ended with status {status}."
        )
        self.status = status

    def as_image_error(self) -> ImageError:
        """Return the failure of the file that made the child fail."""
        if self.status is None:
            return ImageError("decoder_crashed", "The file made the decoder process send an invalid response.")
        if self.status == -signal.SIGKILL:  # only the system's out-of-memory killer kills two in a row
            return ImageError(
                "decoder_out_of_memory", "The system killed the decoder, most likely because it ran out of memory."
            )
        cause = signal.Signals(-self.status).name if self.status < 0 else f"exit status {self.status}"
        return ImageError("decoder_crashed", f"The file crashed the decoder process ({cause}).")


class _Child:
    """The parent's end: the process, and a socket that is its standard input and output.

    A frame is a length (8 bytes, big-endian) and content. A request is the file, a response a JSON header and the
    pixels: JSON, not a pickle, because the child has read untrusted bytes.
    """

    def __init__(self, job: tuple[str, Preprocess, ImageLimits, float, int], niceness: int) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    child_command("viewfinder.images.decoder:run_child", variables=_ONE_THREAD),
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.DEVNULL,  # libjpeg and libtiff would block on a full pipe
                    cwd="/",
                )
            except OSError as exc:
                self._socket.close()
                raise ViewfinderError(f"The decoder process cannot be started ({sys.executable!r}): {exc}") from exc
        with contextlib.suppress(OSError):  # it has ended already, which `ask` reports
            os.setpriority(os.PRIO_PROCESS, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
        try:
            header, _ = self.ask(pickle.dumps(job), _CHILD_START_TIMEOUT_S)
        except BaseException as exc:  # also for an interrupt: no other object refers to this child yet
            self.end()
            if not isinstance(exc, _ChildFailedError | TimeoutError):
                raise
            if isinstance(exc, _ChildFailedError) and exc.status == -signal.SIGKILL:
                raise  # the system was out of memory; the next child may start
            raise ViewfinderError(
                f"The decoder process did not start ({sys.executable!r}, memory limit {job[-1]:,} bytes): {exc}"
            ) from exc
        if "error" in header:
            self.end()
            raise ViewfinderError(f"The decoder process cannot run {job[0]!r}: {header['error']}")

    def ask(self, content: bytes, timeout_s: float) -> tuple[dict[str, Any], bytearray]:
        """Send one frame and return header and body. Raises `TimeoutError` and `_ChildFailedError`."""
        deadline = time.monotonic() + timeout_s
        try:
            for part in (_LENGTH.pack(len(content)), content):
                self._wait_until(deadline)
                self._socket.sendall(part)
            header = json.loads(self._receive(deadline))
            body = self._receive(deadline)
        except (ConnectionError, EOFError):
            raise _ChildFailedError(self._exit_status()) from None
        except (ValueError, RecursionError):
            raise _ChildFailedError(None) from None
        if not isinstance(header, dict):
            raise _ChildFailedError(None)
        return header, body

    def end(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _exit_status(self) -> int | None:
        try:
            return self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it closed its socket but still runs
            return None

    def _receive(self, deadline: float) -> bytearray:
        (length,) = _LENGTH.unpack(self._receive_exactly(_LENGTH.size, deadline))
        if length > _MAX_FRAME_BYTES:
            raise ValueError(length)
        return self._receive_exactly(length, deadline)

    def _receive_exactly(self, length: int, deadline: float) -> bytearray:
        content = bytearray(length)
        view = memoryview(content)
        while view:
            self._wait_until(deadline)
            count = self._socket.recv_into(view)
            if count == 0:
                raise EOFError
            view = view[count:]
        return content

    def _wait_until(self, deadline: float) -> None:
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError("no response in time")
        self._socket.settimeout(remaining_s)


def run_child() -> NoReturn:
    """Run the child: read the job, then answer each file until the parent closes the socket."""
    channel = socket.socket(fileno=_private_channel())
    requests = channel.makefile("rb")
    entry, preprocess, limits, timeout_s, memory_bytes = pickle.loads(_next_frame(requests))
    try:
        decode = _function(entry)
    except (ImportError, AttributeError, ValueError) as exc:
        _send_answer(channel, {"error": f"{type(exc).__name__}: {exc}"})
        sys.exit(1)
    configure_own_process(limits)
    _limit_resources(memory_bytes)
    _send_answer(channel, {})
    while True:
        data = _next_frame(requests)
        # If the parent is killed now, this signal ends a file that hangs. It needs no thread and works inside C code.
        # (PR_SET_PDEATHSIG fires when the parent's *thread* ends, so a thread pool would kill the child.)
        signal.setitimer(signal.ITIMER_REAL, timeout_s + _ORPHAN_GRACE_S)
        header, body = _attempt(decode, data, preprocess, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send_answer(channel, header, body)


def _attempt(
    decode: _DecodeFunction, data: bytes, preprocess: Preprocess, limits: ImageLimits
) -> tuple[dict[str, object], bytes]:
    try:
        decoded = decode(data, preprocess, limits)
    except ImageError as error:
        return {"reason": error.reason, "message": error.message}, b""
    except MemoryError:
        return {"reason": "decoder_out_of_memory", "message": "The image does not fit into the decoder's memory."}, b""
    header: dict[str, object] = {"shape": decoded.pixels.shape, **decoded._asdict()}
    del header["pixels"]
    return header, decoded.pixels.tobytes()


def _private_channel() -> int:
    # The output of C libraries must not be mixed with frames.
    channel = os.dup(0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nowhere, standard)
    return channel


def _limit_resources(memory_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is sent to the whole process group; the parent handles it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # not supported on macOS
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    with contextlib.suppress(OSError):  # out of memory, the system kills this process first
        Path("/proc/self/oom_score_adj").write_text("1000")


def _function(entry: str) -> _DecodeFunction:
    module, _, name = entry.partition(":")
    function: _DecodeFunction = getattr(importlib.import_module(module), name)
    return function


def _next_frame(requests: BinaryIO) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(requests, _LENGTH.size))
    return _exactly(requests, length)


def _exactly(requests: BinaryIO, length: int) -> bytes:
    content = requests.read(length)
    if len(content) < length:
        sys.exit(0)  # the parent closed the channel or ended
    return content


def _send_answer(channel: socket.socket, header: dict[str, object], body: bytes = b"") -> None:
    encoded = json.dumps(header).encode()
    channel.sendall(b"".join((_LENGTH.pack(len(encoded)), encoded, _LENGTH.pack(len(body)), body)))
