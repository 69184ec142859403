"""Decoding of an object's bytes to the pixels a model takes.

An image is anything that Pillow opens and loads. The model gets it as a person sees it: rotated by its EXIF
orientation, colours converted from its profile to sRGB, transparency over white, the first frame of an animation, high
bit depths scaled to 8 bits, the largest preview of a RAW file. Damage outside the pixels does not matter, and a small
part may be missing at the end. Everything else raises an `ImageError` with a reason from `REASONS`.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, EpsImagePlugin, Image, UnidentifiedImageError

from viewfinder.errors import ImageError
from viewfinder.images.colours import to_srgb
from viewfinder.images.content_type import HEAD_BYTES, image_format, other_content
from viewfinder.images.loading import TRUNCATED_TAIL, Loaded, Loader
from viewfinder.images.truncated import missing_bytes

if TYPE_CHECKING:
    from viewfinder.settings import Settings  # without pydantic, a decoder process starts in half the time

REASONS: Mapping[str, str] = {
    "empty": "The object has no bytes.",
    "too_many_bytes": "The object is larger than VIEWFINDER_MAX_IMAGE_BYTES.",
    "too_many_pixels": "The image is larger than VIEWFINDER_MAX_IMAGE_PIXELS.",
    "not_an_image": "The content is no image: a document, a video, an archive, a text, or something unknown.",
    "unsupported": "The content is an image of an unsupported format: HEIC, JPEG XL, SVG, EPS, RAW without a preview.",
    "truncated": "The image ends early, and less than VIEWFINDER_MIN_DECODED_RATIO of it is there.",
    "corrupt": "The image is damaged.",
    "decoder_crashed": "Decoding the image crashed the decoder process.",
    "decode_timeout": "Decoding the image took longer than VIEWFINDER_DECODE_TIMEOUT_S.",
    "decoder_out_of_memory": "Decoding the image needs more memory than VIEWFINDER_DECODE_MEMORY_BYTES.",
}

WARNINGS: Mapping[str, str] = {
    TRUNCATED_TAIL: "The image ends early or its end is damaged; at least VIEWFINDER_MIN_DECODED_RATIO of it is there.",
}

# Formats with unambiguous first bytes: a file that begins like one of them and cannot be opened is damaged.
_RECOGNIZABLE_FORMATS = ("AVIF", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")

# Pillow averages blocks of pixels before the actual filter; each side must keep this multiple of the pixels needed.
_REDUCING_GAP = 3.0

# Some plugins put the file's content into their messages.
_MAX_MESSAGE_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Preprocess:
    """The preprocessing of a model; the fields are those of open_clip's `PreprocessCfg`.

    Decoded images are uint8 [size, size, 3]; the encoder applies `mean` and `std` to values scaled to 0..1.
    """

    size: int
    resize_mode: Literal["shortest", "squash", "longest"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill_color: int = 0
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The maximum size of an object, in bytes, and of an image, in pixels.

    Of an image whose end is missing, at least the share `min_decoded_ratio` of its rows must be there.
    """

    max_bytes: int
    max_pixels: int
    min_decoded_ratio: float = 0.9

    @classmethod
    def of(cls, settings: "Settings") -> "ImageLimits":
        """Return the limits in the settings."""
        return cls(settings.max_image_bytes, settings.max_image_pixels, settings.min_decoded_ratio)


class Decoded(NamedTuple):
    """An image ready for the model: `pixels` are uint8 [size, size, 3], the rest describes the upright original.

    `warning` is one of `WARNINGS`, or None. `image_hash` is that of `viewfinder.images.image_hash`.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str
    warning: str | None = None
    image_hash: str = ""


def decode(data: bytes, preprocess: Preprocess, limits: ImageLimits) -> Decoded:
    """Decode, crop and resize as open_clip does (`open_clip.transform.image_transform_v2`), in a fraction of the time.

    For any bytes it raises only `ImageError`, with one of `REASONS`. Safe to call from several threads. Only
    `viewfinder.images.decoder` survives a file that makes a C library crash, hang or allocate without bound.
    """
    with _translate_errors(data):
        loaded = _load(data, limits, lambda width, height: _plan(width, height, preprocess)[0], hashed=True)
        target, box = _plan(loaded.width, loaded.height, preprocess)
        resample = Image.Resampling.BILINEAR if preprocess.interpolation == "bilinear" else Image.Resampling.BICUBIC
        small = _resized(loaded, target, box, resample)
        if small.size != (preprocess.size, preprocess.size):
            small = _padded(small, preprocess)
        pixels = np.array(small, dtype=np.uint8)
        return Decoded(pixels, loaded.width, loaded.height, loaded.format, loaded.warning, loaded.image_hash)


def thumbnail(data: bytes, width: int, limits: ImageLimits) -> bytes:
    """Return a JPEG of at most `width` by 4 · `width` pixels, upright, transparency over white, never enlarged.

    Raises `ImageError` as `decode` does.
    """

    def fitted(original_width: int, original_height: int) -> tuple[int, int]:
        scale = min(1.0, width / original_width, 4 * width / original_height)
        return max(1, round(original_width * scale)), max(1, round(original_height * scale))

    with _translate_errors(data):
        loaded = _load(data, limits, fitted, hashed=False)
        whole = (0.0, 0.0, float(loaded.width), float(loaded.height))
        small = _resized(loaded, fitted(loaded.width, loaded.height), whole, Image.Resampling.BICUBIC)
        file = io.BytesIO()
        small.save(file, "JPEG", quality=82)
        return file.getvalue()


def check_bytes(data: bytes, limits: ImageLimits) -> None:
    """Raise `ImageError` with `empty` or `too_many_bytes` without opening the image."""
    if not data:
        raise ImageError("empty", "The object is empty (0 bytes).")
    if len(data) > limits.max_bytes:
        raise ImageError(
            "too_many_bytes", f"The object has {len(data):,} bytes; the limit is {limits.max_bytes:,} bytes."
        )


def configure_own_process(limits: ImageLimits) -> None:
    """Set Pillow's process-wide options for a process that only decodes.

    Other processes keep Pillow's defaults: there its own limit (179 million pixels) applies besides `limits`.
    """
    Image.init()
    Image.MAX_IMAGE_PIXELS = (limits.max_pixels + 1) // 2  # Pillow warns above this and raises above twice this
    EpsImagePlugin.gs_binary = False
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is one decoder process per core
    warnings.simplefilter("ignore")


def _load(data: bytes, limits: ImageLimits, target: Callable[[int, int], tuple[int, int]], *, hashed: bool) -> Loaded:
    check_bytes(data, limits)
    loader = Loader(max_pixels=limits.max_pixels, min_rows=limits.min_decoded_ratio, target=target, hashed=hashed)
    return loader.load(data)


def _plan(width: int, height: int, preprocess: Preprocess) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """Return the target (width, height) and the box of the original to resize to it.

    Cropping and resizing are one step: otherwise a 10,000 x 10 image would grow to 224,000 x 224 before its crop.
    """
    size = preprocess.size
    whole = (0.0, 0.0, float(width), float(height))
    if preprocess.resize_mode == "squash":
        return (size, size), whole
    if preprocess.resize_mode == "longest":
        longest = max(width, height)
        return (max(1, round(width * size / longest)), max(1, round(height * size / longest))), whole
    # The long side and the offset of the crop are rounded as in open_clip (torchvision).
    shortest = min(width, height)
    resized_width, resized_height = (int(size * side / shortest) for side in (width, height))
    left, top = (round((side - size) / 2) for side in (resized_width, resized_height))
    across, down = width / resized_width, height / resized_height
    return (size, size), (left * across, top * down, (left + size) * across, (top + size) * down)


def _resized(
    loaded: Loaded, target: tuple[int, int], box: tuple[float, ...], resample: Image.Resampling
) -> Image.Image:
    # The box is in pixels of the original; `image` may be a half, a quarter or an eighth of it.
    image = loaded.image
    across, down = image.width / loaded.width, image.height / loaded.height
    left, top, right, bottom = box
    scaled = (left * across, top * down, min(right * across, image.width), min(bottom * down, image.height))
    # The colours are converted after resizing: that costs a tenth of a millisecond instead of ten for each megapixel.
    small = to_srgb(image.resize(target, resample, scaled, _REDUCING_GAP), loaded.profile)
    if small.mode != "RGBA":
        return small.convert("RGB")
    # Over white after resizing: Pillow weights colours by alpha when it resizes, so the order does not matter.
    white = Image.new("RGB", small.size, "white")
    white.paste(small, mask=small.getchannel("A"))
    return white


def _padded(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    size = preprocess.size
    square = Image.new("RGB", (size, size), (preprocess.fill_color,) * 3)
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


@contextlib.contextmanager
def _translate_errors(data: bytes) -> Iterator[None]:
    with _warnings_ignored:
        try:
            yield
        except ImageError:
            raise
        except UnidentifiedImageError as exc:
            raise _unidentified(data) from exc
        except Image.DecompressionBombError as exc:
            raise ImageError("too_many_pixels", f"The image is too large: {exc}") from exc
        except MemoryError as exc:
            raise ImageError("decoder_out_of_memory", "The image does not fit into the decoder's memory.") from exc
        except Exception as exc:
            # Pillow's plugins raise nearly anything for broken files.
            text = " ".join([f"Pillow cannot decode it: {type(exc).__name__}: {exc}.", *getattr(exc, "__notes__", [])])
            raise ImageError(_failure_reason(exc, data), text[:_MAX_MESSAGE_CHARACTERS]) from exc


def _unidentified(data: bytes) -> ImageError:
    if (name := image_format(data)) is not None:
        return ImageError("unsupported", f"{name} files cannot be decoded here. Convert it to PNG or JPEG.")
    if (other := other_content(data[:HEAD_BYTES])) is not None:
        return ImageError("not_an_image", f"The content is {other}: it begins with {data[:16]!r}.")
    for name in _RECOGNIZABLE_FORMATS:
        accept = Image.OPEN[name][1]
        if accept is not None and accept(data[:16]):
            reason = "truncated" if missing_bytes(data) > 0 else "corrupt"
            return ImageError(reason, f"It begins like a {name} file, but its header is damaged or cut off.")
    return ImageError("not_an_image", f"No image format that Pillow supports begins with {data[:16]!r}.")


def _failure_reason(error: Exception, data: bytes) -> str:
    text = str(error).lower()
    # The libraries of WebP, AVIF and JPEG 2000 do not distinguish truncated from damaged files.
    if isinstance(error, EOFError) or "truncated" in text or "not enough" in text or missing_bytes(data) > 0:
        return "truncated"
    if "out of memory" in text:
        return "decoder_out_of_memory"
    if "no image data" in text:  # a FITS file
        return "not_an_image"
    if isinstance(error, NotImplementedError) or "not available" in text or "unsupported" in text:
        return "unsupported"
    return "corrupt"


class _WarningsIgnored:
    """Ignore warnings while any thread decodes.

    `warnings.catch_warnings` replaces a process-wide list: the first thread replaces it, the last one restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active_threads = 0
        self._warnings_ignored = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._active_threads == 0:
                self._warnings_ignored = warnings.catch_warnings(action="ignore")
                self._warnings_ignored.__enter__()
            self._active_threads += 1

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._active_threads -= 1
            if self._active_threads == 0:
                self._warnings_ignored.__exit__(None, None, None)


_warnings_ignored = _WarningsIgnored()
