"""Change of the live collection: the alias, the recorded states, and the retired collections."""

import logging
import math
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import httpx

from viewfinder.addresses import is_loopback
from viewfinder.clock import Clock, now, timestamp_after
from viewfinder.reindexing.upgrade_lock import MAX_CLOCK_DIFFERENCE, UpgradeLock
from viewfinder.store import Collection, Store

logger = logging.getLogger("viewfinder.reindex")

SERVICE_TIMEOUT_S = 30.0
_POLL_S = 0.5


def promote(store: Store, lock: UpgradeLock, collection: Collection, *, clock: Clock = now, **metadata: Any) -> None:
    """Make `collection` the live one and retire its predecessor; `metadata` replaces some of its own.

    Raises `StoreBusyError` if the lock was lost.
    """
    lock.renew()
    store.collections.update_metadata(collection.name, promoted_at=_timestamp(clock), retired_at="", **metadata)
    store.collections.promote(collection.index, collection.name)
    correct_states(store, collection.index, clock=clock)
    logger.info("%s is live", collection.name)


def states_are_correct(store: Store, live: Collection) -> bool:
    """Return True if the collection behind the alias, and no other, is recorded as live."""
    return all(
        (each.metadata.state == "live") == (each.name == live.name) for each in store.collections.all(live.index)
    )


def correct_states(store: Store, index: str, *, clock: Clock = now) -> None:
    """Correct the recorded states to match the alias, which is authoritative: a run may be killed between the two."""
    live = store.collections.live(index)
    if live is None:
        return
    if live.metadata.state != "live":
        store.collections.update_metadata(live.name, state="live", retired_at="")
    others = [each for each in store.collections.all(index) if each.name != live.name]
    earlier = [each.metadata.retired_at for each in others if each.metadata.retired_at]
    for each in others:
        if each.metadata.state == "live":
            # Later than all others, also if this machine's clock is behind: a rollback returns to the last one.
            earlier.append(timestamp_after(earlier, clock))
            store.collections.update_metadata(each.name, state="retired", retired_at=earlier[-1])


def retired_collections(store: Store, index: str) -> list[Collection]:
    """Return the retired collections, the last retired first."""
    live = store.collections.live(index)
    retired = [
        each
        for each in store.collections.all(index)
        if each.metadata.state == "retired" and (live is None or each.name != live.name)
    ]
    return sorted(retired, key=lambda each: (each.metadata.retired_at, each.build), reverse=True)


def drop_retired(
    store: Store,
    lock: UpgradeLock,
    index: str,
    *,
    keep: int,
    grace_s: float,
    retired_for_s: Mapping[str, float],
    clock: Clock = now,
) -> list[str]:
    """Drop retired collections except the last `keep` and those retired less than `grace_s` seconds ago.

    The clock of the run that retired a collection may differ from this one by minutes. So `retired_for_s` has, by name,
    the seconds for which this run itself has known collections to be retired, and recorded times are trusted only
    beyond the maximum difference of clocks.
    """
    lock.renew()
    dropped = []
    for each in retired_collections(store, index)[keep:]:
        retired_at = each.metadata.retired_at
        seen = retired_for_s.get(each.name, -math.inf) >= grace_s
        past = timedelta(seconds=grace_s) + MAX_CLOCK_DIFFERENCE
        if not seen and retired_at and datetime.fromisoformat(retired_at) + past > clock():
            logger.info("Keeping %s until a later run: searches may still be paging through it", each.name)
            continue
        store.collections.drop(each.name)
        dropped.append(each.name)
        logger.info("Dropped %s", each.name)
    return dropped


def wait_for_service(server: str, collection: str, *, timeout_s: float = SERVICE_TIMEOUT_S) -> bool:
    """Poll the service until it serves `collection`. A failure is only logged, as services follow the alias anyway."""
    began = time.monotonic()
    answered = ""
    encrypted = server.startswith("https:")  # reading the certificate authorities takes 60 ms
    while time.monotonic() - began < timeout_s:
        try:
            local = is_loopback(server)  # HTTP_PROXY is not meant for calls to this machine
            address, searched = f"{server.rstrip('/')}/readyz", {"searched": collection}
            ready = httpx.get(address, params=searched, timeout=5.0, verify=encrypted, trust_env=not local).json()
            answered = str(ready.get("behind") or ready.get("collection") or "")
            # `collection` is that of the default index of the service.
            if ready.get("is_searched"):
                logger.info("The service at %s switched after %.1f s", server, time.monotonic() - began)
                return True
        except (httpx.TransportError, OSError) as error:  # the latter for SSL_CERT_FILE
            logger.info("No service answers at %s (%s); running services will switch by themselves", server, error)
            return False
        except (ValueError, AttributeError, ImportError, httpx.InvalidURL):  # no viewfinder service, or a wrong proxy
            return False
        time.sleep(_POLL_S)
    logger.warning("The service at %s did not switch within %g s; its answer: %r", server, timeout_s, answered)
    return False


def _timestamp(clock: Clock) -> str:
    return clock().isoformat(timespec="seconds")
