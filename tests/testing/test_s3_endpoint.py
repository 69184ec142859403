"""The local S3 endpoint for tests and the demo."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from viewfinder.errors import ConfigurationError
from viewfinder.testing.s3 import S3Endpoint

pytestmark = pytest.mark.slow


def _answers(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", urlsplit(url).port or 0)) == 0


def test_endpoints_run_side_by_side_and_stop_with_their_block(tmp_path: Path) -> None:
    with S3Endpoint(tmp_path) as first, S3Endpoint(tmp_path) as second:
        assert first.url != second.url
        assert first.secret_key != second.secret_key
        assert _answers(first.url)
        assert _answers(second.url)
    assert not _answers(first.url)
    assert not _answers(second.url)


def test_a_root_that_is_not_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no directory .*nowhere"), S3Endpoint(tmp_path / "nowhere"):
        pass
