"""Bytes of an image in Qdrant's memory and on its disk. docs/scaling.md explains the figures."""

from viewfinder.settings import Quantization, VectorType

VECTOR_BYTES: dict[VectorType, float] = {"float32": 4.0, "float16": 2.0}  # per number
QUANTIZED_BYTES: dict[Quantization, float] = {"none": 0.0, "int8": 1.0, "4bit": 0.5}  # beside the original
# Images up to which the embedded store was measured (docs/scaling.md).
EMBEDDED_MAX_IMAGES = 1_000_000
PAYLOAD_BYTES = 1000.0
GRAPH_M = 16

# Measured with Qdrant's engine (qdrant-edge 0.9.0, docs/scaling.md): bytes of a point in memory and on disk, by the
# indexed field; URIs of 50 characters, keys of 34, no captions.
INDEX_BYTES_OF: dict[str, tuple[float, float]] = {
    "uri": (312, 137),
    "key": (280, 106),
    "image_hash": (84, 73),
    "composed_id": (0, 0),  # these two of few points
    "composed_key": (0, 0),
    "sources": (156, 45),
    "size": (88, 89),
    "width": (55, 69),
    "height": (55, 69),
    "last_modified": (34, 40),
    "indexed_at": (34, 40),
    "bucket": (28, 33),
    "format": (28, 28),
    "kind": (28, 29),
    "run_id": (28, 37),
    "has_image": (0, 0),
    "has_caption": (0, 0),
}
INDEX_BYTES, INDEX_DISK_BYTES = (float(sum(column)) for column in zip(*INDEX_BYTES_OF.values(), strict=True))
# More with a caption: three tags of 5,000, ten words of 20,000.
CAPTION_INDEX_BYTES_OF: dict[str, tuple[float, float]] = {"tags": (90, 66), "caption_words": (122, 64)}
CAPTION_INDEX_BYTES, CAPTION_INDEX_DISK_BYTES = (
    float(sum(column)) for column in zip(*CAPTION_INDEX_BYTES_OF.values(), strict=True)
)
# Measured in the same way: the UUID of a point and its number, both ways.
POINT_ID_BYTES = 49.0


def graph_bytes(m: int) -> float:
    """Bytes of one vector in a graph: 2m links of 4 bytes on the lowest level, and one m-th of that on those above."""
    return 8 * m * (1 + 1 / m)


def disk_bytes(
    *,
    points: float,
    vectors: float,
    captions: float,
    dimension: int,
    vector_type: VectorType,
    quantization: Quantization,
    payload_bytes: float = PAYLOAD_BYTES,
) -> float:
    """Bytes on the disk of one copy. `vectors` are those of images and captions, `captions` points with a caption."""
    of_vector = (VECTOR_BYTES[vector_type] + QUANTIZED_BYTES[quantization]) * dimension + graph_bytes(GRAPH_M)
    of_point = INDEX_DISK_BYTES + payload_bytes
    return points * of_point + captions * CAPTION_INDEX_DISK_BYTES + vectors * of_vector
