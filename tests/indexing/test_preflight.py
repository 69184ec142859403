"""Sources that cannot be listed, and sources whose name a person typed in another spelling."""

import unicodedata

import pytest

from viewfinder.errors import SourceError, SourceUnavailableError
from viewfinder.indexing.preflight import reachable
from viewfinder.testing.objects import MemoryObjects

DECOMPOSED = unicodedata.normalize("NFD", "s3://b/Été")
COMPOSED = unicodedata.normalize("NFC", DECOMPOSED)
OBJECTS = MemoryObjects({f"{DECOMPOSED}/1.jpg": b"x", "s3://b/p/1.jpg": b"x"})


def test_a_source_that_is_gone_is_returned_with_the_reason() -> None:
    found, gone = reachable(["s3://b/p", "s3://b/gone/", "s3://b/p/"], OBJECTS.check)
    assert found == ["s3://b/p"]
    assert list(gone) == ["s3://b/gone"]
    assert "s3://b/gone" in gone["s3://b/gone"]


def test_if_all_sources_are_gone_the_first_one_is_the_error() -> None:
    with pytest.raises(SourceError, match="s3://b/one"):
        reachable(["s3://b/one", "s3://b/two"], OBJECTS.check)


@pytest.mark.parametrize("typed", [COMPOSED, DECOMPOSED])
def test_a_source_is_found_in_another_spelling_of_its_name(typed: str) -> None:
    assert reachable([typed], OBJECTS.check) == ([DECOMPOSED], {})


def test_an_endpoint_that_is_overloaded_is_not_a_source_that_is_gone() -> None:
    """One answer 500 left a source out of the run, and made a model change impossible."""

    def check(uri: str) -> None:
        if uri == "s3://b/busy":
            raise SourceUnavailableError("S3 answered SlowDown.")

    with pytest.raises(SourceUnavailableError):
        reachable(["s3://b/p", "s3://b/busy"], check)
