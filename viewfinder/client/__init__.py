"""Clients of a search service: `Client` for threads, `AsyncClient` for asyncio, with the same calls and results."""

from viewfinder.client.client import AsyncClient, Client
from viewfinder.client.requests import Collapse, ImageInput, Part, Rank, SearchOptions, SearchRequest, Target
from viewfinder.client.results import (
    Candidate,
    Embedding,
    Embeddings,
    Facets,
    FacetValue,
    Group,
    Hit,
    Image,
    Model,
    Models,
    Ranking,
    Removal,
    Restoration,
    SearchResult,
    SimilarImage,
    Stats,
    Takedown,
)
from viewfinder.settings import DEFAULT_SERVER

__all__ = [
    "DEFAULT_SERVER",
    "AsyncClient",
    "Candidate",
    "Client",
    "Collapse",
    "Embedding",
    "Embeddings",
    "FacetValue",
    "Facets",
    "Group",
    "Hit",
    "Image",
    "ImageInput",
    "Model",
    "Models",
    "Part",
    "Rank",
    "Ranking",
    "Removal",
    "Restoration",
    "SearchOptions",
    "SearchRequest",
    "SearchResult",
    "SimilarImage",
    "Stats",
    "Takedown",
    "Target",
]
