"""The upgrade lock of an index: one run at a time builds, promotes and drops collections.

The lock is a point in the control collection, written by conditional upserts (Qdrant ≥ 1.17) in one order on all
replicas: inserted only if there is none, replaced only if it has expired. Its holder renews it. The lock of a killed
run expires after `ttl_s`; another run on the same machine takes it over immediately. Clocks of machines differ: a lock
that seems to have just expired is watched for `ttl_s` first, and left to its holder if that renews it.
"""

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

from viewfinder.clock import Clock, Sleep, now, repeating, sleep
from viewfinder.errors import StoreBusyError, StoreError
from viewfinder.indexing.machine import process_space
from viewfinder.store.control import Control

logger = logging.getLogger(__name__)

_CHECKS_OF_WATCHED_LOCK = 8
_LOCK_KIND: Final = "upgrade_lock"
_LOCK_SUBJECT = "collections"
TTL_S = 120.0
# No clock is further off. A lock that has expired for longer is taken over without watching it.
MAX_CLOCK_DIFFERENCE = timedelta(minutes=15)


@dataclass(frozen=True)
class LockHolder:
    """The run that holds the lock.

    `token` is unique to each acquisition; `expires_at` is ISO 8601 in UTC by the holder's clock. `machine`
    (`viewfinder.indexing.machine.process_space`) and `process_start` ("" if unavailable) identify the process in
    addition to its pid.
    """

    token: str
    run_id: str
    host: str
    pid: int
    expires_at: str
    machine: str = ""
    process_start: str = ""

    @classmethod
    def parse(cls, record: Any) -> "LockHolder":
        return cls(**{each.name: record[each.name] for each in fields(cls) if each.name in record})

    def expired(self, now: datetime) -> bool:
        """Return True if the lock has timed out by this clock, or its process is known to have ended."""
        return datetime.fromisoformat(self.expires_at) <= now or self.has_ended()

    def has_ended(self) -> bool:
        """Return True if its process is known to have ended."""
        is_known = self.process_start != "" and self.machine == process_space()
        return is_known and _process_start(self.pid) != self.process_start

    def __str__(self) -> str:
        return f"run {self.run_id} (process {self.pid} on {self.host}) until {self.expires_at}"


class UpgradeLock:
    """A context manager that holds the lock. Call `renew` before every step that cannot be undone."""

    def __init__(
        self,
        control: Control,
        run_id: str,
        *,
        ttl_s: float = TTL_S,
        clock: Clock = now,
        sleep: Sleep = sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._control = control
        self._run_id = run_id
        self._token = secrets.token_hex(8)
        self._ttl_s = ttl_s
        self._clock = clock
        self._sleep = sleep
        self._monotonic = monotonic
        self._taken = monotonic()
        self._lost_to: str | None = None
        self._renewing = ExitStack()

    def __enter__(self) -> Self:
        self.acquire()
        self._renewing.enter_context(repeating(self._ttl_s / 4, self._keep))
        return self

    def __exit__(self, *exception: object) -> None:
        self._renewing.close()
        self.release()

    def acquire(self) -> None:
        """Take the lock; raises `StoreBusyError` naming the run that holds it."""
        holder = read_holder(self._control)
        if holder is None:
            self._control.write_if(_LOCK_KIND, _LOCK_SUBJECT, self._record(), absent=True)
        elif holder.expired(self._clock()) and not self._is_renewed(holder):
            logger.warning("Taking over the expired upgrade lock of %s", holder)
            self._control.write_if(
                _LOCK_KIND, _LOCK_SUBJECT, self._record(), token=holder.token, expires_at=holder.expires_at
            )
        holder = read_holder(self._control)
        if holder is None:
            raise StoreBusyError("Another run has just released the lock of the index. Start this run again.")
        if holder.token != self._token:
            raise StoreBusyError(
                f"The index is locked by {holder}. Wait for that run to end; if it was killed, the lock expires by "
                "itself."
            )
        self._taken = self._monotonic()

    @property
    def held_s(self) -> float:
        """Seconds since this run has taken the lock."""
        return self._monotonic() - self._taken

    def _is_renewed(self, holder: LockHolder) -> bool:
        """Return True if the holder is alive and its clock behind: it renews the lock within `ttl_s`."""
        long_ago = datetime.fromisoformat(holder.expires_at) + MAX_CLOCK_DIFFERENCE < self._clock()
        if holder.has_ended() or long_ago:
            return False
        logger.info("The upgrade lock of %s has expired; watching for %g s if it is renewed", holder, self._ttl_s)
        for _ in range(_CHECKS_OF_WATCHED_LOCK):
            self._sleep(self._ttl_s / _CHECKS_OF_WATCHED_LOCK)
            current = read_holder(self._control)
            if current is None or (current.token, current.expires_at) != (holder.token, holder.expires_at):
                return True
        return False

    def renew(self) -> None:
        """Extend the lock; raises `StoreBusyError` if another run has taken it."""
        if self._lost_to is None:
            self._control.write_if(_LOCK_KIND, _LOCK_SUBJECT, self._record(), token=self._token)
            holder = read_holder(self._control)
            if holder is None or holder.token != self._token:
                self._lost_to = f"the index is locked by {holder}" if holder else "the lock is gone"
        if self._lost_to is not None:
            raise StoreBusyError(
                f"This run lost the upgrade lock ({self._lost_to}) and stops without further changes. Start it again."
            )

    def release(self) -> None:
        """Release the lock, unless another run has taken it."""
        try:
            # Extended first, so that it cannot expire and be taken over between the check and the deletion by id.
            # (A deletion by filter is refused by strict mode, and never evaluated in one order with other writes.)
            self._control.write_if(_LOCK_KIND, _LOCK_SUBJECT, self._record(), token=self._token)
            holder = read_holder(self._control)
            if holder is not None and holder.token == self._token:
                self._control.remove(_LOCK_KIND, [_LOCK_SUBJECT])
        except StoreError as error:
            logger.warning("The upgrade lock could not be released and will expire by itself: %s", error)

    def _record(self) -> dict[str, Any]:
        expires_at = self._clock() + timedelta(seconds=self._ttl_s)
        pid = os.getpid()
        holder = LockHolder(
            token=self._token,
            run_id=self._run_id,
            host=socket.gethostname(),
            pid=pid,
            expires_at=expires_at.isoformat(timespec="milliseconds"),
            machine=process_space(),
            process_start=_process_start(pid) or "",
        )
        return asdict(holder)

    def _keep(self) -> bool:
        """Renew the lock; return False if it is lost."""
        try:
            self.renew()
        except StoreBusyError as error:
            logger.error("%s", error)
            return False
        except StoreError as error:
            logger.warning("The upgrade lock could not be renewed: %s", error)
        return True


def read_holder(control: Control) -> LockHolder | None:
    """Return the holder of the upgrade lock, expired or not; None if there is none."""
    record = control.read(_LOCK_KIND, [_LOCK_SUBJECT]).get(_LOCK_SUBJECT)
    return LockHolder.parse(record) if record else None


def _process_start(pid: int) -> str | None:
    """Return the start time of a process in clock ticks, as pids are reused; None if it has ended."""
    try:
        # The second field, the program's name, may contain spaces and parentheses.
        state, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else others[18]
