"""Empty shards, to begin collections with.

The engine syncs each of the 180 files of a shard with 17 indexes: 4 s on a disk, 0.3 s in memory. So an empty shard is
made in memory, and unpacked into the folder of the collection; a further collection of the same kind takes 20 ms.
"""

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import qdrant_edge

from viewfinder.edge.config import field_index, shard_config
from viewfinder.edge.copying import data_of, sync_directory, write_data

_MEMORY = Path("/dev/shm")
_PREFIX = "viewfinder-shard-"
# A shard with its indexes takes 40 MB there until it is packed. Docker gives a container 64, and when these are used up
# the kernel ends the process.
_MIN_FREE_MEMORY = 256_000_000


class TemplateFile(NamedTuple):
    """A file: its path in the shard, its size, and the pieces that are not zero, by offset."""

    path: str
    size: int
    pieces: list[tuple[int, bytes]]


Template: TypeAlias = list[TemplateFile]


@dataclass(frozen=True)
class ShardPlace:
    """A shard to open: its directory, the configuration of its collection, and its payload indexes by field.

    Without `durable` only `Shard.close` makes writes permanent. With less free space than `min_free_bytes` on its disk
    writes are refused.
    """

    directory: Path
    config: Mapping[str, Any]
    indexes: Mapping[str, Any] = field(default_factory=dict)
    durable: bool = True
    min_free_bytes: int = 0

    @property
    def kind(self) -> str:
        """A text that is equal for shards that are equal while they are empty."""
        return json.dumps([self.config, self.indexes, self.durable], sort_keys=True)


TEMPLATES: dict[str, Template] = {}
"""The templates known in this process, by kind."""


def create(place: ShardPlace) -> None:
    """Make an empty shard with its indexes."""
    if (template := TEMPLATES.get(place.kind)) is None:
        template = TEMPLATES[place.kind] = _make(place)
    made = place.directory.with_suffix(".new")
    shutil.rmtree(made, ignore_errors=True)
    for each in template:
        (made / each.path).parent.mkdir(parents=True, exist_ok=True)
        write_data(made / each.path, each.size, each.pieces)
    made.rename(place.directory)
    if place.durable:  # takes a second, and is for a power cut, in which the last moments may be lost
        threading.Thread(target=_sync, args=(place.directory,), daemon=True).start()


def _make(place: ShardPlace) -> Template:
    memory = _folder(_MEMORY)
    remove_left(memory, _PREFIX)
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", dir=memory) as parent:
        directory = Path(parent) / "shard"
        directory.mkdir()
        shard = qdrant_edge.EdgeShard.create(str(directory), shard_config(place.config, durable=place.durable))
        for name, schema in place.indexes.items():
            shard.update(field_index(name, schema))
        shard.close()
        return list(_files(directory))


def _folder(memory: Path) -> Path:
    """Return the folder in which empty shards are made: in memory, if there is enough of it."""
    has_space = memory.is_dir() and shutil.disk_usage(memory).free >= _MIN_FREE_MEMORY
    return memory if has_space else Path(tempfile.gettempdir())


def remove_left(directory: Path, prefix: str) -> None:
    """Remove what killed processes have left: folders whose name is the prefix, the id of their process and more."""
    for each in directory.glob(f"{prefix}*"):
        pid = each.name.removeprefix(prefix).partition("-")[0]
        if not Path("/proc", pid).exists():
            shutil.rmtree(each, ignore_errors=True)


def _files(directory: Path) -> Iterator[TemplateFile]:
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield TemplateFile(str(path.relative_to(directory)), path.stat().st_size, list(data_of(path)))


def _sync(directory: Path) -> None:
    try:
        sync_directory(directory)
    except FileNotFoundError:
        return  # deleted meanwhile
