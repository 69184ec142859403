"""The version of the decoder, which is stored with each permanent failure."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from viewfinder.images.decoding import ImageLimits
from viewfinder.indexing.failures import decoder_version

LIMITS = ImageLimits(max_bytes=10**6, max_pixels=10**6)


def test_it_is_short_and_names_the_releases() -> None:
    version = decoder_version(LIMITS)
    assert version.startswith("viewfinder-")
    assert "/pillow-" in version
    assert len(version) < 80
    assert version.isascii()


@pytest.mark.slow
def test_the_version_is_the_same_in_every_process() -> None:
    code = (
        "from viewfinder.images.decoding import ImageLimits\n"
        "from viewfinder.indexing.failures import decoder_version\n"
        "print(decoder_version(ImageLimits(max_bytes=10**6, max_pixels=10**6)))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == decoder_version(LIMITS)


@pytest.mark.parametrize("limits", [{"max_bytes": 10**7}, {"max_pixels": 10**7}, {"min_decoded_ratio": 0.5}])
def test_another_limit_is_another_version(limits: dict[str, Any]) -> None:
    assert decoder_version(replace(LIMITS, **limits)) != decoder_version(LIMITS)


def test_another_library_is_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = decoder_version(LIMITS)
    decoder_version.cache_clear()
    monkeypatch.setattr("PIL.features.version", lambda name: "0.0.0")
    assert decoder_version(LIMITS) != before
    decoder_version.cache_clear()
