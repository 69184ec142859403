"""Schema of a collection: its name, metadata, vectors and payload indexes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Protocol

from qdrant_client import models

from viewfinder.errors import StoreError
from viewfinder.settings import Quantization, VectorType
from viewfinder.store.recorded import Recorded
from viewfinder.store.words import COMPOSED_ID, COMPOSED_KEY, DEFAULT_LANGUAGE

SCHEMA_VERSION = 1

CollectionState = Literal["building", "ready", "live", "retired"]
VectorName = Literal["image", "caption"]
VECTOR_NAMES: tuple[VectorName, ...] = ("image", "caption")

# The field with the hash of the image itself, equal for copies whose metadata differ; a UUID, because an index of those
# takes 84 bytes of memory for a point, and one of keywords 275.
IMAGE_HASH = "image_hash"

# Every field that filters, facets and pruning use. Qdrant adds filter-aware graph links only for indexes that exist
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
    IMAGE_HASH: models.PayloadSchemaType.UUID,
    COMPOSED_ID: models.PayloadSchemaType.UUID,
    COMPOSED_KEY: models.PayloadSchemaType.KEYWORD,
    "size": models.PayloadSchemaType.INTEGER,
    "width": models.PayloadSchemaType.INTEGER,
    "height": models.PayloadSchemaType.INTEGER,
    "last_modified": models.PayloadSchemaType.DATETIME,
    "indexed_at": models.PayloadSchemaType.DATETIME,
    "has_image": models.PayloadSchemaType.BOOL,
    "has_caption": models.PayloadSchemaType.BOOL,
}


class DescribedModel(Protocol):
    """A model whose files are on this machine, such as `viewfinder.models.checkpoint.Checkpoint`."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    @property
    def spec(self) -> Any: ...


@dataclass(frozen=True)
class ModelIdentity:
    """The model of a collection: its name, the fingerprint and dimension of its vectors, and its properties."""

    name: str
    fingerprint: str
    dimension: int
    spec: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: DescribedModel) -> "ModelIdentity":
        """Return the identity of a model, without its directory on this machine."""
        spec = {name: value for name, value in asdict(model.spec).items() if name != "directory"}
        return cls(model.name, model.fingerprint, model.dimension, spec)


@dataclass(frozen=True)
class CollectionMetadata:
    """Metadata stored with the collection (Qdrant ≥ 1.16), enough to describe and rebuild it.

    `model` is the full specification of the model; `counts` are those of the last run. Times are ISO 8601 in UTC, "" if
    not set. `collection_id` is unique: a name may be used again after its collection was dropped.
    `baselines` hold 101 quantiles, 0 to 100 %, of the cosines of unrelated pairs: text_image, text_caption,
    image_image, image_caption.
    `behind` is the retired collection that may have what other runs have written while the runs `built_by` built this
    one, "" after it has caught up.
    """

    index: str
    fingerprint: str
    model: Mapping[str, Any]
    dimension: int
    state: CollectionState
    created_at: str
    promoted_at: str = ""
    retired_at: str = ""
    collection_id: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    baselines: Mapping[str, Sequence[float]] = field(default_factory=dict)
    baselined_points: int = 0  # number of points at that estimate
    language: str = DEFAULT_LANGUAGE  # of the words of captions
    behind: str = ""
    built_by: Sequence[str] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def model_name(self) -> str:
        """The name under which the model is found."""
        return str(self.model.get("name", "?"))

    @property
    def revisions(self) -> Mapping[str, str]:
        """The commits of the model's hub repositories when the collection was made."""
        return dict(self.model.get("revisions") or {})

    def as_payload(self) -> dict[str, Any]:
        """Return the JSON object that Qdrant stores."""
        return asdict(self)

    @classmethod
    def parse(cls, name: str, payload: Mapping[str, Any] | None) -> "CollectionMetadata":
        """Return the metadata in `payload`; raise `StoreError` if another program or a newer version wrote it."""
        known = {each.name for each in fields(cls)}
        try:
            metadata = cls(**{key: value for key, value in (payload or {}).items() if key in known})
        except TypeError as error:
            raise StoreError(
                f"Collection {name!r} was not made by viewfinder: its metadata is incomplete ({error}). "
                "Choose another name for the index (VIEWFINDER_INDEX), or drop that collection."
            ) from error
        if metadata.schema_version > SCHEMA_VERSION:
            raise StoreError(
                f"Collection {name!r} has schema version {metadata.schema_version}; this viewfinder supports "
                f"{SCHEMA_VERSION}. Upgrade viewfinder."
            )
        return metadata


@dataclass(frozen=True)
class Collection:
    """One collection: the images and captions of one index, encoded by one model.

    `metadata` describes it; `recorded` are its sources, captions files, runs and fields. `ranks_words` is False if its
    index of words was made by a server without BM25. `missing_indexes` are fields of `PAYLOAD_INDEXES` that an older
    version did not index; `viewfinder index` makes them.
    """

    name: str
    index: str
    build: int
    metadata: CollectionMetadata
    recorded: Recorded = field(default_factory=Recorded)
    ranks_words: bool = True
    missing_indexes: tuple[str, ...] = ()

    @property
    def finds_composed(self) -> bool:
        """True if points can be found by `COMPOSED_ID` and `COMPOSED_KEY`."""
        return not {COMPOSED_ID, COMPOSED_KEY}.intersection(self.missing_indexes)


def collection_name(index: str, model_name: str, fingerprint: str, build: int) -> str:
    """Return `{index}__{model-slug}__{fingerprint}__{build}`; only the fingerprint identifies the model."""
    slug = re.sub(r"[^a-z0-9]+", "-", model_name.lower()).strip("-")[-80:].strip("-") or "model"
    return f"{index}__{slug}__{fingerprint}__{build:04d}"


def build_number(index: str, name: str) -> int | None:
    """Return the build number in a collection name of `index`; None for any other collection.

    Split from the right: an index name may contain `__`, the parts behind it never do.
    """
    parts = name.rsplit("__", 3)
    return int(parts[3]) if len(parts) == 4 and parts[0] == index and parts[3].isdecimal() else None


def vectors_config(
    dimension: int,
    quantization: Quantization = "none",
    vector_type: VectorType = "float32",
    *,
    graphs_on_disk: bool = False,
) -> dict[str, models.VectorParams]:
    """Return both named vectors: cosine, original vectors on disk, quantized vectors in memory.

    On a server `int8` is scalar quantization, `4bit` TurboQuant (Qdrant ≥ 1.18) at half its size.
    """
    # `always_ram` and `on_disk` are deprecated since 1.19, but older servers support nothing else.
    configs: Mapping[Quantization, models.QuantizationConfig | None] = {
        "none": None,
        "int8": models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        ),
        "4bit": models.TurboQuantization(
            turbo=models.TurboQuantQuantizationConfig(bits=models.TurboQuantBitSize.BITS4, always_ram=True)
        ),
    }
    params = models.VectorParams(
        size=dimension,
        distance=models.Distance.COSINE,
        on_disk=True,
        datatype=models.Datatype(vector_type) if vector_type != "float32" else None,
        quantization_config=configs[quantization],
        hnsw_config=models.HnswConfigDiff(on_disk=True) if graphs_on_disk else None,
    )
    return dict.fromkeys(VECTOR_NAMES, params)


def payload_index(kind: models.PayloadSchemaType, *, on_disk: bool) -> models.PayloadFieldSchema:
    """Return the index of a field, in memory or on disk."""
    return _INDEX_PARAMS[kind](type=kind.value, on_disk=True) if on_disk else kind


_INDEX_PARAMS: Mapping[models.PayloadSchemaType, Any] = {
    models.PayloadSchemaType.KEYWORD: models.KeywordIndexParams,
    models.PayloadSchemaType.UUID: models.UuidIndexParams,
    models.PayloadSchemaType.INTEGER: models.IntegerIndexParams,
    models.PayloadSchemaType.FLOAT: models.FloatIndexParams,
    models.PayloadSchemaType.BOOL: models.BoolIndexParams,
    models.PayloadSchemaType.DATETIME: models.DatetimeIndexParams,
}


def words_index(*, ranked: bool, on_disk: bool = False) -> models.TextIndexParams:
    """Return a text index of words. `ranked` enables BM25 (Qdrant ≥ 1.20); without it words only filter.

    The default tokenizer splits at spaces, because words hold only letters and digits (`viewfinder.store.words`).
    """
    return models.TextIndexParams(
        type=models.TextIndexType.TEXT, scoring=True if ranked else None, on_disk=True if on_disk else None
    )
