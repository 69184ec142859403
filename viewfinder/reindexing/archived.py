"""Images that a model change would lose because their objects have been archived since they were indexed."""

from collections.abc import Callable, Iterator, Sequence

import pyarrow.compute as pc
import pyarrow.parquet as pq

from viewfinder.errors import ViewfinderError
from viewfinder.indexing.compare import version_of_state
from viewfinder.sources.manifest import Manifest
from viewfinder.sources.uris import point_id
from viewfinder.sources.versions import is_same_or_later
from viewfinder.store import Collection, PointState, Store
from viewfinder.wording import counted

_URIS_PER_LOOKUP = 1000


class LossRefusedError(ViewfinderError):
    """A model change would lose more archived images than are allowed."""


def check_loss(
    store: Store,
    live: Collection,
    new: Collection,
    manifest: Manifest,
    restored: Callable[[Sequence[str]], set[str]],
    *,
    allowed: int,
) -> None:
    """Raise `LossRefusedError`, before anything is encoded, if the listing already shows too many archived images.

    They are the images of the live collection whose objects are archived, so that the new model cannot encode them.
    `restored` returns those of some objects that can be read although they are listed as archived.
    """
    count, example = 0, ""
    for uris in _archived(manifest):
        ids = {point_id(uri): uri for uri in uris}
        built = store.points.states(new, list(ids))
        images = {id_: state for id_, state in store.points.states(live, list(ids)).items() if state.has_image}
        lost = [ids[id_] for id_, state in images.items() if id_ not in built or not _is_as_good(built[id_], state)]
        readable = restored(lost)
        lost = [uri for uri in lost if uri not in readable]
        count += len(lost)
        example = example or next(iter(lost), "")
    if count > allowed:
        raise LossRefusedError(
            f"{counted(count, 'archived image')} of {live.name} would be lost, because the new model cannot read "
            f"archived objects, for example {example!r}. --allow-loss {allowed:,} is the limit. Restore the objects, "
            f"or allow the loss with --allow-loss {count}."
        )


def _is_as_good(built: PointState, live: PointState) -> bool:
    return is_same_or_later(version_of_state(built), version_of_state(live))


def _archived(manifest: Manifest) -> Iterator[Sequence[str]]:
    """Yield pages of the URIs of archived objects."""
    for path in manifest.paths:
        for batch in pq.ParquetFile(path).iter_batches(columns=["uri", "skip"]):
            uris = batch.filter(pc.fill_null(pc.equal(batch["skip"], "archived"), False))["uri"].to_pylist()
            yield from (uris[start : start + _URIS_PER_LOOKUP] for start in range(0, len(uris), _URIS_PER_LOOKUP))
