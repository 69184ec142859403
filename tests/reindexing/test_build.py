"""Disk space for a second collection beside the live one."""

import shutil
from pathlib import Path

import pytest

from viewfinder.edge.copying import stored_bytes
from viewfinder.errors import ConfigurationError
from viewfinder.models.checkpoint import locate
from viewfinder.reindexing.build import check_disk_space
from viewfinder.store.directory import store_directory
from viewfinder.store.schema import ModelIdentity
from viewfinder.testing.memory_store import open_in_memory


def test_an_embedded_store_needs_disk_space_for_a_second_collection(tmp_path: Path, tiny_model: str) -> None:
    checkpoint = locate(tiny_model)
    with open_in_memory(tmp_path) as store:
        live = store.collections.open("images", ModelIdentity.of(checkpoint))
        check_disk_space(store, live, checkpoint)
        needed = stored_bytes(store_directory(tmp_path)) * 1.2
        almost = shutil.disk_usage(tmp_path)._replace(free=round(needed) - 1)
        with pytest.raises(ConfigurationError, match=r"a second collection beside the live one needs about \d"):
            check_disk_space(store, live, checkpoint, disk_usage=lambda _: almost)
