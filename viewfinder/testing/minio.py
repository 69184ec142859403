"""A second real S3 server on loopback for tests: MinIO, where its program is installed."""

import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from viewfinder.errors import ViewfinderError
from viewfinder.testing.s3 import die_with_parent

INSTALL = "go install github.com/minio/minio@latest (and $(go env GOPATH)/bin in PATH)"
_MINIO_START_TIMEOUT_S = 60.0
_MAX_STARTS = 3


def find_minio() -> str | None:
    """Return the path of the program, None if it is not installed."""
    return shutil.which("minio") or shutil.which("minio", path=str(Path.home() / "go" / "bin"))


class MinIOServer:
    """Runs MinIO on the directory `root` until the `with` block ends. `url` and the keys are valid within it."""

    def __init__(self, program: str, root: Path) -> None:
        self._program = program
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.access_key = f"key-{secrets.token_hex(6)}"
        self.secret_key = secrets.token_hex(16)

    def __enter__(self) -> Self:
        for _ in range(_MAX_STARTS):
            if self._start():
                return self
        log = (self._root / "log").read_text(errors="replace")
        raise ViewfinderError(f"{self._program} did not start on {self.url}: {log.strip()[-500:]}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> bool:
        """Start on a free port; return False if MinIO ends, as it does when another program has taken the port."""
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = {
            "HOME": str(self._root),
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_UPDATE": "off",
            "MINIO_BROWSER": "off",
            "PATH": os.environ.get("PATH", ""),
        }
        command = [self._program, "server", str(self._root / "data"), "--address", f"127.0.0.1:{port}", "--quiet"]
        with (self._root / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, preexec_fn=die_with_parent()
            )
        try:
            return self._is_ready()
        except BaseException:
            self._stop()
            raise

    def _is_ready(self) -> bool:
        deadline = time.monotonic() + _MINIO_START_TIMEOUT_S
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/minio/health/ready", timeout=5):
                    return True
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        self._stop()
        return False

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # nothing that it stores is needed any more
            process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
