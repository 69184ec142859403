"""The usual alternative to the job: boto3, Pillow, a model and a DataLoader, in one file.

    python -m benchmarks.plain_loop open_clip|transformers MODEL_DIRECTORY BUCKET LIMIT VECTORS.npy

Read the first objects of the bucket with all cores and keep the vectors. It writes to no database, cannot resume, and
ends at the first broken image. Credentials and AWS_ENDPOINT_URL come from the environment.
"""

import functools
import io
import sys
from collections.abc import Callable, Sequence
from typing import Any

import boto3
import numpy as np
import torch
from PIL import Image

from viewfinder.models.cpu import cpu_cores

BATCH_SIZE = 32

Preprocess = Callable[[Image.Image], torch.Tensor]
Encode = Callable[[torch.Tensor], torch.Tensor]


class Images(torch.utils.data.Dataset[torch.Tensor]):
    """The objects of a bucket as the model's input."""

    def __init__(self, bucket: str, keys: Sequence[str], preprocess: Preprocess) -> None:
        self.bucket, self.keys, self.preprocess = bucket, keys, preprocess

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> torch.Tensor:
        body = client().get_object(Bucket=self.bucket, Key=self.keys[number])["Body"].read()
        return self.preprocess(Image.open(io.BytesIO(body)).convert("RGB"))


@functools.cache
def client() -> Any:
    """One client per worker process; never called before the fork, because workers would share its connections."""
    return boto3.client("s3")


def open_clip_model(directory: str) -> tuple[Preprocess, Encode]:
    """As in open_clip's README."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{directory}")
    model.eval()
    return preprocess, functools.partial(model.encode_image, normalize=True)


def transformers_model(directory: str) -> tuple[Preprocess, Encode]:
    """As in the documentation of Hugging Face's CLIP."""
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(directory).eval(), CLIPProcessor.from_pretrained(directory)

    def preprocess(image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        features = model.get_image_features(pixel_values=pixels)
        features = getattr(features, "pooler_output", features)  # since transformers 5 an object with more fields
        return torch.nn.functional.normalize(features, dim=-1)

    return preprocess, encode


MODELS = {"open_clip": open_clip_model, "transformers": transformers_model}


def main(library: str, directory: str, bucket: str, limit: str, vectors: str) -> None:
    """Encode the first `limit` objects into the file `vectors`, float32 [N, D] in order of keys."""
    preprocess, encode = MODELS[library](directory)
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())][: int(limit)]
    loader = torch.utils.data.DataLoader(
        Images(bucket, keys, preprocess), batch_size=BATCH_SIZE, num_workers=cpu_cores()
    )
    done = []
    with torch.inference_mode():
        for number, pixels in enumerate(loader, start=1):
            done.append(encode(pixels).numpy())
            if number % 10 == 0:
                print(f"{library} loop: {number * BATCH_SIZE:,} of {len(keys):,}", file=sys.stderr, flush=True)
    np.save(vectors, np.concatenate(done))


if __name__ == "__main__":
    main(*sys.argv[1:])
