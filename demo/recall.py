"""Measure a model on scenes and phrasings that it never saw: `python demo/recall.py --model viewfinder/models/demo`.

The scenes go through JPEG files and the model's own preprocessing, as they do in an index job.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch.nn.functional import normalize

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo.scenes import JPEG_QUALITY, Scene, compose, paint
from demo.vocabulary import THINGS

EVALUATION_SEED = 2
EVALUATION_COUNT = 1_000
BATCH = 100


def recall_at(k: int, images: torch.Tensor, texts: torch.Tensor) -> float:
    """Share of texts whose image, in the same row, is among the k nearest. Vectors have unit length."""
    scores = texts @ images.T
    better = (scores > scores.diagonal()[:, None]).sum(dim=1)
    return (better < k).float().mean().item()


def word_precision(scenes: Sequence[Scene], images: torch.Tensor, words: torch.Tensor) -> float:
    """Precision of bare names: if n scenes show a thing, the share of the n best images that show it.

    `words` are the vectors of the things' names, in the order of THINGS.
    """
    right = total = 0
    for thing, best in zip(THINGS, (images @ words.T).argsort(dim=0, descending=True).T.tolist(), strict=True):
        shows = [any(item.thing == thing for item in scene.items) for scene in scenes]
        right += sum(shows[index] for index in best[: sum(shows)])
        total += sum(shows)
    return right / total


def evaluate(model_dir: Path, seed: int = EVALUATION_SEED, count: int = EVALUATION_COUNT) -> dict[str, float]:
    """Recall of held-out queries and precision of bare words, over `count` scenes."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{model_dir}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model_dir}")
    model.eval()
    scenes = [compose(seed, index) for index in range(count)]
    records = [scene.record() for scene in scenes]

    def encode(texts: list[str]) -> torch.Tensor:
        return normalize(torch.cat([model.encode_text(tokenizer(chunk)) for chunk in _chunks(texts)]), dim=-1)

    with torch.inference_mode():
        batches = [model.encode_image(torch.stack(batch)) for batch in _batches(seed, count, preprocess)]
        images = normalize(torch.cat(batches), dim=-1)
        english, chinese = (encode([record[key] for record in records]) for key in ("query", "query_zh"))
        words, words_zh = (
            encode([names[0].removeprefix("~") for names in every])
            for every in ([thing.names for thing in THINGS], [thing.names_zh for thing in THINGS])
        )
    return {
        "recall@1 English": recall_at(1, images, english),
        "recall@10 English": recall_at(10, images, english),
        "recall@1 Chinese": recall_at(1, images, chinese),
        "recall@10 Chinese": recall_at(10, images, chinese),
        "one word English": word_precision(scenes, images, words),
        "one word Chinese": word_precision(scenes, images, words_zh),
    }


def _jpeg(seed: int, index: int) -> bytes:
    buffer = io.BytesIO()
    paint(seed, index).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _batches(seed: int, count: int, preprocess: Callable[[Image.Image], torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    with ProcessPoolExecutor() as pool:
        jpegs = list(pool.map(_jpeg, repeat(seed), range(count), chunksize=16))
    for start in range(0, count, BATCH):
        yield [preprocess(Image.open(io.BytesIO(data))) for data in jpegs[start : start + BATCH]]


def _chunks(texts: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), BATCH):
        yield texts[start : start + BATCH]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="demo/recall.py", description="Recall on unseen scenes with unseen phrasings."
    )
    parser.add_argument("--model", type=Path, required=True, help="a model directory")
    parser.add_argument("--seed", type=int, default=EVALUATION_SEED, help="seed of the scenes (%(default)s)")
    parser.add_argument("--count", type=int, default=EVALUATION_COUNT, help="number of scenes (%(default)s)")
    args = parser.parse_args(argv)
    for name, value in evaluate(args.model, args.seed, args.count).items():
        print(f"{name:18} {value:6.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
