"""Checks of the store."""

from dataclasses import replace
from typing import TYPE_CHECKING

from viewfinder.cli.doctor.finding import Finding
from viewfinder.errors import ViewfinderError
from viewfinder.settings import Settings

if TYPE_CHECKING:
    from viewfinder.store.directory import Holder
    from viewfinder.store.schema import CollectionMetadata

# A million points: 9 kB each, with image and caption at 512 dimensions.
LARGE_STORE_BYTES = 9_000_000_000
_ANSWER_TIMEOUT_S = 5.0


def qdrant(settings: Settings) -> Finding:
    from viewfinder.store import StoreAddress, connect

    address = replace(StoreAddress.of(settings), retry_s=0.0, timeout_s=_ANSWER_TIMEOUT_S)
    if address.url is None:
        return _embedded(settings)
    with connect(address) as store:
        version = store.check()
        live = store.collections.live(settings.index)
    content = f"index {settings.index!r} is {live.name}" if live else f"no index {settings.index!r} yet"
    return Finding("Qdrant", "ok", f"{address}, version {version}; {content}")


def _embedded(settings: Settings) -> Finding:
    from viewfinder.edge.copying import stored_bytes
    from viewfinder.store.directory import LARGE_STORE_ADVICE, store_directory

    directory = store_directory(settings.data_dir)
    if not directory.is_dir():
        return Finding("Qdrant", "ok", f"embedded in {directory}, nothing stored yet")
    size = stored_bytes(directory)
    is_held, holder = holder_of(settings)
    by = (holder or "an unknown program") if is_held else "no program"
    found = f"embedded in {directory}, {size / 1024**2:,.1f} MiB, held by {by}"
    if size > LARGE_STORE_BYTES:
        return Finding("Qdrant", "note", found, LARGE_STORE_ADVICE)
    return Finding("Qdrant", "ok", found)


def holder_of(settings: Settings) -> "tuple[bool, Holder | None]":
    """True if a program holds the embedded store, and that program if it is known."""
    from viewfinder.store.directory import Holder, store_directory, try_lock

    directory = store_directory(settings.data_dir)
    if not directory.is_dir():
        return False, None
    lock = try_lock(directory / "holder.lock")
    if lock is not None:
        lock.close()
        return False, None
    return True, Holder.read(directory)


def live_metadata(settings: Settings) -> "CollectionMetadata | None":
    """The metadata of the live collection; None without an index, or if the store cannot be asked now."""
    try:
        from viewfinder.store import StoreAddress, connect, open_shared
    except ModuleNotFoundError:
        return None
    address = replace(StoreAddress.of(settings), retry_s=0.0, timeout_s=_ANSWER_TIMEOUT_S)
    try:
        if address.url is None:
            is_held, holder = holder_of(settings)
            is_shared = not is_held or (holder is not None and holder.answers_here)
            if not is_shared or not (settings.data_dir / "qdrant").is_dir():
                return None
        with connect(address) if address.url is not None else open_shared(address) as store:
            live = store.collections.live(settings.index)
    except (OSError, ViewfinderError):
        return None  # the check of Qdrant says why
    return live.metadata if live else None
