"""API keys in settings and requests."""

import hashlib

import pytest
from pydantic import SecretStr

from viewfinder.errors import ConfigurationError
from viewfinder.service.http.keys import Key, KeyRing, presented_key
from viewfinder.settings import Settings

DIGEST = hashlib.sha256(b"correct horse").hexdigest()
OTHER = hashlib.sha256(b"battery staple").hexdigest()


def test_a_key_is_found_by_its_digest_at_any_position() -> None:
    ring = KeyRing([SecretStr(OTHER), SecretStr(f"{DIGEST}:admin")])
    assert ring.find(b"correct horse") == Key(DIGEST[:8], "admin")
    assert ring.find(b"battery staple") == Key(OTHER[:8], "read")
    assert ring.find(b"correct horse ") is None
    assert ring.find(DIGEST.encode()) is None


def test_a_ring_without_keys_matches_no_key() -> None:
    assert not KeyRing([])
    assert KeyRing([]).find(b"") is None


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([(b"authorization", b"Bearer abc")], b"abc"),
        ([(b"Authorization", b"BEARER  abc ")], b"abc"),
        ([(b"authorization", b"Basic abc")], None),
        ([(b"authorization", b"Basic abc"), (b"x-api-key", b"def")], b"def"),
        ([(b"authorization", b"Bearer abc"), (b"x-api-key", b"def")], b"abc"),
        ([(b"x-api-key", b"")], None),
    ],
)
def test_a_key_is_read_from_either_header(headers: list[tuple[bytes, bytes]], key: bytes | None) -> None:
    assert presented_key(headers) == key


def test_settings_take_digests_with_and_without_scope() -> None:
    settings = Settings.load({}, api_keys=f" {DIGEST.upper()} , {OTHER}:admin,")
    assert [entry.get_secret_value() for entry in settings.api_keys] == [DIGEST, f"{OTHER}:admin"]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("hunter2", "entry 1 of 1"),
        (f"{DIGEST},hunter2", "entry 2 of 2"),
        (f"{DIGEST}:root", "entry 1 of 1"),
        (f"{DIGEST[:-1]}", "entry 1 of 1"),
        (f"{DIGEST}:admin:admin", "entry 1 of 1"),
        (f"{DIGEST},{DIGEST}:admin", "entry 2 of 2 repeats an earlier digest"),
    ],
)
def test_settings_refuse_an_invalid_digest_without_repeating_it(value: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings.load({"VIEWFINDER_API_KEYS": value})
    assert "VIEWFINDER_API_KEYS" in str(raised.value)
    assert named in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert DIGEST[:12] not in str(raised.value)


def test_digests_do_not_show_in_a_record_of_settings() -> None:
    settings = Settings.load({}, api_keys=DIGEST)
    assert DIGEST not in f"{settings!r} {settings} {settings.model_dump()}"


@pytest.mark.parametrize(
    "origin", ["example.org", "https://example.org/", "https://a.example/path", "ftp://x", "https://"]
)
def test_settings_refuse_an_invalid_origin(origin: str) -> None:
    with pytest.raises(ConfigurationError, match="VIEWFINDER_CORS_ORIGINS"):
        Settings.load({"VIEWFINDER_CORS_ORIGINS": origin})
