"""Searches by words: analysis, BM25 and filters."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.store.points import AXES, captioned, ids, image_points, opened
from viewfinder.errors import WordsUnavailableError
from viewfinder.store import Search, Store, StoreAddress
from viewfinder.store.directory import open_directory
from viewfinder.store.records import StoredPoint
from viewfinder.store.server import ServerClient
from viewfinder.store.words import words_of, words_to_find
from viewfinder.testing.qdrant import QdrantDouble


def test_words_rank_captions_by_bm25(store: Store, index: str) -> None:
    made = captioned(store, index)
    keys = ids(5)
    red, car, nothing = store.search.many(
        made, [Search(words="RED"), Search(words="car, bicycle"), Search(words="zebra")]
    )
    # The second caption has the word twice and is one word longer; of the cars the shorter caption is first.
    assert [hit.id for hit in red] == [keys[1], keys[0]]
    assert [hit.id for hit in car] == [keys[0], keys[2]]
    assert nothing == []
    # BM25 with k1 1.2, b 0.75: four captions of 3, 4, 9 and 2 words, two of which contain the word.
    idf, norm = np.log((4 - 2 + 0.5) / (2 + 0.5) + 1), 1.2 * (1 - 0.75 + 0.75 * 3 / 4.5)
    assert car[0].score == pytest.approx(idf * 2.2 / (1 + norm), abs=1e-5)


def test_searches_by_words_take_filters_thresholds_offsets_and_ids(store: Store, index: str) -> None:
    made = captioned(store, index)
    keys = ids(5)
    best = store.search.many(made, [Search(words="red")])[0][0].score
    filtered, second, above, narrowed = store.search.many(
        made,
        [
            Search(words="red", filter={"format": {"eq": "jpeg"}}),
            Search(words="red", limit=1, offset=1),
            Search(words="red", score_threshold=best - 0.01),
            Search(words="red car", only=keys[1:3], exclude=keys[2:3]),
        ],
    )
    assert [[hit.id for hit in hits] for hits in (filtered, second)] == [[keys[0]], [keys[0]]]
    assert [[hit.id for hit in hits] for hits in (above, narrowed)] == [[keys[1]], [keys[1]]]


def test_invalid_unicode_around_words_is_ignored(store: Store, index: str) -> None:
    made = captioned(store, index)
    assert [hit.id for hit in store.search.many(made, [Search(words="\ud800birds\x00")])[0]] == ids(5)[3:4]


def test_a_search_by_words_on_an_old_server_is_refused_with_its_version(tmp_path: Path) -> None:
    with QdrantDouble(version="1.19.3") as double:
        address = StoreAddress(tmp_path, url=double.url)
        with Store(ServerClient(address), address) as store:
            made = opened(store, "images")
            for ask in (
                lambda: store.search.many(made, [Search(AXES[0]), Search(words="car")]),
                lambda: store.search.groups(made, Search(words="car"), "format"),
            ):
                with pytest.raises(
                    WordsUnavailableError, match=r"version 1\.19.*need Qdrant 1\.20 or newer. Upgrade"
                ) as caught:
                    ask()
                assert double.url not in str(caught.value)  # clients read it
            assert store.search.many(made, [Search(AXES[0])]) == [[]]


# -- Analysis -------------------------------------------------------------------------------------------------------

ANIMALS = {
    "two cats and a dog": ["cat", "CATS", "dogs", "Cat dog"],
    "海滩上的一只猫": ["猫", "海滩", "一只猫", "海滩 猫"],
    "浜辺で眠る猫とネコ": ["猫", "ネコ", "ﾈｺ", "浜辺"],
    "แมวบนชายหาด": ["แมว", "ชายหาด"],
    "고양이가 해변에 있다": ["고양이", "해변"],
    "две кошки на пляже": ["кошка", "пляж"],
    "समुद्र तट पर बिल्ली": ["बिल्ली", "समुद्र"],
    "القطط على الشاطئ": ["قطط"],
    "un café crème": ["café", "cafe\u0301", "CAFÉ", "ｃａｆé"],
    "iPhone手机 on a table": ["手机", "iphone", "iphones"],
    "party 🎉 and ❤\ufe0f time": ["🎉", "❤"],
}


@pytest.mark.parametrize(("caption", "word"), [(each, word) for each, words in ANIMALS.items() for word in words])
def test_a_word_of_a_caption_finds_it_in_every_script(caption: str, word: str) -> None:
    stored = words_of(caption, "english")
    assert set(words_to_find(word, "english")) <= set(stored)
    assert all(each.isalnum() for each in stored)  # no tokenizer cuts them


@pytest.mark.parametrize(("caption", "word"), [("海滩", "滩海"), ("两只猫", "狗"), ("แมว", "หมา"), ("a cat", "a dog")])
def test_another_word_does_not_find_a_caption(caption: str, word: str) -> None:
    assert not set(words_to_find(word, "english")) <= set(words_of(caption, "english"))


@pytest.mark.parametrize(
    ("caption", "word"),
    [
        ("Donau\u00addampf", "Donaudampf"),
        ("\u200ecar\u200f", "car"),
        ("\ufeffcar", "car"),
        ("a\u2060car", "acar"),
        ("می\u200cخواهم", "میخواهم"),
        ("क्\u200dष", "क्ष"),
        ("แมว\u200bบน", "วบ"),
        ("猫\u200b咪", "猫咪"),
        ("red\u200bcar", "car"),
        ("שָׁלוֹם", "שלום"),
        ("قِطّة", "قطة"),
        ("٢٠٢٤", "2024"),
        ("２０２４", "2024"),
    ],
)
def test_invisible_characters_optional_vowels_and_forms_of_digits_do_not_matter(caption: str, word: str) -> None:
    assert set(words_to_find(word, "english")) <= set(words_of(caption, "english"))
    assert set(words_to_find(caption, "english")) <= set(words_of(caption, "english"))


@pytest.mark.parametrize("text", ["", " ", "-- _ !?", "\ud800", "\x00\u200b", "\u0301"])
def test_a_text_without_letters_digits_and_pictographs_has_no_words(text: str) -> None:
    assert words_of(text, "english") == words_to_find(text, "english") == []


@pytest.mark.parametrize(
    ("language", "caption", "word", "found"),
    [
        ("german", "zwei Katzen", "Katze", True),
        ("english", "zwei Katzen", "Katze", False),
        ("none", "two cats", "cat", False),
        ("none", "две кошки", "кошка", True),
    ],
)
def test_the_language_of_a_collection_decides_how_its_words_are_stemmed(
    tmp_path: Path, language: Any, caption: str, word: str, found: bool
) -> None:
    address = StoreAddress(tmp_path, language=language)
    with Store(open_directory(tmp_path), address) as store:
        made = opened(store, "images")
        assert made.metadata.language == language
        store.points.upsert(made, image_points(1, caption=[caption]), wait=True)
    with Store(open_directory(tmp_path), StoreAddress(tmp_path)) as store:
        made = opened(store, "images")
        assert bool(store.search.many(made, [Search(words=word)])[0]) == found
        assert store.points.count(made, {"caption": {"text": word}}) == int(found)


@pytest.mark.parametrize("caption", ["\u0130stanbul", "I\u0307stanbul", "istanbul", "\u0130STANBUL"])
def test_turkish_letters_with_and_without_a_dot_are_two(caption: str) -> None:
    """One was folded to the other, so that the name of a city did not find itself in small letters."""
    assert words_of(caption, "turkish") == words_to_find("istanbul", "turkish") == ["istanbul"]
    assert words_of("ISPARTA", "turkish") == words_to_find("\u0131sparta", "turkish")
    assert words_of("ISPARTA", "turkish") != words_to_find("isparta", "turkish")
    assert words_of("IN", "english") == words_to_find("in", "english")


def test_a_very_long_word_is_compared_as_it_is() -> None:
    assert words_of("x" * 100_000, "english") == ["x" * 100_000]


def test_threads_may_stem_at_once() -> None:
    words = [f"running{chr(97 + n % 26) * (n // 26)}s" for n in range(200)]
    alone = [words_of(each, "french") for each in words]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda each: words_of(each, "french"), words * 5)) == alone * 5


# -- Analysis in stores ----------------------------------------------------------------------------------------------


def test_every_store_finds_and_filters_the_words_of_every_script(store: Store, index: str) -> None:
    made = opened(store, index)
    captions = list(ANIMALS)
    notes = [{"notes": {"long": caption}} for caption in captions]
    store.collections.add_fields(made, {"meta.notes.long": "text"})
    store.points.upsert(made, image_points(len(captions), caption=captions, meta=notes), wait=True)
    asked = [(key, word) for key, each in zip(ids(len(captions)), captions, strict=True) for word in ANIMALS[each]]
    ranked = store.search.many(made, [Search(words=word, limit=20) for _, word in asked])
    filtered = [
        store.search.many(made, [Search(AXES[0], filter={name: {"text": word}}, limit=20) for _, word in asked])
        for name in ("caption", "meta.notes.long")
    ]
    for place, (key, word) in enumerate(asked):
        for found in (ranked, *filtered):
            assert key in {hit.id for hit in found[place]}, word


def test_words_and_composed_names_are_not_part_of_a_payload(store: Store, index: str) -> None:
    made = opened(store, index)
    batch = image_points(1, uri=["s3://b/cafe\u0301"], caption=["two cats"], meta=[{"notes": "long", "n": 1}])
    store.points.upsert(made, batch, wait=True)
    (key,) = ids(1)
    payloads = [
        store.search.nearest(made, AXES[0], limit=1)[0].payload,
        store.search.many(made, [Search(words="cat")])[0][0].payload,
        store.search.groups(made, Search(AXES[0]), "sources")[0].hits[0].payload,
        store.points.records(made, [key])[key].payload,
        next(store.points.iterate(made)).payload,
        store.points.sample_records(made, 1)[0].payload,
    ]
    assert all(set(each) == {*batch.payloads[0], "has_image", "has_caption"} for each in payloads)


def with_fields(changes: Sequence[Mapping[str, Any]]) -> Callable[[str, StoredPoint], StoredPoint]:
    """Return a change that gives the points of `ids` these fields."""
    fields = dict(zip(ids(len(changes)), changes, strict=True))
    return lambda id_, point: StoredPoint({**point.payload, **fields[id_], "run_id": "r"}, point.vectors)


def test_a_text_of_mixed_composition_equals_what_is_typed_in_either_form(store: Store, index: str) -> None:
    """One letter composed and the same letter decomposed in one text: neither form of a filter matched."""
    made = opened(store, index)
    store.collections.add_fields(made, {"meta.place.name": "keyword"})
    mixed, typed = "caf\u00e9 cafe\u0301", ("caf\u00e9 caf\u00e9", "cafe\u0301 cafe\u0301")
    batch = image_points(1, caption=["one"], tags=[[mixed]], meta=[{"place": {"name": mixed}}])
    store.points.upsert(made, batch, wait=True)
    fields = ("tags", "meta.place.name")
    for name in fields:
        assert [store.points.count(made, {name: {"eq": each}}) for each in (*typed, mixed)] == [1, 1, 1]
    change = {"caption": mixed, "tags": ["x", mixed], "meta": {"place": {"name": [mixed]}}}
    assert store.points.update(made, ids(1), with_fields([change])) == 1
    for name in fields:
        assert [store.points.count(made, {name: {"in": [each]}}) for each in typed] == [1, 1]
    assert store.search.facet(made, "tags") == [(typed[0], 1), ("x", 1)]


def test_a_changed_caption_is_found_by_its_new_words_alone(store: Store, index: str) -> None:
    made = opened(store, index)
    store.points.upsert(made, image_points(2, caption=["two cats", "a bus"]), wait=True)
    keys = ids(2)
    changes = [{"caption": "three dogs", "meta": {}}, {"caption": None, "meta": {}}]
    assert store.points.update(made, keys, with_fields(changes)) == 2
    cats, dogs, bus = store.search.many(made, [Search(words=word) for word in ("cat", "dog", "bus")])
    assert ([hit.id for hit in dogs], cats, bus) == (keys[:1], [], [])


# -- Servers without BM25 --------------------------------------------------------------------------------------------


def test_the_index_of_words_is_made_anew_once_the_server_is_upgraded(tmp_path: Path) -> None:
    with QdrantDouble(version="1.19.3") as double:
        address = StoreAddress(tmp_path, url=double.url)
        with Store(ServerClient(address), address) as store:
            made = captioned(store, "images")
            assert not made.ranks_words
            assert store.points.count(made, {"caption": {"text": "birds"}}) == 1  # filters work without BM25
            double.upgrade("1.20.0")
            with pytest.raises(WordsUnavailableError, match=r"made by a Qdrant server older than 1\.20.*again"):
                store.search.many(made, [Search(words="birds")])
            assert opened(store, "images").ranks_words  # as a run of the job opens it
            assert [hit.id for hit in store.search.many(made, [Search(words="birds")])[0]] == ids(5)[3:4]
