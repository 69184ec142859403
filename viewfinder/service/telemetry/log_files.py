"""Log files of a replica, beside those of Ray Serve: each line is written at once, as it is, and files are rotated.

    viewfinder_REPLICA.log    the service's log
    access_REPLICA.log        one JSON object per request (`viewfinder.service.telemetry.access_log`)

With RAY_SERVE_THROUGHPUT_OPTIMIZED Serve takes standard error over: it puts a prefix before each line and writes none
before it has a thousand or an error.
"""

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from viewfinder.service.telemetry import access_log
from viewfinder.terminal import PrintableFormatter

MAX_BYTES, BACKUPS = 32 * 2**20, 3


def open_logs(directory: Path, replica: str, *, to_stderr: bool) -> None:
    """Send the service's loggers to files in `directory`, with `to_stderr` to standard error too."""
    directory.mkdir(parents=True, exist_ok=True)
    service, access = _handlers(directory / f"viewfinder_{replica}.log"), _handlers(directory / f"access_{replica}.log")
    if to_stderr:
        service.append(logging.StreamHandler())
        access.append(logging.StreamHandler())
    for each in service:
        each.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("serve", "viewfinder"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = service
    access_log.logger.handlers = access
    access_log.logger.propagate = False


def _handlers(path: Path) -> list[logging.Handler]:
    return [RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8", delay=True)]
