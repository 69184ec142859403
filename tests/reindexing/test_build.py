"""What must hold before a second collection is built beside the live one."""

from pathlib import Path

import pytest

from viewfinder.errors import ConfigurationError
from viewfinder.models.checkpoint import locate
from viewfinder.reindexing.build import check_room
from viewfinder.store import StoreAddress, open_local
from viewfinder.store.directory import store_directory


def test_an_embedded_store_needs_room_for_a_second_collection(tmp_path: Path, tiny_model: str) -> None:
    checkpoint = locate(tiny_model)
    with open_local(StoreAddress(data_dir=tmp_path)) as store:
        live = store.collections.open("images", checkpoint.identity)
        check_room(store, live, checkpoint)
        # A file that is this long, and takes no room itself.
        with (store_directory(tmp_path) / "vectors").open("wb") as file:
            file.truncate(2**43)
        with pytest.raises(ConfigurationError, match=r"a second collection beside the live one takes about 10.6 TB"):
            check_room(store, live, checkpoint)
