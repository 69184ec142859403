"""Decoding of an object's bytes to the pixels a model takes.

An image is anything that Pillow opens and loads. The model gets it as a person sees it: rotated by its EXIF
orientation, transparency over white, the first frame of an animation, high bit depths scaled to 8 bits. Everything else
raises an `ImageError` with a reason from `REASONS`.
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
from PIL import AvifImagePlugin, EpsImagePlugin, Image, ImageFile, UnidentifiedImageError

from viewfinder.errors import ImageError

if TYPE_CHECKING:
    from viewfinder.settings import Settings  # without pydantic, a decoder process starts in half the time

REASONS: Mapping[str, str] = {
    "empty": "The object has no bytes.",
    "too_many_bytes": "The object is larger than VIEWFINDER_MAX_IMAGE_BYTES.",
    "too_many_pixels": "The image is larger than VIEWFINDER_MAX_IMAGE_PIXELS.",
    "not_an_image": "The content is not an image of a format that Pillow supports.",
    "unsupported": "The content is an image of an unsupported format: HEIC, JPEG XL, SVG, PDF, EPS and rarer ones.",
    "truncated": "The image ends early: an upload or a copy was cut off.",
    "corrupt": "The image is damaged.",
    "decoder_crashed": "Decoding the image crashed the decoder process.",
    "decode_timeout": "Decoding the image took longer than VIEWFINDER_DECODE_TIMEOUT_S.",
    "decoder_out_of_memory": "Decoding the image needs more memory than VIEWFINDER_DECODE_MEMORY_BYTES.",
}

# Pillow needs other programs or libraries for these: Ghostscript for EPS, some that it does not ship for the others. An
# IPTC file contains an image of any format, including EPS. Decoding an image must not start a process.
_UNSUPPORTED_FORMATS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})

# Formats common in buckets but unknown to Pillow: (offset, first bytes, name), so that the failure names the format.
_UNKNOWN_TO_PILLOW = (
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"%PDF-", "PDF"),
    (0, b"<svg", "SVG"),
)

# Formats with unambiguous first bytes: a file that begins like one of them and cannot be opened is damaged.
_RECOGNIZABLE_FORMATS = ("AVIF", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")

# libjpeg decodes at 1/2, 1/4 or 1/8 scale in a fraction of the time; each side must keep this multiple of the pixels
# needed. Measured at 12 MP: an embedding cosine of 0.99999, and a seventh (JPEG quality 75) to a third (95) of plain
# Pillow's time, nearly all of it Huffman decoding, which no scale avoids. A margin of 2 costs a tenth more time.
_DRAFT_MARGIN = 1.5
# Pillow averages blocks of pixels before the actual filter; each side must keep this multiple of the pixels needed.
_REDUCING_GAP = 3.0

# Rows of high-depth grey converted at a time: a large image in float32 would exceed the decoder's memory.
_STRIP_ROWS = 256

# Some plugins put the file's content into their messages.
_MAX_MESSAGE_CHARACTERS = 500

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    """The maximum size of an object, in bytes, and of an image, in pixels."""

    max_bytes: int
    max_pixels: int

    @classmethod
    def of(cls, settings: "Settings") -> "ImageLimits":
        """Return the limits in the settings."""
        return cls(settings.max_image_bytes, settings.max_image_pixels)


class Decoded(NamedTuple):
    """An image ready for the model: `pixels` are uint8 [size, size, 3], the rest describes the upright original."""

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str


class _LoadedImage(NamedTuple):
    image: Image.Image  # upright, in mode L, RGB or RGBA, perhaps already smaller than the original
    width: int
    height: int
    format: str


def decode(data: bytes, preprocess: Preprocess, limits: ImageLimits) -> Decoded:
    """Decode, crop and resize as open_clip does (`open_clip.transform.image_transform_v2`), in a fraction of the time.

    For any bytes it raises only `ImageError`, with one of `REASONS`. Safe to call from several threads. Only
    `viewfinder.images.decoder` survives a file that makes a C library crash, hang or allocate without bound.
    """
    with _translate_errors(data):
        loaded = _read(data, limits, lambda width, height: _plan(width, height, preprocess)[0])
        target, box = _plan(loaded.width, loaded.height, preprocess)
        resample = Image.Resampling.BILINEAR if preprocess.interpolation == "bilinear" else Image.Resampling.BICUBIC
        small = _resized(loaded, target, box, resample)
        if small.size != (preprocess.size, preprocess.size):
            small = _padded(small, preprocess)
        return Decoded(np.array(small, dtype=np.uint8), loaded.width, loaded.height, loaded.format)


def thumbnail(data: bytes, width: int, limits: ImageLimits) -> bytes:
    """Return a JPEG of at most `width` by 4 · `width` pixels, upright, transparency over white, never enlarged.

    Raises `ImageError` as `decode` does.
    """

    def fitted(original_width: int, original_height: int) -> tuple[int, int]:
        scale = min(1.0, width / original_width, 4 * width / original_height)
        return max(1, round(original_width * scale)), max(1, round(original_height * scale))

    with _translate_errors(data):
        loaded = _read(data, limits, fitted)
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
    loaded: _LoadedImage, target: tuple[int, int], box: tuple[float, ...], resample: Image.Resampling
) -> Image.Image:
    # The box is in pixels of the original; `image` may be a half, a quarter or an eighth of it.
    image = loaded.image
    across, down = image.width / loaded.width, image.height / loaded.height
    left, top, right, bottom = box
    scaled = (left * across, top * down, min(right * across, image.width), min(bottom * down, image.height))
    small = image.resize(target, resample, scaled, _REDUCING_GAP)
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


def _read(data: bytes, limits: ImageLimits, target: Callable[[int, int], tuple[int, int]]) -> _LoadedImage:
    check_bytes(data, limits)
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
        format_name = str(image.format)
        if format_name in _UNSUPPORTED_FORMATS:
            raise ImageError("unsupported", f"{format_name} files cannot be decoded here. Convert it to PNG or JPEG.")
        _check_pixels(image.size, limits)
        original = image.size
        if not _shrink_while_decoding(image, target(*original)):
            image.load()
            original = image.size  # icons and rotated TIFFs have their final size only now
            _check_pixels(original, limits)
        image.load()
        orientation = _orientation(image)
        upright = _to_supported_mode(image)
    if orientation in _UPRIGHT:
        upright = upright.transpose(_UPRIGHT[orientation])
        if orientation >= 5:  # rotated by 90 degrees
            original = original[::-1]
    return _LoadedImage(upright, *original, format_name.lower())


def _formats() -> list[str]:
    Image.init()
    return list(Image.ID)


def _check_pixels(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"The image has {width} x {height} pixels; the limit is {limits.max_pixels:,} pixels.",
        )


def _shrink_while_decoding(image: ImageFile.ImageFile, target: tuple[int, int]) -> bool:
    # The image may be rotated relative to the target, so its shorter side is compared with the target's.
    factor = min(image.width, image.height) / min(target) / _DRAFT_MARGIN
    if factor < 2:
        return False
    wanted = int(image.width / factor), int(image.height / factor)
    return image.draft(None, wanted) is not None


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken EXIF raises nearly anything, and must not fail the image
        return 1


def _to_supported_mode(image: Image.Image) -> Image.Image:
    """Convert an image to mode L, RGB or RGBA."""
    if image.mode.startswith(("I", "F")):
        return _grey(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        try:
            return image.convert("RGBA")
        except ValueError:  # a transparent colour that is invalid in the mode
            image.info.pop("transparency", None)
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """Convert high-depth greys to 8 bits: black is 0, white the first common maximum that no pixel exceeds.

    This way 16-bit images keep their brightness, and 12-bit images (X-rays, microscopy) are not black. Outside the
    common ranges (elevations, temperatures) the minimum becomes black and the maximum white.
    """
    if image.mode not in ("I", "F", "I;16", "I;16B", "I;16L"):
        image = image.convert("I")
    common_maxima = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 4095.0, 65535.0)
    values = np.asarray(image)
    lowest, highest = _finite_range(values)
    black, white = 0.0, next((maximum for maximum in common_maxima if highest <= maximum), highest)
    if lowest < black or highest > common_maxima[-1]:
        black, white = lowest, highest
    scale = 255.0 / (white - black) if white > black else 0.0
    grey = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), _STRIP_ROWS):
        strip = values[top : top + _STRIP_ROWS].astype(np.float32)
        with np.errstate(all="ignore"):
            strip *= scale
            strip -= black * scale
        np.nan_to_num(strip, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        grey[top : top + _STRIP_ROWS] = np.rint(strip, out=strip)
    return Image.fromarray(grey)


def _finite_range(values: NDArray[np.generic]) -> tuple[float, float]:
    if values.dtype.kind != "f":
        return float(values.min()), float(values.max())
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


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
            text = f"Pillow cannot decode it: {type(exc).__name__}: {exc}"
            raise ImageError(_reason(exc, data), text[:_MAX_MESSAGE_CHARACTERS]) from exc


def _unidentified(data: bytes) -> ImageError:
    for offset, magic, name in _UNKNOWN_TO_PILLOW:
        if data.startswith(magic, offset):
            return ImageError("unsupported", f"{name} files cannot be decoded here. Convert it to PNG or JPEG.")
    for name in _RECOGNIZABLE_FORMATS:
        accept = Image.OPEN[name][1]
        if accept is not None and accept(data[:16]):
            reason = "truncated" if _is_short_riff(data) else "corrupt"
            return ImageError(reason, f"It begins like a {name} file, but its header is damaged or cut off.")
    return ImageError("not_an_image", f"No image format that Pillow supports begins with {data[:16]!r}.")


def _reason(error: Exception, data: bytes) -> str:
    text = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in text or "not enough" in text or _is_short_riff(data):
        return "truncated"
    if "out of memory" in text:
        return "decoder_out_of_memory"
    if isinstance(error, NotImplementedError) or "not available" in text or "unsupported" in text:
        return "unsupported"
    return "corrupt"


def _is_short_riff(data: bytes) -> bool:
    # libwebp does not distinguish truncated from damaged files, but the container has the original length.
    return data.startswith(b"RIFF") and len(data) < int.from_bytes(data[4:8], "little") + 8


class _WarningsIgnored:
    """Ignore warnings while any thread decodes.

    `warnings.catch_warnings` replaces a process-wide list: the first thread replaces it, the last one restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active_threads = 0
        self._catcher = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._active_threads == 0:
                self._catcher = warnings.catch_warnings(action="ignore")
                self._catcher.__enter__()
            self._active_threads += 1

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._active_threads -= 1
            if self._active_threads == 0:
                self._catcher.__exit__(None, None, None)


_warnings_ignored = _WarningsIgnored()
