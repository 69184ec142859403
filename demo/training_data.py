"""Painted scenes as tensors: images at the model's size, tokenized texts in two languages, and the facts of each."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from random import Random

import numpy as np
import open_clip
import torch
from PIL import Image

from demo.phrases import FACTS, Language, Text, facts, training_text
from demo.scenes import compose, paint
from demo.vocabulary import PLACES, THINGS

LANGUAGES: tuple[Language, ...] = ("en", "zh")
TEXTS_PER_LANGUAGE = 4
ONE_PLACE_SHARE = 0.5
_KINDS = len(PLACES) + len(THINGS)  # FACTS starts with the places, then the things


@dataclass(frozen=True)
class Batch:
    """Scenes of one step. `allowed[language][i, j]`: text j is the match or a valid negative of image i."""

    images: torch.Tensor  # uint8 [B, 3, S, S]
    shown: torch.Tensor  # float32 [B, len(FACTS)], 1 for facts that the image shows
    claimed: dict[Language, torch.Tensor]  # 1 for facts that the text states
    tokens: dict[Language, torch.Tensor]  # int64 [B, longest]
    allowed: dict[Language, torch.Tensor]  # bool [B, B]


class Dataset:
    """All scenes of a training run, in memory: 12 KB per scene at 64 pixels."""

    def __init__(self, seed: int, count: int, image_size: int, context_length: int) -> None:
        self.images = torch.empty((count, 3, image_size, image_size), dtype=torch.uint8)
        self.context_length = context_length
        self.true_facts: list[frozenset[int]] = []
        tokenizer = open_clip.SimpleTokenizer(context_length=context_length)
        self.tokens = {
            language: torch.zeros((count, TEXTS_PER_LANGUAGE, context_length), dtype=torch.int32)
            for language in LANGUAGES
        }
        self.claims: dict[Language, list[list[Text]]] = {language: [] for language in LANGUAGES}
        started = time.monotonic()
        with ProcessPoolExecutor() as pool:
            rows = pool.map(_row, repeat(seed), range(count), repeat(image_size), chunksize=64)
            for index, (pixels, true_facts, texts) in enumerate(rows):
                self.images[index] = torch.from_numpy(pixels).permute(2, 0, 1)
                self.true_facts.append(true_facts)
                for language in LANGUAGES:
                    self.claims[language].append(texts[language])
                    self.tokens[language][index] = tokenizer([text.text for text in texts[language]])
                if (index + 1) % 500 == 0 or index + 1 == count:
                    rate = (index + 1) / (time.monotonic() - started)
                    print(f"painted {index + 1:,} of {count:,} scenes, {rate:.0f} a second", file=sys.stderr, end="\r")
        print(file=sys.stderr)
        self.of_place = [[i for i, true in enumerate(self.true_facts) if place in true] for place in range(len(PLACES))]

    def __len__(self) -> int:
        return len(self.images)

    def known_tokens(self) -> torch.Tensor:
        """The token ids that occur, ascending; the padding token 0 is the first."""
        return torch.unique(torch.cat([tokens.flatten() for tokens in self.tokens.values()])).long()

    def batch(self, rng: Random, size: int) -> Batch:
        """Draw scenes, and one text in each language for each of them.

        Every other batch is of one place if there are enough scenes, so that only the things distinguish them.
        """
        pool = rng.choice(self.of_place) if rng.random() < ONE_PLACE_SHARE else []
        chosen = rng.sample(pool if len(pool) >= size else range(len(self)), size)
        true_facts = incidence([self.true_facts[index] for index in chosen])
        kinds = true_facts[:, :_KINDS]
        same_kinds = (kinds @ kinds.T == kinds.sum(1)) & (kinds @ kinds.T == kinds.sum(1)[:, None])
        tokens, claimed, allowed = {}, {}, {}
        for language in LANGUAGES:
            drawn = [rng.randrange(TEXTS_PER_LANGUAGE) for _ in chosen]
            texts = [self.claims[language][index][text] for index, text in zip(chosen, drawn, strict=True)]
            rows = self.tokens[language][torch.tensor(chosen), torch.tensor(drawn)].long()
            tokens[language] = rows[:, : int((rows != 0).sum(1).max())]
            claims = claimed[language] = incidence([text.claims for text in texts])
            partial = torch.tensor([not text.complete for text in texts])
            # A text that is true of an image is not its negative. A text that names everything in its scene is true
            # only of scenes with the same kinds: "a cat on the beach" is a negative of a scene with a cat and a dog.
            fits = (true_facts @ claims.T == claims.sum(1)) & (same_kinds | partial)
            allowed[language] = ~fits | torch.eye(size, dtype=torch.bool)
        return Batch(self.images[torch.tensor(chosen)], true_facts, claimed, tokens, allowed)


def incidence(rows: list[frozenset[int]]) -> torch.Tensor:
    """float32 [len(rows), len(FACTS)]: 1 if a row has a fact."""
    found = torch.zeros((len(rows), len(FACTS)))
    for row, members in enumerate(rows):
        found[row, list(members)] = 1
    return found


def _row(seed: int, index: int, image_size: int) -> tuple[np.ndarray, frozenset[int], dict[Language, list[Text]]]:
    scene = compose(seed, index)
    image = paint(seed, index).resize((image_size, image_size), Image.Resampling.BICUBIC)
    rng = Random(f"training texts {seed} {index}")
    texts = {
        language: [training_text(rng, scene.place, scene.items, language) for _ in range(TEXTS_PER_LANGUAGE)]
        for language in LANGUAGES
    }
    return np.asarray(image), facts(scene.place, scene.items), texts
