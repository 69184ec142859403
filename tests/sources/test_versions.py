"""When an object counts as unchanged."""

import pytest

from viewfinder.sources.versions import (
    Version,
    clean_etag,
    constant_etags,
    is_listed,
    is_probably_same,
    is_same,
    version_read,
)

DIGEST, OTHER = "0cc175b9c0f1b6a831c399e269772661", "92eb5ffee6ae2fec3ad71c777531578f"
PARTS = f"{DIGEST}-12"
NOTHING = "d41d8cd98f00b204e9800998ecf8427e"
EARLY, LATE = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "etag"),
    [
        (f'"{DIGEST}"', DIGEST),
        (f'W/"{DIGEST}"', DIGEST),
        (f"W/{DIGEST}", DIGEST),
        (f' "{DIGEST.upper()}" ', DIGEST),
        (f'"{PARTS.upper()}"', PARTS),
        ('W/"abc"', "abc"),
        ('"0x8DA"', "0x8DA"),
        ('""', ""),
        ("", ""),
        (None, ""),
    ],
)
def test_quotes_and_the_weak_prefix_are_no_part_of_an_etag(text: str | None, etag: str) -> None:
    assert clean_etag(text) == etag


@pytest.mark.parametrize(
    ("known", "listed", "same"),
    [
        # digests
        (Version(DIGEST, 5, EARLY), Version(DIGEST, 5, LATE), True),  # the same bytes, written again
        (Version(PARTS, 5, EARLY), Version(PARTS, 5, LATE), True),
        (Version(DIGEST, 5, EARLY), Version(OTHER, 5, EARLY), False),
        (Version(DIGEST, 5, EARLY), Version(PARTS, 5, EARLY), False),
        (Version(DIGEST, 5, EARLY), Version(DIGEST, 6, EARLY), False),
        (Version(DIGEST), Version(DIGEST, 5, LATE), True),  # a manifest without sizes
        (Version(DIGEST, 5, EARLY), Version(DIGEST), True),
        # other ETags count with the time
        (Version("abc", 5, EARLY), Version("abc", 5, EARLY), True),
        (Version("abc", 5, EARLY), Version("abc", 5, LATE), False),
        (Version("abc", 5, EARLY), Version("abd", 5, EARLY), False),
        (Version("abc", 5, ""), Version("abc", 5, LATE), True),
        # digests that say nothing
        (Version(NOTHING, 5, EARLY), Version(NOTHING, 5, LATE), False),
        (Version(NOTHING, 5, EARLY), Version(NOTHING, 5, EARLY), True),
        (Version(NOTHING, 0, EARLY), Version(NOTHING, 0, LATE), True),
        (Version("0" * 32, 5, EARLY), Version("0" * 32, 5, LATE), False),
        # no ETag
        (Version("", 5, EARLY), Version("", 5, EARLY), True),
        (Version("", 5, EARLY), Version("", 5, LATE), False),
        (Version("", 5, EARLY), Version("", 6, EARLY), False),
        (Version("", 5, ""), Version("", 5, ""), False),
        (Version("", -1, EARLY), Version("", 5, EARLY), False),
        (Version(DIGEST, 5, EARLY), Version("", 5, EARLY), True),
        (Version("", 5, EARLY), Version(DIGEST, 5, LATE), False),
        (Version(""), Version(""), False),
    ],
)
def test_versions_are_the_same_by_the_rule(known: Version, listed: Version, same: bool) -> None:
    assert is_same(known, listed) is same
    assert is_same(listed, known) is same


@pytest.mark.parametrize(
    ("listed", "read", "recorded"),
    [
        (Version(DIGEST, 5, EARLY), Version(DIGEST, 5, EARLY), "listed"),
        (Version("listing's", 5, EARLY), Version("GET's", 5, EARLY), "listed"),  # two ETags for the same object
        (Version("", 5, EARLY), Version(DIGEST, 5, EARLY), "listed"),
        (Version("listing's", 5, EARLY), Version("GET's", 5, "2026-01-01T00:00:01Z"), "listed"),  # a rounded time
        (Version("listing's", 5, EARLY), Version("GET's", 5, "2026-01-01T00:00:02Z"), "read"),
        (Version("listing's", 5, ""), Version("GET's", 5, EARLY), "read"),  # it may have changed
        (Version(DIGEST, 5, EARLY), Version(DIGEST, 8, EARLY), "listed"),  # a gateway has decoded it
        (Version("abc", 5, EARLY), Version("abc", 3, EARLY), "listed"),
        (Version(DIGEST, 5, EARLY), Version(OTHER, 5, LATE), "read"),  # it changed in between
        (Version(DIGEST, 5, EARLY), Version(OTHER, 5, EARLY), "read"),  # within the second
        (Version(DIGEST, 5, EARLY), Version(OTHER, 6, EARLY), "read"),
        (Version("", -1, ""), Version(DIGEST, 5, LATE), "read"),
        (Version(DIGEST, -1, ""), Version(DIGEST, 5, LATE), "read"),
    ],
)
def test_the_version_of_the_listing_is_recorded_unless_the_object_changed(
    listed: Version, read: Version, recorded: str
) -> None:
    assert version_read(listed, read) == (listed if recorded == "listed" else read)


@pytest.mark.parametrize(
    ("read", "listed"),
    [
        (Version(OTHER, 740, EARLY), False),  # rewritten within the second
        (Version(DIGEST, 740, EARLY), True),
        (Version("opaque", 740, EARLY), True),
        (Version("opaque", 740, LATE), False),
    ],
)
def test_an_object_has_changed_since_its_listing_if_both_etags_are_digests(read: Version, listed: bool) -> None:
    assert is_listed(Version(DIGEST, 1149, EARLY), read) is listed


def test_an_etag_of_objects_with_different_sizes_says_nothing() -> None:
    listed = [
        Version("same", 1),
        Version("same", 2),
        Version(DIGEST, 3),
        Version(DIGEST, 3),
        Version("", 4),
        Version("x"),
    ]
    assert constant_etags(listed) == {"same"}


@pytest.mark.parametrize(
    ("known", "listed", "same"),
    [
        (Version(DIGEST, 5, EARLY), Version(PARTS, 5, EARLY), True),  # another form of ETag
        (Version(DIGEST, 5, EARLY), Version("abc", 5, EARLY), True),
        (Version("", 5, EARLY), Version(DIGEST, 5, EARLY), True),
        (Version("", 5, EARLY), Version("abc", 5, EARLY), True),
        (Version("0", 5, EARLY), Version("abc", 5, EARLY), True),  # an endpoint that had one ETag for all objects
        (Version("abc", 5, EARLY), Version("abd", 5, EARLY), False),
        (Version(DIGEST, 5, EARLY), Version(OTHER, 5, EARLY), False),  # two contents within one second
        (Version("5-1767225600000000001", 5, EARLY), Version("5-1767225600000000002", 5, EARLY), False),  # local files
        (Version(DIGEST, 5, EARLY), Version(PARTS, 5, LATE), False),
        (Version(DIGEST, 5, EARLY), Version(PARTS, 6, EARLY), False),
        (Version(DIGEST, 5, ""), Version(PARTS, 5, ""), False),
    ],
)
def test_a_content_is_probably_the_same_if_only_the_form_of_its_etag_differs(
    known: Version, listed: Version, same: bool
) -> None:
    assert is_probably_same(known, listed) is same
