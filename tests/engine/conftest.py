"""Engines in this process over a few photos."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.photos import NAMES, Open
from tests.indexing.sample_images import fill
from viewfinder import ImageSearchEngine


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    directory = tmp_path / "photos"
    fill(directory, NAMES)
    (directory / "notes.txt").write_text("not an image")
    return directory


@pytest.fixture
def local(tmp_path: Path, tiny_model: str) -> Iterator[Open]:
    """Return a function that opens engines on one data directory; close them all after the test."""
    opened: list[ImageSearchEngine] = []

    def open_(**options: Any) -> ImageSearchEngine:
        options = {"model_name": tiny_model, "data_dir": tmp_path / "data", **options}
        opened.append(ImageSearchEngine(mode="local", **options))
        return opened[-1]

    yield open_
    for engine in opened:
        engine.close()
