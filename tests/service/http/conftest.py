"""Fixtures of the tests of single images."""

from pathlib import Path

import pytest

from tests.service.conftest import INDEX, World
from tests.service.http.gallery import Gallery


@pytest.fixture
def gallery(served: World, tmp_path: Path) -> Gallery:
    directory = tmp_path / "gallery"
    directory.mkdir()
    live = served.store.collections.live(INDEX)
    assert live is not None
    return Gallery(served, directory, live)
