"""What a collection is: its physical name, the metadata it carries, its vectors and its payload indexes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from qdrant_client import models

from viewfinder.errors import StoreError
from viewfinder.settings import Quantization

SCHEMA_VERSION = 1

State = Literal["building", "ready", "live", "retired"]
VectorName = Literal["image", "caption"]
VECTOR_NAMES: tuple[VectorName, ...] = ("image", "caption")

# Every field that filters, facets and pruning use. Qdrant builds its filter-aware graph only for indexes that exist
# before the data.
PAYLOAD_INDEXES: Mapping[str, models.PayloadSchemaType] = {
    "uri": models.PayloadSchemaType.KEYWORD,
    "bucket": models.PayloadSchemaType.KEYWORD,
    "key": models.PayloadSchemaType.KEYWORD,
    "format": models.PayloadSchemaType.KEYWORD,
    "kind": models.PayloadSchemaType.KEYWORD,
    "tags": models.PayloadSchemaType.KEYWORD,
    "sources": models.PayloadSchemaType.KEYWORD,
    "run_id": models.PayloadSchemaType.KEYWORD,
    "size": models.PayloadSchemaType.INTEGER,
    "width": models.PayloadSchemaType.INTEGER,
    "height": models.PayloadSchemaType.INTEGER,
    "last_modified": models.PayloadSchemaType.DATETIME,
    "indexed_at": models.PayloadSchemaType.DATETIME,
    "has_image": models.PayloadSchemaType.BOOL,
    "has_caption": models.PayloadSchemaType.BOOL,
}


@dataclass(frozen=True)
class CollectionMetadata:
    """Stored with the collection (Qdrant ≥ 1.16), so that it can be told and rebuilt without anything else.

    `model` is the full specification of the model; `sources` hold every option needed to read them again, never
    credentials; `counts` are those of the last run. Times are ISO 8601 in UTC, "" while there is none.
    `fields` names what captions files gave (`meta.NAME`) and its type: keyword, integer, float, bool, datetime, text.
    `baselines` hold 101 quantiles, 0 to 100 %, of the cosines of unrelated pairs: text_image, text_caption,
    image_image, image_caption.
    """

    index: str
    fingerprint: str
    model: Mapping[str, Any]
    dimension: int
    state: State
    created_at: str
    promoted_at: str = ""
    retired_at: str = ""
    sources: Sequence[Mapping[str, Any]] = ()
    runs: Sequence[str] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, Sequence[float]] = field(default_factory=dict)
    baselined_points: int = 0  # how many points there were at that estimate
    schema_version: int = SCHEMA_VERSION

    @property
    def model_name(self) -> str:
        """The name under which the model can be asked for again."""
        return str(self.model.get("name", "?"))

    def as_payload(self) -> dict[str, Any]:
        """The JSON object that Qdrant keeps."""
        return asdict(self)

    @classmethod
    def parse(cls, name: str, payload: Mapping[str, Any] | None) -> "CollectionMetadata":
        """Raises `StoreError` where `payload` was written by other hands or a newer version."""
        known = {each.name for each in fields(cls)}
        try:
            metadata = cls(**{key: value for key, value in (payload or {}).items() if key in known})
        except TypeError as error:
            raise StoreError(
                f"Collection {name!r} was not made by viewfinder: its metadata lacks what a search needs ({error}). "
                "Give the index another name (VIEWFINDER_INDEX), or remove that collection."
            ) from error
        if metadata.schema_version > SCHEMA_VERSION:
            raise StoreError(
                f"Collection {name!r} has schema version {metadata.schema_version}; this viewfinder knows "
                f"{SCHEMA_VERSION}. Upgrade viewfinder."
            )
        return metadata


@dataclass(frozen=True)
class Collection:
    """One physical collection: the pictures and captions of one index, encoded by one model."""

    name: str
    index: str
    build: int
    metadata: CollectionMetadata


def collection_name(index: str, model_name: str, fingerprint: str, build: int) -> str:
    """`{index}__{model-slug}__{fingerprint}__{build}`; the slug is for people, the fingerprint decides."""
    slug = re.sub(r"[^a-z0-9]+", "-", model_name.lower()).strip("-")[-80:].strip("-") or "model"
    return f"{index}__{slug}__{fingerprint}__{build:04d}"


def build_number(index: str, name: str) -> int | None:
    """The build of a physical name of `index`; None for any other collection.

    Split from the right: an index may hold `__`, what follows it never does.
    """
    parts = name.rsplit("__", 3)
    return int(parts[3]) if len(parts) == 4 and parts[0] == index and parts[3].isdecimal() else None


def vectors_config(dimension: int, quantization: Quantization = "none") -> dict[str, models.VectorParams]:
    """Both named vectors: cosine, original vectors on disk behind the page cache, graphs and `quantization` in memory.

    `int8` is scalar quantization, `4bit` TurboQuant (Qdrant ≥ 1.18), half its size.
    """
    # `always_ram`, deprecated since 1.19, is what older servers know, too.
    held: Mapping[Quantization, models.QuantizationConfig | None] = {
        "none": None,
        "int8": models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        ),
        "4bit": models.TurboQuantization(
            turbo=models.TurboQuantQuantizationConfig(bits=models.TurboQuantBitSize.BITS4, always_ram=True)
        ),
    }
    params = models.VectorParams(
        size=dimension, distance=models.Distance.COSINE, on_disk=True, quantization_config=held[quantization]
    )
    return dict.fromkeys(VECTOR_NAMES, params)


def caption_index(*, ranked: bool) -> models.TextIndexParams:
    """The word index of captions. `ranked` adds what BM25 needs (Qdrant ≥ 1.20); without it words only filter.

    The default tokenizer splits on everything but letters and digits and lower-cases, in any script with spaces.
    """
    return models.TextIndexParams(type=models.TextIndexType.TEXT, scoring=True if ranked else None)
