"""The build lease of an index: of all jobs that would build a collection, one does.

It is a note in the control collection that one program writes only where none stands, or where the one that stands has
expired (Qdrant's conditional upserts, ≥ 1.17). A holder renews it while it works; a killed one stops renewing, and
after `ttl_s` the next may take over, on the same machine at once.
"""

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from viewfinder.errors import StoreBusyError, StoreError
from viewfinder.store.control import Control

logger = logging.getLogger(__name__)

SUBJECT = "build"
TTL_S = 120.0


@dataclass(frozen=True)
class Holding:
    """Who holds the lease: `until` is ISO 8601 in UTC, by the holder's clock; `machine` and `process` as in `here`."""

    owner: str
    run_id: str
    host: str
    pid: int
    until: str
    machine: str = ""
    process: str = ""

    @classmethod
    def parse(cls, note: Any) -> "Holding":
        return cls(**{each.name: note[each.name] for each in fields(cls) if each.name in note})

    def over(self, now: datetime) -> bool:
        """Whether it has expired, or its process is known to have ended."""
        if datetime.fromisoformat(self.until) <= now:
            return True
        return self.machine != "" and self.machine == _machine() and _process(self.pid) != self.process

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, run {self.run_id}, until {self.until}"


class Lease:
    """Held by `with`; `check` before every step that cannot be taken back."""

    def __init__(
        self,
        control: Control,
        run_id: str,
        *,
        ttl_s: float = TTL_S,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._control = control
        self._run_id = run_id
        self._owner = secrets.token_hex(8)
        self._ttl_s = ttl_s
        self._clock = clock
        self._ended = threading.Event()
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self.take()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join(timeout=10)
        self.release()

    def take(self) -> None:
        """Hold it; raises `StoreBusyError` naming who does."""
        before = standing(self._control)
        if before is None:
            self._control.write_if("lease", SUBJECT, self._note(), absent=True)
        elif before.over(self._clock()):
            logger.warning("The build lease of %s is over and is taken over.", before)
            self._control.write_if("lease", SUBJECT, self._note(), owner=before.owner, until=before.until)
        now = standing(self._control)
        if now is None or now.owner != self._owner:
            raise StoreBusyError(
                f"Another job is building a collection of this index: {now}. Wait for it to end; if it was killed, its "
                "lease ends by itself."
            )

    def check(self) -> None:
        """Renew it now; raises `StoreBusyError` where it was lost meanwhile."""
        if self._lost is None:
            self._control.write_if("lease", SUBJECT, self._note(), owner=self._owner)
            now = standing(self._control)
            if now is None or now.owner != self._owner:
                self._lost = str(now)
        if self._lost is not None:
            raise StoreBusyError(f"This job lost its build lease to {self._lost}; it changes nothing any more.")

    def release(self) -> None:
        """Let go of it, where it is still ours."""
        try:
            self._control.remove_if("lease", SUBJECT, owner=self._owner)
        except StoreError as error:
            logger.warning("The build lease could not be released and ends by itself: %s", error)

    def _note(self) -> dict[str, Any]:
        until = (self._clock() + timedelta(seconds=self._ttl_s)).isoformat(timespec="milliseconds")
        pid = os.getpid()
        return asdict(
            Holding(self._owner, self._run_id, socket.gethostname(), pid, until, _machine(), _process(pid) or "")
        )

    def _renew(self) -> None:
        while not self._ended.wait(self._ttl_s / 4):
            try:
                self.check()
            except StoreBusyError as error:
                logger.error("%s", error)
                return
            except StoreError as error:
                logger.warning("The build lease could not be renewed: %s", error)


def standing(control: Control) -> Holding | None:
    """Who holds the build lease of an index, over or not; None where nobody does."""
    note = control.read("lease", [SUBJECT]).get(SUBJECT)
    return Holding.parse(note) if note else None


def _machine() -> str:
    """This boot of this machine and its space of process ids, "" where it has none: containers share neither."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return ""


def _process(pid: int) -> str | None:
    """When a process of this machine began, in clock ticks: its pid may be another's by now. None: it has ended."""
    try:
        # The second field is the program's name, which may hold spaces and brackets.
        state, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else others[18]
