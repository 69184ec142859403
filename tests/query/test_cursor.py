"""Cursors: round trip, and refusal of invalid tokens."""

import base64
from dataclasses import replace

import numpy as np
import pytest

from viewfinder.client.requests import MAX_HITS, MAX_RANKED_HITS
from viewfinder.query.cursor import MAX_CURSOR, Cursor, CursorKeys, Place, mark
from viewfinder.query.errors import CursorError
from viewfinder.query.query import Query, QueryPart

KEYS = CursorKeys([b"one key"])
VECTOR = np.random.default_rng(0).normal(size=512).astype(np.float32)
VECTOR /= np.linalg.norm(VECTOR)
CURSOR = Cursor("images__m__f__0001", "d" * 16, Place(20, frozenset({mark("a"), mark("b")}), 0.3125), "text", VECTOR)


@pytest.mark.parametrize(
    "cursor",
    [
        CURSOR,
        Cursor("c", "d" * 16, Place(3, frozenset({mark(1)}))),
        Cursor("c", "d" * 16, Place(0)),
        Cursor("c", "d" * 16, Place(7, score=0.5, after="id")),
        Cursor("c", "d" * 16, Place(MAX_HITS * 9, after="id", value=1_709_078_400_000_001)),
        Cursor("c", "d" * 16, Place(7, after="id", value=0.1)),
        Cursor("c", "d" * 16, Place(7, after="id", value=None)),
    ],
)
def test_a_cursor_survives_encoding_and_decoding(cursor: Cursor) -> None:
    again = Cursor.decode(cursor.encode(KEYS), "d" * 16, KEYS)
    assert again == cursor
    if cursor.vector is None:
        assert again.vector is None
    else:
        np.testing.assert_array_equal(again.vector, cursor.vector)


def test_a_token_is_url_safe_and_within_the_maximum_length() -> None:
    token = CURSOR.encode(KEYS)
    assert token.replace("-", "").replace("_", "").isalnum()
    assert len(token) < 3000
    deepest = Place(2 * MAX_RANKED_HITS, frozenset(mark(number) for number in range(2 * MAX_RANKED_HITS)))
    widest = np.ones(1280, np.float32)  # the largest model of the registry
    assert len(Cursor("c" * 200, "d" * 16, deepest, "text", widest).encode(KEYS)) < MAX_CURSOR


def test_a_token_with_one_changed_character_is_refused() -> None:
    token = CURSOR.encode(KEYS)
    for place in [*range(0, 60), *range(60, len(token), 97), len(token) - 1]:
        other = "A" if token[place] != "A" else "B"
        with pytest.raises(CursorError):
            Cursor.decode(token[:place] + other + token[place + 1 :], CURSOR.digest, KEYS)


@pytest.mark.parametrize(
    "token", ["x", "====", "A" * 400, "not a cursor", "käse", CURSOR.encode(KEYS)[:-5], CURSOR.encode(KEYS) + "AAAA"]
)
def test_an_invalid_token_is_refused(token: str) -> None:
    with pytest.raises(CursorError):
        Cursor.decode(token, CURSOR.digest, KEYS)


def test_a_token_of_another_query_is_refused() -> None:
    with pytest.raises(CursorError, match="another query"):
        Cursor.decode(CURSOR.encode(KEYS), "e" * 16, KEYS)


@pytest.mark.parametrize(
    "cursor",
    [
        Cursor("c", "d" * 16, Place(MAX_HITS + 1)),
        Cursor("c", "d" * 16, Place(-1)),
        Cursor("c", "d" * 16, Place(MAX_HITS + 1, score=0.5, after="id")),
        Cursor("c", "d" * 16, Place(1, after="id", value=float("nan"))),
        Cursor("c", "d" * 16, Place(1), "text", np.array([np.nan], np.float32)),
        Cursor("c", "d" * 16, Place(1), "text", np.zeros(4, np.float32)),
        Cursor("c", "d" * 16, Place(1), "text", np.full(4, 3e38, np.float32)),
        Cursor("c", "d" * 16, Place(1, score=float("nan"))),
        Cursor("c", "d" * 16, Place(1, score=float("-inf"))),
    ],
)
def test_an_impossible_place_is_refused(cursor: Cursor) -> None:
    with pytest.raises(CursorError):
        Cursor.decode(cursor.encode(KEYS), cursor.digest, KEYS)


def test_a_token_of_another_key_is_refused() -> None:
    forged = replace(CURSOR, place=Place(MAX_HITS, score=1.0)).encode(CursorKeys([b"a guess"]))
    with pytest.raises(CursorError, match="signed with a key that is not in use"):
        Cursor.decode(forged, CURSOR.digest, KEYS)


def test_cursors_outlive_a_change_of_keys_until_the_old_one_is_dropped() -> None:
    old, both, new = CursorKeys([b"old"]), CursorKeys([b"new", b"old"]), CursorKeys([b"new"])
    assert Cursor.decode(CURSOR.encode(old), CURSOR.digest, both) == CURSOR
    assert Cursor.decode(CURSOR.encode(both), CURSOR.digest, new) == CURSOR
    with pytest.raises(CursorError):
        Cursor.decode(CURSOR.encode(old), CURSOR.digest, new)


def test_without_keys_in_the_settings_each_process_has_its_own() -> None:
    with pytest.raises(CursorError):
        Cursor.decode(CURSOR.encode(CursorKeys.of([])), CURSOR.digest, CursorKeys.of([]))


def test_only_one_spelling_of_a_token_is_accepted() -> None:
    # A token whose last character has unused bits.
    tokens = [Cursor("c" * length, "d" * 16, Place(3)).encode(KEYS) for length in (1, 2, 3)]
    token = next(each for each in tokens if len(each) % 4)
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    twins = [
        token[:-1] + last
        for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        if last != token[-1] and base64.urlsafe_b64decode(token[:-1] + last + "=" * (-len(token) % 4)) == raw
    ]
    assert twins
    for twin in twins:
        with pytest.raises(CursorError):
            Cursor.decode(twin, "d" * 16, KEYS)


def test_the_digest_depends_only_on_what_decides_the_order() -> None:
    part = (QueryPart("text", "a cat"),)
    same = [Query(part), Query(part, limit=50), Query(part, cursor="x"), Query(part, filter={})]
    others = [
        Query((QueryPart("text", "a dog"),)),
        Query((QueryPart("text", "a cat", 2.0),)),
        Query((QueryPart("image", b"a cat"),)),
        Query(part, target="both"),
        Query(part, rank="words"),
        Query(part, rank="hybrid"),
        Query(part, rank="hybrid", weights=(1.0, 2.0)),
        Query(part, filter={"width": {"gte": 3}}),
        Query(part, score_threshold=0.0),
        Query(part, diversity=0.5),
        Query(part, diversity=0.5, limit=50),
        Query(part, group_by="tags"),
    ]
    assert len({query.digest() for query in same}) == 1
    assert len({query.digest() for query in [same[0], *others]}) == len(others) + 1
