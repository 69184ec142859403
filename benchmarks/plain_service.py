"""The usual alternative to the service: FastAPI, open_clip and Qdrant, encoding one text per request."""

import threading
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from qdrant_client import QdrantClient, models

from benchmarks.replica import POINTS, random_vectors
from viewfinder.models.checkpoint import Checkpoint

COLLECTION = "images"


class Question(BaseModel):
    """The body of a search."""

    text: str
    limit: int = 10


def plain_app(checkpoint: Checkpoint) -> FastAPI:
    """The application, over the vectors of `benchmarks.replica`."""
    import open_clip
    import torch

    name = f"local-dir:{checkpoint.weights.parent}"
    model = open_clip.create_model(name, device="cpu").eval()
    tokenizer = open_clip.get_tokenizer(name)
    client = QdrantClient(":memory:")
    client.create_collection(
        COLLECTION, vectors_config=models.VectorParams(size=checkpoint.dimension, distance=models.Distance.COSINE)
    )
    payloads = [{"uri": f"s3://bucket/{number}.jpg", "width": 640, "height": 480} for number in range(POINTS)]
    vectors = random_vectors(checkpoint.dimension)
    client.upsert(COLLECTION, models.Batch(ids=list(range(POINTS)), vectors=vectors.tolist(), payloads=payloads))
    turn = threading.Lock()  # local mode does not allow concurrent searches
    app = FastAPI()

    @app.post("/v1/search")
    def search(question: Question) -> dict[str, Any]:
        with torch.inference_mode():
            vector = model.encode_text(tokenizer([question.text]), normalize=True)[0].tolist()
        with turn:
            found = client.query_points(COLLECTION, query=vector, limit=question.limit, with_payload=True).points
        return {"hits": [{"id": hit.id, "score": hit.score, "payload": hit.payload} for hit in found]}

    return app
