"""Texts for a scene: captions for training, and queries that training never sees.

A template is a format string over the parts of a scene:
    {things}  "a cat and two dogs"      一只猫和两只狗       {where}  "on the beach"    海滩上
    {bare}    "cat, dogs"               猫、狗              {place}  "beach"           海滩
    {words}   "cat dogs"                猫 狗                {are}    "is"
Captions and queries draw on disjoint lists of templates; the words for things and places are shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from demo.vocabulary import GROUPS, PLACES, THINGS, Place, Thing

CAPTIONS = (
    "{things} {where}",
    "{things} {where}.",
    "a picture of {things} {where}",
    "a photo of {things} {where}",
    "an image showing {things} {where}",
    "there {are} {things} {where}",
    "{where}, {things}",
    "{where} there {are} {things}",
    "{place} with {things}",
    "a {place} scene with {things}",
    "{things} in front of a {place} background",
    "this picture shows {things} {where}",
    "we see {things} {where}",
    "a drawing of {things}, {place}",
    "{place}: {things}",
    "{place}, {bare}",
    "{bare} {where}",
    "{place} {words}",
    "{bare} - {place}",
    "{words} {where}",
)
QUERIES = (
    "{words} {place}",
    "find {things} {where}",
    "show me {things} {where}",
    "I am looking for {things} {where}",
    "pictures with {things} {where}",
    "{bare}, {place}",
    "a scene {where} that has {things}",
    "{place} photo containing {things}",
    "do you have {things} {where}?",
)
CAPTIONS_ZH = (
    "{where}有{things}",
    "{where}的{things}",
    "{things}在{where}",
    "图中{where}有{things}",
    "一张{things}在{where}的照片",
    "这是{where}的{things}",
    "{place}，{bare}",
    "{place}：{things}",
    "{where}，{things}",
    "画面里是{things}，背景是{place}",
    "{place} {words}",
    "{bare}在{where}",
)
QUERIES_ZH = (
    "{words} {place}",
    "{bare}，{place}",
    "找{where}有{things}的图片",
    "我想看{where}的{things}",
    "{place}照片，里面有{things}",
    "搜索{things}，{where}",
)
Language = Literal["en", "zh"]
HELD_OUT: dict[Language, tuple[str, ...]] = {"en": QUERIES, "zh": QUERIES_ZH}
# For training only: keyword-like texts, and texts without the place or some of the things.
PARTIAL = (
    "{things}",
    "{bare}",
    "{words}",
    "a picture of {things}",
    "a photo of {things}",
    "{things} {where}",
    "{place}",
)
PARTIAL_ZH = ("{things}", "{bare}", "{words}", "{things}的照片", "{where}有{things}", "{place}")

# For training only: what people type first. Each stands for all scenes of which it is true.
SHORT = (
    "{bare}",
    "{bare}",
    "{things}",
    "{things}",
    "a picture of {things}",
    "{bare} {where}",
    "{things} {where}",
    "{things} {where}",
    "{place} with {things}",
    "{place}",
)
SHORT_ZH = (
    "{bare}",
    "{bare}",
    "{things}",
    "{things}",
    "{where}的{bare}",
    "{where}有{things}",
    "{things}在{where}",
    "{place}",
)

_SMALL_WORDS = frozenset(("a", "an", "the", "some", "and", "of", "is", "there"))
_NUMBERS_ZH = {1: "一", 2: "两"}
_IRREGULAR = {
    "loaf": "loaves",
    "mouse": "mice",
    "sheep": "sheep",
    "fish": "fish",
    "tropical fish": "tropical fish",
    "clownfish": "clownfish",
    "deer": "deer",
    "reindeer": "reindeer",
    "cactus": "cacti",
    "octopus": "octopuses",
    "maple leaf": "maple leaves",
    "red leaf": "red leaves",
    "autumn leaf": "autumn leaves",
    "aircraft": "aircraft",
    "means of transport": "means of transport",
}


@dataclass(frozen=True)
class Item:
    """A kind of thing in a scene, and its number: one or two."""

    thing: Thing
    count: int


@dataclass(frozen=True)
class Text:
    """A text and the facts that it states, as `FACTS` ids. `complete` if it names the place and every thing."""

    text: str
    claims: frozenset[int]
    complete: bool


# Everything that a text can state, numbered: a place, a thing, two of a thing, a group that a thing belongs to.
FACTS: dict[tuple[str, ...], int] = {
    fact: number
    for number, fact in enumerate(
        [("place", place.name) for place in PLACES]
        + [("thing", thing.emoji) for thing in THINGS]
        + [("two", thing.emoji) for thing in THINGS]
        + [("group", group) for group in GROUPS]
    )
}


def facts(place: Place, items: Sequence[Item]) -> frozenset[int]:
    """All facts that are true of a scene."""
    found = {FACTS["place", place.name]}
    for item in items:
        found.add(FACTS["thing", item.thing.emoji])
        found.update(FACTS["group", group] for group in item.thing.groups)
        if item.count > 1:
            found.add(FACTS["two", item.thing.emoji])
    return frozenset(found)


def plural(noun: str) -> str:
    """The plural of an English noun phrase: its head is the last word, or the one before "of"."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    head, of, rest = noun.partition(" of ")
    if of:
        return plural(head) + of + rest
    if head.endswith(("s", "x", "ch", "sh")):
        return head + "es"
    if head.endswith("y") and head[-2] not in "aeiou":
        return head[:-1] + "ies"
    return head + "s"


def indefinite(noun: str) -> str:
    """The noun with its article: "a cat", "an owl", "a UFO"."""
    vowel = noun[0] in "aeiou" and not noun.startswith(("uni", "ewe"))
    return f"{'an' if vowel else 'a'} {noun}"


def fill(
    language: Language, rng: Random, template: str, place: Place, items: Sequence[Item], general: str | None = None
) -> str:
    """Fill a template of the language, drawing each word from its synonyms."""
    return (english if language == "en" else chinese)(rng, template, place, items, general)


def english(rng: Random, template: str, place: Place, items: Sequence[Item], general: str | None = None) -> str:
    """Fill an English template; `general`, if given, replaces the name of the first thing ("animal")."""
    nouns = [rng.choice(countable(item.thing) if item.count > 1 else item.thing.names) for item in items]
    if general:
        nouns[0] = general
    counted = [_counted(noun, item.count) for noun, item in zip(nouns, items, strict=True)]
    bare = [_bare(noun, item.count) for noun, item in zip(nouns, items, strict=True)]
    return template.format(
        things=_listed(counted, ", ", " and "),
        bare=", ".join(bare),
        words=" ".join(bare),
        are="are" if items and items[0].count > 1 else "is",
        where=rng.choice(place.wheres),
        place=rng.choice(place.nouns),
    )


def chinese(rng: Random, template: str, place: Place, items: Sequence[Item], general: str | None = None) -> str:
    """Fill a Chinese template; `general` as for `english`."""
    nouns = [rng.choice(item.thing.names_zh) for item in items]
    if general:
        nouns[0] = general
    counted = [f"{_NUMBERS_ZH[item.count]}{item.thing.measure}{noun}" for noun, item in zip(nouns, items, strict=True)]
    return template.format(
        things=_listed(counted, "、", "和"),
        bare="、".join(nouns),
        words=" ".join(nouns),
        where=rng.choice(place.wheres_zh),
        place=rng.choice(place.nouns_zh),
    )


def training_text(rng: Random, place: Place, items: Sequence[Item], language: Language) -> Text:
    """Draw a text for training: mostly a caption; sometimes keywords, a general word, or a part of the content."""
    captions, partials = (CAPTIONS, PARTIAL) if language == "en" else (CAPTIONS_ZH, PARTIAL_ZH)
    chosen = rng.sample(list(items), len(items))
    template = rng.choice(captions)
    if rng.random() < 0.35:
        template = rng.choice(partials)
        chosen = chosen[: rng.randint(1, len(chosen))]
    if template == "{place}":
        chosen = []
    group = rng.choice(chosen[0].thing.groups) if chosen and rng.random() < 0.1 else None
    general = rng.choice(GROUPS[group][language == "zh"]) if group else None
    text = fill(language, rng, template, place, chosen, general)
    if language == "en" and rng.random() < 0.2:
        text = telegram(text)

    names_place = "{place}" in template or "{where}" in template
    claims = {FACTS["place", place.name]} if names_place else set()
    for item in chosen[1:] if group else chosen:
        claims.add(FACTS["thing", item.thing.emoji])
        if item.count > 1 and "{things}" in template:
            claims.add(FACTS["two", item.thing.emoji])
    if group:
        claims.add(FACTS["group", group])
    return Text(text, frozenset(claims), complete=names_place and not group and len(chosen) == len(items))


def short_text(rng: Random, language: Language) -> Text:
    """Draw a text about one thing, one place or both, as people type first: "cat", "two cats", "cats on the beach"."""
    template = rng.choice(SHORT if language == "en" else SHORT_ZH)
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    count = rng.choice((1, 2))
    claims = {FACTS["place", place.name]} if "{place}" in template or "{where}" in template else set()
    group = rng.choice(thing.groups) if rng.random() < 0.1 else None
    if group and template != "{place}":
        count = 1
        claims.add(FACTS["group", group])
    elif template != "{place}":
        claims.add(FACTS["thing", thing.emoji])
        if count > 1 and "{things}" in template:
            claims.add(FACTS["two", thing.emoji])
    general = rng.choice(GROUPS[group][language == "zh"]) if group else None
    return Text(fill(language, rng, template, place, [Item(thing, count)], general), frozenset(claims), complete=False)


def telegram(text: str) -> str:
    """The text without its small words, as people type into a search box: "cat on beach"."""
    return " ".join(word for word in text.split() if word not in _SMALL_WORDS)


def countable(thing: Thing) -> tuple[str, ...]:
    """The English names that have a plural. Every thing has one."""
    return tuple(name for name in thing.names if not name.startswith("~"))


def _counted(noun: str, count: int) -> str:
    if noun.startswith("~"):
        return f"some {noun[1:]}"
    return indefinite(noun) if count == 1 else f"two {plural(noun)}"


def _bare(noun: str, count: int) -> str:
    return noun[1:] if noun.startswith("~") else noun if count == 1 else plural(noun)


def _listed(parts: Sequence[str], comma: str, last: str) -> str:
    return last.join(filter(None, (comma.join(parts[:-1]), *parts[-1:])))
