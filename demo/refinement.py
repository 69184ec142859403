"""Refine a trained model for what people type first: "cat", "two cats", "a cat on the beach".

A whole description fits one image, a short text fits many. So each text is searched for among thousands of scenes, and
every scene of which it is true is a hit. Of the image tower only the last projection is trained, which lets its
features be computed once.
"""

from __future__ import annotations

import math
import sys
import time
from random import Random

import open_clip
import torch
from torch.nn.functional import normalize

from demo.clip import PREPROCESS, encode_text, with_unknown_words
from demo.phrases import Language, Text, short_text
from demo.training_data import LANGUAGES, TEXTS_PER_LANGUAGE, Dataset, incidence

SCENES = 3_000  # of one step
DESCRIPTIONS, SHORT_TEXTS = 64, 192  # of one step in each language
SHORT_POOL = 20_000  # short texts in each language
LEARNING_RATE = 1e-3
WARMUP_STEPS = 50
MAX_LOGIT_SCALE = math.log(100)
_ENCODED_AT_ONCE = 64


def image_features(model: open_clip.CLIP, images: torch.Tensor) -> torch.Tensor:
    """Features before the projection of the image tower, float32 [N, width], of images uint8 [N, 3, S, S]."""
    mean, std = (torch.tensor(PREPROCESS[name]).view(3, 1, 1) for name in ("mean", "std"))
    projection, model.visual.proj = model.visual.proj, None
    with torch.no_grad():
        chunks = [model.encode_image((chunk.float() / 255 - mean) / std) for chunk in images.split(_ENCODED_AT_ONCE)]
    model.visual.proj = projection
    return torch.cat(chunks)


class Queries:
    """Texts to search for: descriptions of single scenes and short texts, in both languages."""

    def __init__(self, data: Dataset, rng: Random) -> None:
        self._data = data
        self._short: dict[Language, list[Text]] = {
            language: [short_text(rng, language) for _ in range(SHORT_POOL)] for language in LANGUAGES
        }
        tokenizer = open_clip.SimpleTokenizer(context_length=data.context_length)
        self._tokens = {language: tokenizer([text.text for text in self._short[language]]) for language in LANGUAGES}

    def known_tokens(self) -> torch.Tensor:
        """The token ids of the short texts, ascending."""
        return torch.unique(torch.cat([tokens.flatten() for tokens in self._tokens.values()])).long()

    def draw(self, rng: Random, described: list[int], language: Language) -> tuple[list[Text], list[torch.Tensor]]:
        """One text for each of the scenes `described`, then short texts; and the tokens of both, int64 [T, longest]."""
        which = [rng.randrange(TEXTS_PER_LANGUAGE) for _ in described]
        short = rng.choices(range(SHORT_POOL), k=SHORT_TEXTS)
        claims = self._data.claims[language]
        texts = [claims[scene][text] for scene, text in zip(described, which, strict=True)]
        texts += [self._short[language][text] for text in short]
        rows = self._data.tokens[language][torch.tensor(described), torch.tensor(which)]
        return texts, [_cut(rows), _cut(self._tokens[language][short])]


def _cut(tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:, : int((tokens != 0).sum(1).max())].long().contiguous()


def search_loss(logits: torch.Tensor, hits: torch.Tensor, misses: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each hit against all misses, averaged over the hits of a text; all [T, N]."""
    against = logits.masked_fill(~misses, float("-inf")).logsumexp(dim=1, keepdim=True)
    losses = torch.logaddexp(logits, against) - logits
    return ((losses * hits).sum(dim=1) / hits.sum(dim=1).clamp(min=1)).mean()


def judge(texts: list[Text], shown: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hits and misses, bool [T, N], of texts among the scenes that show the facts `shown`.

    Text i of the first ones describes scene i. If it names everything there, other scenes of which it is true are
    neither hits nor misses.
    """
    claims = incidence([text.claims for text in texts])
    true = claims @ shown.T == claims.sum(1, keepdim=True)
    hits = true & torch.tensor([[not text.complete] for text in texts])
    described = torch.arange(DESCRIPTIONS)
    hits[described, described] = True
    return hits, ~true


def refine(
    model: open_clip.CLIP, features: torch.Tensor, known: torch.Tensor, data: Dataset, queries: Queries, steps: int
) -> None:
    """Train the text tower and the image projection in place, against the fixed image `features`."""
    rng, started = Random(1), time.monotonic()
    shown = incidence(data.true_facts)
    trained = [*(p for name, p in model.named_parameters() if not name.startswith("visual.")), model.visual.proj]
    decayed, plain = [p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    for step in range(steps):
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / WARMUP_STEPS)
            group["lr"] = LEARNING_RATE * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        scenes = rng.sample(range(len(features)), min(SCENES, len(features)))
        images = normalize(features[scenes] @ model.visual.proj, dim=-1)
        loss = torch.zeros(())
        for language in LANGUAGES:
            texts, tokens = queries.draw(rng, scenes[:DESCRIPTIONS], language)
            rows = [with_unknown_words(torch.searchsorted(known, group)) for group in tokens]
            vectors = normalize(torch.cat([encode_text(model, group) for group in rows]), dim=-1)
            loss = loss + search_loss(model.logit_scale.exp() * vectors @ images.T, *judge(texts, shown[scenes]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        if step % 20 == 19:
            left = (time.monotonic() - started) / (step + 1) * (steps - step - 1) / 60
            line = f"refined {step + 1:,} of {steps:,} steps, loss {loss.item():.3f}, {left:.1f} min left  "
            print(line, file=sys.stderr, end="\r", flush=True)
    print(file=sys.stderr)
