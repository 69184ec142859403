"""Measure a model on scenes that it never saw: `python demo/recall.py --model viewfinder/models/demo`.

The scenes go through JPEG files and the model's own preprocessing, as they do in an index job.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch.nn.functional import normalize

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo.questions import precision_at, questions
from demo.scenes import JPEG_QUALITY, compose, paint

EVALUATION_SEED = 2
EVALUATION_COUNT = 6_000  # six images of each thing in each place
DESCRIBED = 1_000
BATCH = 100


def recall_at(k: int, images: torch.Tensor, texts: torch.Tensor) -> float:
    """Share of texts whose image, in the same row, is among the k nearest. Vectors have unit length."""
    scores = texts @ images.T
    better = (scores > scores.diagonal()[:, None]).sum(dim=1)
    return (better < k).float().mean().item()


def evaluate(model_dir: Path, seed: int = EVALUATION_SEED, count: int = EVALUATION_COUNT) -> dict[str, float]:
    """Recall of descriptions among the first 1,000 scenes, and precision@5 of short texts among all `count` scenes."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{model_dir}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model_dir}")
    model.eval()
    scenes = [compose(seed, index) for index in range(count)]
    records = [scene.record() for scene in scenes[:DESCRIBED]]

    def encode(texts: list[str]) -> torch.Tensor:
        return normalize(torch.cat([model.encode_text(tokenizer(chunk)) for chunk in _chunks(texts)]), dim=-1)

    found: dict[str, float] = {}
    with torch.inference_mode():
        batches = [model.encode_image(torch.stack(batch)) for batch in _batches(seed, count, preprocess)]
        images = normalize(torch.cat(batches), dim=-1)
        for key, language in (("query", "English"), ("query_zh", "Chinese")):
            texts = encode([record[key] for record in records])
            for k in (1, 10):
                found[f"recall@{k}, {language}"] = recall_at(k, images[:DESCRIBED], texts)
        for kind, asked in questions().items():
            texts = encode([question.text for question in asked])
            found[kind] = precision_at(5, scenes, images, asked, texts)
    return found


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
        print(f"{name:28} {value:6.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
