"""Images of the live collection that a collection built beside it would lack."""

from collections.abc import Iterable, Mapping

from viewfinder.indexing.rows import Row
from viewfinder.sources.versions import is_same, is_same_or_later, version_of
from viewfinder.store import PointState


def state_of(state: PointState) -> dict[str, object]:
    """Return the cell `stored` or `live` of a row: the version of a point, and the hash of its caption."""
    return {
        "etag": state.etag,
        "size": state.size,
        "last_modified": state.last_modified,
        "caption_hash": state.caption_hash,
    }


def note_live(rows: Iterable[Row], states: Mapping[str, PointState]) -> None:
    """Note what the live collection has of these objects; `states` are those of its points."""
    for row in rows:
        state = states.get(row["id"])
        row["live"] = state_of(state) if state is not None and state.has_image else None


def is_lost(row: Row, *, keeps_point: bool) -> bool:
    """Return True if the live collection has an image of a failed or skipped object, and this collection has not.

    With `keeps_point` this collection keeps the point that it has. That suffices if it is of the live content or a
    later one, and has the live caption or the one that this run was to write. If the object is broken or no image, an
    image is lost only if it was made from this content: an older one is out of date. Objects that are skipped by their
    name are no loss.
    """
    stored, live = row["stored"], row["live"]
    if live is None or row["reason"] == "taken_down" or row.get("skip") in ("hidden", "video"):
        return False
    version = version_of(live)
    if keeps_point and stored is not None and is_same_or_later(version_of(stored), version):
        is_another = live["caption_hash"] not in ("", stored["caption_hash"])
        return is_another and stored["caption_hash"] != (row["caption_hash"] or "")
    if row.get("permanent") or (row["action"] == "skipped" and row["reason"] != "archived"):
        return is_same(version, version_of(row))
    return True
