"""Thumbnails, made in a child process like all decoding."""

import functools
import os
import struct
from dataclasses import replace

import numpy as np

from viewfinder.images.decoder import BESIDE_SERVICE, Decoder
from viewfinder.images.decoding import Decoded, ImageLimits, Preprocess, check_bytes, thumbnail

MEDIA_TYPE = "image/jpeg"
MIN_WIDTH, MAX_WIDTH = 16, 2048

# Thumbnails have low priority: a page of them may be late, a search may not.
_NICENESS = 10
_ENTRY = f"{__name__}:decode_thumbnail"
# A request to the child is the width, then the file.
_WIDTH_HEADER = struct.Struct(">H")


class Thumbnailer:
    """Makes thumbnails in a child process, one at a time. Close it after use."""

    def __init__(self, limits: ImageLimits, *, timeout_s: float, memory_bytes: int, entry: str = _ENTRY) -> None:
        self._limits = limits
        framed = replace(limits, max_bytes=limits.max_bytes + _WIDTH_HEADER.size)
        # `Preprocess` is not used: each request has its own width.
        self._decoder = Decoder(
            Preprocess(MAX_WIDTH),
            framed,
            timeout_s=timeout_s,
            memory_bytes=memory_bytes,
            entry=entry,
            niceness=BESIDE_SERVICE,
        )

    def __enter__(self) -> "Thumbnailer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def make(self, data: bytes, width: int) -> bytes:
        """Return a JPEG of at most `width` by 4 · `width` pixels: upright, aspect ratio kept, never enlarged.

        Raises `ImageError` as `Decoder.decode` does, and `ViewfinderError` if no child can be started.
        """
        if not MIN_WIDTH <= width <= MAX_WIDTH:
            raise ValueError(f"width must be from {MIN_WIDTH} to {MAX_WIDTH}, not {width}")
        check_bytes(data, self._limits)
        return self._decoder.decode(_WIDTH_HEADER.pack(width) + data).pixels.tobytes()

    def close(self) -> None:
        """End the child after its current file. Later calls of `make` raise `RuntimeError`."""
        self._decoder.close()


def decode_thumbnail(data: bytes, preprocess: Preprocess, limits: ImageLimits) -> Decoded:
    """Run in the child; the `pixels` of its response are the bytes of the JPEG."""
    _lower_priority()
    (width,) = _WIDTH_HEADER.unpack_from(data)
    small = thumbnail(data[_WIDTH_HEADER.size :], width, limits)
    return Decoded(np.frombuffer(small, np.uint8), width, 0, "jpeg")


@functools.cache
def _lower_priority() -> None:
    os.nice(_NICENESS)
