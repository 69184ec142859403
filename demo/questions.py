"""The short texts that people type first, and how many of the best images are relevant to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demo.phrases import countable, plural
from demo.scenes import Scene
from demo.vocabulary import PLACES, THINGS, Place, Thing

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Question:
    """A short text, and what an image must show to be relevant: `count` of the thing or more, in the place if given."""

    text: str
    thing: Thing
    count: int = 1
    place: Place | None = None

    def fits(self, scene: Scene) -> bool:
        return self.place in (None, scene.place) and any(
            item.thing == self.thing and item.count >= self.count for item in scene.items
        )


def questions() -> dict[str, list[Question]]:
    """Short queries by kind: the name of each thing, two of each thing, each thing in each place."""
    english = [(thing, thing.names[0].removeprefix("~")) for thing in THINGS]
    chinese = [(thing, thing.names_zh[0]) for thing in THINGS]
    return {
        "X, English": [Question(name, thing) for thing, name in english],
        "X, Chinese": [Question(name, thing) for thing, name in chinese],
        "any name of X, English": [Question(name.removeprefix("~"), thing) for thing in THINGS for name in thing.names],
        "any name of X, Chinese": [Question(name, thing) for thing in THINGS for name in thing.names_zh],
        "two X, English": [Question(f"two {plural(countable(thing)[0])}", thing, 2) for thing in THINGS],
        "two X, Chinese": [Question(f"两{thing.measure}{name}", thing, 2) for thing, name in chinese],
        "X in PLACE, English": [
            Question(f"{name} {place.wheres[0]}", thing, 1, place) for thing, name in english for place in PLACES
        ],
        "X in PLACE, Chinese": [
            Question(f"{place.wheres_zh[0]}的{name}", thing, 1, place) for thing, name in chinese for place in PLACES
        ],
    }


def precision_at(
    k: int, scenes: Sequence[Scene], images: torch.Tensor, asked: Sequence[Question], texts: torch.Tensor
) -> float:
    """Mean share of relevant images among the k best for each question, or among as many as there are relevant ones.

    `images` has one row for each scene, `texts` one for each question. Questions without a relevant image do not count.
    """
    shares = []
    showing: dict[str, list[int]] = {thing.emoji: [] for thing in THINGS}
    for index, scene in enumerate(scenes):
        for item in scene.items:
            showing[item.thing.emoji].append(index)
    ranked = (texts @ images.T).topk(min(k, len(scenes)), dim=1).indices.tolist()
    for question, best in zip(asked, ranked, strict=True):
        relevant = {index for index in showing[question.thing.emoji] if question.fits(scenes[index])}
        if relevant:
            possible = min(k, len(relevant))
            shares.append(len(relevant & set(best[:possible])) / possible)
    return sum(shares) / len(shares)
