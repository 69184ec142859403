"""The painted world: the same seed gives the same scenes, and training never sees the queries' phrasings."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from demo import phrases, places, scenes
from demo.vocabulary import GROUPS, PLACES, THINGS, Thing

try:
    scenes.find_font()
    font_missing = ""
except scenes.FontMissingError as error:
    font_missing = str(error)
needs_font = pytest.mark.skipif(bool(font_missing), reason=font_missing)


def test_a_seed_and_an_index_decide_what_a_scene_shows() -> None:
    assert scenes.compose(5, 3) == scenes.compose(5, 3)
    assert scenes.compose(5, 3).record() == scenes.compose(5, 3).record()
    assert scenes.compose(5, 3) != scenes.compose(5, 4)
    assert scenes.compose(5, 3).items != scenes.compose(6, 3).items


@pytest.mark.parametrize("number", [0, 3])
def test_a_round_shows_every_thing_in_every_place_and_in_three_of_them_two_of_it(number: int) -> None:
    shown = {
        (item.thing.emoji, scene.place.name): item.count
        for scene in (scenes.compose(5, number * scenes.ROUND + index) for index in range(scenes.ROUND))
        for item in scene.items
    }

    assert len(shown) == len(THINGS) * len(PLACES)
    for thing in THINGS:
        assert sorted(shown[thing.emoji, place.name] for place in PLACES) == [1] * 7 + [2] * 3


def test_a_scene_shows_one_thing_or_two_of_a_thing_or_two_things() -> None:
    kinds = Counter(tuple(item.count for item in scenes.compose(5, index).items) for index in range(scenes.ROUND))

    assert kinds.keys() == {(1,), (2,), (1, 1)}
    assert kinds[2,] == 3 * len(THINGS)
    assert kinds[1, 1] == len(PLACES) * (len(THINGS) - scenes.SCENES_PER_PLACE)


@needs_font
def test_a_seed_and_an_index_decide_every_pixel() -> None:
    first = scenes.paint(5, 0).tobytes()
    scenes.paint(5, 1)

    assert scenes.paint(5, 0).tobytes() == first


@needs_font
@pytest.mark.parametrize("size", [64, 256, 300])
def test_a_scene_is_a_square_image_of_the_given_size(size: int) -> None:
    image = scenes.paint(5, 2, size)

    assert (image.mode, image.size) == ("RGB", (size, size))


@needs_font
@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.names[0])
def test_the_font_has_every_thing(thing: Thing) -> None:
    sprite = scenes.sprite(thing.emoji)

    assert min(sprite.size) > 30
    assert len(set(sprite.convert("RGB").reduce(4).tobytes())) > 8, "a box in one colour stands for a missing glyph"


@pytest.mark.parametrize("index", range(100))
def test_captions_and_queries_name_the_place_and_every_thing(index: int) -> None:
    scene = scenes.compose(11, index)
    record = scene.record()

    for field, of_place, of_thing in (
        ("caption", (*scene.place.nouns, *scene.place.wheres), "names"),
        ("query", (*scene.place.nouns, *scene.place.wheres), "names"),
        ("caption_zh", (*scene.place.nouns_zh, *scene.place.wheres_zh), "names_zh"),
        ("query_zh", (*scene.place.nouns_zh, *scene.place.wheres_zh), "names_zh"),
    ):
        assert any(words in record[field] for words in of_place), (field, record)
        for item in scene.items:
            names = [name.removeprefix("~") for name in getattr(item.thing, of_thing)]
            forms = [*names, *map(phrases.plural, names)]
            assert any(form in record[field] for form in forms), (field, item.thing.names, record)


def test_the_templates_of_queries_and_of_training_are_disjoint() -> None:
    assert not set(phrases.QUERIES) & {*phrases.CAPTIONS, *phrases.PARTIAL, *phrases.SHORT}
    assert not set(phrases.QUERIES_ZH) & {*phrases.CAPTIONS_ZH, *phrases.PARTIAL_ZH, *phrases.SHORT_ZH}


@pytest.mark.parametrize(("language", "field"), [("en", "query"), ("zh", "query_zh")])
def test_training_never_draws_a_query(language: phrases.Language, field: str) -> None:
    """Also a telegram of a caption, or a partial text, must not come out as one of the held-out phrasings."""
    for index in range(250):
        scene = scenes.compose(12, index)
        rng = Random(index)
        drawn = {phrases.training_text(rng, scene.place, scene.items, language).text for _ in range(40)}
        asked = {
            phrases.fill(language, rng, template, scene.place, scene.items)
            for template in phrases.HELD_OUT[language]
            for _ in range(8)
        }
        assert not drawn & asked, field


def test_what_a_training_text_claims_is_true_of_its_scene() -> None:
    rng = Random(0)
    for index in range(300):
        scene = scenes.compose(13, index)
        text = phrases.training_text(rng, scene.place, scene.items, "en")
        assert text.claims <= phrases.facts(scene.place, scene.items), text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_short_text_names_a_thing_or_group_or_place(language: phrases.Language) -> None:
    rng = Random(0)
    texts = [phrases.short_text(rng, language) for _ in range(3_000)]

    assert all(1 <= len(text.claims) <= 3 and not text.complete for text in texts)
    stated = {fact for text in texts for fact in text.claims}
    assert {phrases.FACTS["thing", thing.emoji] for thing in THINGS} <= stated
    assert {phrases.FACTS["place", place.name] for place in PLACES} <= stated


def test_every_thing_has_a_name_that_can_be_counted() -> None:
    assert all(phrases.countable(thing) for thing in THINGS)


def test_what_is_there_twice_is_in_the_plural() -> None:
    texts = [scenes.compose(2, index).record() for index in range(scenes.ROUND)]
    assert not [each for each in texts if "there is two" in each["caption"] or "there are a" in each["caption"]]


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("cat", "cats"),
        ("strawberry", "strawberries"),
        ("fox", "foxes"),
        ("mouse", "mice"),
        ("slice of pizza", "slices of pizza"),
        ("monkey", "monkeys"),
        ("torch", "torches"),
    ],
)
def test_a_plural_is_regular_or_listed(noun: str, expected: str) -> None:
    assert phrases.plural(noun) == expected


@pytest.mark.parametrize(
    ("noun", "expected"), [("cat", "a cat"), ("owl", "an owl"), ("ewe", "a ewe"), ("UFO", "a UFO")]
)
def test_a_noun_gets_the_article_of_its_sound(noun: str, expected: str) -> None:
    assert phrases.indefinite(noun) == expected


def test_no_word_stands_for_two_things() -> None:
    for field in ("names", "names_zh"):
        names = [name for thing in THINGS for name in getattr(thing, field)]
        assert len(names) == len(set(names))


def test_every_place_has_a_painter_and_every_group_is_known() -> None:
    assert set(places.PAINTERS) == {place.name for place in PLACES}
    assert {group for thing in THINGS for group in thing.groups} == set(GROUPS)


@needs_font
def test_the_command_writes_images_and_their_captions(tmp_path: Path) -> None:
    assert scenes.main(["--seed", "9", "--count", "3", "--out", str(tmp_path), "--workers", "1"]) == 0

    lines = (tmp_path / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [scenes.compose(9, index).record() for index in range(3)]
    assert all((tmp_path / json.loads(line)["key"]).stat().st_size > 2_000 for line in lines)


def test_without_the_font_the_command_names_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = scenes.main(
        ["--seed", "9", "--count", "3", "--out", str(tmp_path / "out")], font_paths=[tmp_path / "NotoColorEmoji.ttf"]
    )

    assert status == 2
    assert "fonts-noto-color-emoji" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--count", "0"], ["--size", "8"], ["--seed", "-1"]])
def test_numbers_out_of_range_are_refused(options: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_info:
        scenes.main(["--seed", "9", "--count", "3", "--out", str(tmp_path), *options])

    assert exit_info.value.code == 2
