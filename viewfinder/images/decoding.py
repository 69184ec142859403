"""From the bytes of an object to the pixels that the model takes.

Whatever Pillow opens and loads is a picture. It is shown to the model as a person would see it: turned as its EXIF
orientation says, transparency over white, the first frame of an animation, deep greys scaled to the screen's range.
Everything else ends as an `ImageError` whose reason stands in `REASONS`.
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
    "too_many_pixels": "The picture is larger than VIEWFINDER_MAX_IMAGE_PIXELS.",
    "not_an_image": "The content is no picture of any format that Pillow knows.",
    "unsupported": "The content is a picture that cannot be decoded here: HEIC, JPEG XL, SVG, PDF, EPS and rarer ones.",
    "truncated": "The picture ends early: an upload or a copy was cut off.",
    "corrupt": "The picture is damaged.",
    "decoder_crashed": "Decoding the picture brought the decoder process down.",
    "decode_timeout": "Decoding the picture took longer than VIEWFINDER_DECODE_TIMEOUT_S.",
    "decoder_out_of_memory": "Decoding the picture needs more memory than VIEWFINDER_DECODE_MEMORY_BYTES.",
}

# Pillow leaves these to other programs or libraries: Ghostscript for EPS, nothing that it ships for the others. An
# IPTC file wraps a picture of any format, EPS too, which Pillow opens by itself. A picture starts no process here.
_NOT_DECODED_HERE = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})

# Common in buckets, unknown to Pillow: (offset, first bytes, name), so that the failure says what the object is.
_FOREIGN = (
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"%PDF-", "PDF"),
    (0, b"<svg", "SVG"),
)

# Their first bytes leave no doubt, so a file that begins like one of these and cannot be opened is a damaged one.
_UNMISTAKABLE = ("AVIF", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")

# libjpeg decodes at 1/2, 1/4 or 1/8 for a fraction of the time; so many times the pixels needed must remain a side.
# Measured at 12 MP: an embedding cosine of 0.99999, and a seventh (JPEG quality 75) to a third (95) of plain Pillow's
# time, nearly all of it Huffman decoding, which no scale avoids. A margin of 2 costs a tenth more time.
_DRAFT_MARGIN = 1.5
# Pillow averages whole blocks of pixels before the real filter; so many times the pixels needed must remain a side.
_REDUCING_GAP = 3.0

# Rows of deep grey that are worked on at a time: a whole large picture in float32 would burst the decoder's memory.
_STRIP_ROWS = 256

# Some plugins put the file's own content into their messages.
_LONGEST_MESSAGE = 500

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
    """How a model wants its pictures; the fields are those of open_clip's `PreprocessCfg`.

    Pictures come out as uint8 [size, size, 3]; `mean` and `std` are applied by the encoder, on values scaled to 0..1.
    """

    size: int
    resize_mode: Literal["shortest", "squash", "longest"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill_color: int = 0
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """The largest object, in bytes, and the largest picture, in pixels, that are decoded."""

    max_bytes: int
    max_pixels: int

    @classmethod
    def of(cls, settings: "Settings") -> "ImageLimits":
        """Return the limits that the settings name."""
        return cls(settings.max_image_bytes, settings.max_image_pixels)


class Decoded(NamedTuple):
    """A picture ready for the model: `pixels` are uint8 [size, size, 3], the rest describes the original, upright."""

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str


class _Picture(NamedTuple):
    image: Image.Image  # upright, in mode L, RGB or RGBA, perhaps already smaller than the original
    width: int
    height: int
    format: str


def decode(data: bytes, preprocess: Preprocess, limits: ImageLimits) -> Decoded:
    """Decode, crop and resize as open_clip does (`open_clip.transform.image_transform_v2`), in a fraction of the time.

    Raises `ImageError` with one of `REASONS`, and nothing else, whatever the bytes are. Safe to call from several
    threads; a file that makes a C library crash, hang or eat memory is survived by `viewfinder.images.decoder` only.
    """
    with _every_failure_named(data):
        picture = _read(data, limits, lambda width, height: _plan(width, height, preprocess)[0])
        target, box = _plan(picture.width, picture.height, preprocess)
        resample = Image.Resampling.BILINEAR if preprocess.interpolation == "bilinear" else Image.Resampling.BICUBIC
        small = _resized(picture, target, box, resample)
        if small.size != (preprocess.size, preprocess.size):
            small = _padded(small, preprocess)
        return Decoded(np.array(small, dtype=np.uint8), picture.width, picture.height, picture.format)


def thumbnail(data: bytes, width: int, limits: ImageLimits) -> bytes:
    """A JPEG of at most `width` by 4 · `width` pixels, upright, transparency over white, never enlarged.

    Raises `ImageError` as `decode` does.
    """

    def fitted(original_width: int, original_height: int) -> tuple[int, int]:
        scale = min(1.0, width / original_width, 4 * width / original_height)
        return max(1, round(original_width * scale)), max(1, round(original_height * scale))

    with _every_failure_named(data):
        picture = _read(data, limits, fitted)
        whole = (0.0, 0.0, float(picture.width), float(picture.height))
        small = _resized(picture, fitted(picture.width, picture.height), whole, Image.Resampling.BICUBIC)
        file = io.BytesIO()
        small.save(file, "JPEG", quality=82)
        return file.getvalue()


def check_bytes(data: bytes, limits: ImageLimits) -> None:
    """Refuse what need not be opened to be refused: raises `ImageError` `empty` or `too_many_bytes`."""
    if not data:
        raise ImageError("empty", "The object is empty (0 bytes).")
    if len(data) > limits.max_bytes:
        raise ImageError(
            "too_many_bytes", f"The object has {len(data):,} bytes; the limit is {limits.max_bytes:,} bytes."
        )


def configure_own_process(limits: ImageLimits) -> None:
    """Set those of Pillow's process-wide switches that suit a process which only decodes.

    In a host's process they are left alone: there, Pillow's own limit (179 million pixels) holds beside `limits`.
    """
    Image.init()
    Image.MAX_IMAGE_PIXELS = (limits.max_pixels + 1) // 2  # Pillow warns above it and raises above its double
    EpsImagePlugin.gs_binary = False
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # as many decoders as cores run side by side
    warnings.simplefilter("ignore")


def _plan(width: int, height: int, preprocess: Preprocess) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """What is resized to what: the (width, height) to come out, and the box of the original that goes in.

    Cropping and resizing are one step, or a 10,000 x 10 picture would be blown up to 224,000 x 224 before its crop.
    """
    size = preprocess.size
    whole = (0.0, 0.0, float(width), float(height))
    if preprocess.resize_mode == "squash":
        return (size, size), whole
    if preprocess.resize_mode == "longest":
        longest = max(width, height)
        return (max(1, round(width * size / longest)), max(1, round(height * size / longest))), whole
    # The long side and the crop's offset are rounded where open_clip (torchvision) rounds them.
    shortest = min(width, height)
    resized_width, resized_height = (int(size * side / shortest) for side in (width, height))
    left, top = (round((side - size) / 2) for side in (resized_width, resized_height))
    across, down = width / resized_width, height / resized_height
    return (size, size), (left * across, top * down, (left + size) * across, (top + size) * down)


def _resized(
    picture: _Picture, target: tuple[int, int], box: tuple[float, ...], resample: Image.Resampling
) -> Image.Image:
    # The box is in the pixels of the original; the image in hand may be a half, a quarter or an eighth of it.
    image = picture.image
    across, down = image.width / picture.width, image.height / picture.height
    left, top, right, bottom = box
    scaled = (left * across, top * down, min(right * across, image.width), min(bottom * down, image.height))
    small = image.resize(target, resample, scaled, _REDUCING_GAP)
    if small.mode != "RGBA":
        return small.convert("RGB")
    # Over white only now: Pillow weighs colours by their alpha when it resizes, so the order does not matter.
    white = Image.new("RGB", small.size, "white")
    white.paste(small, mask=small.getchannel("A"))
    return white


def _padded(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    size = preprocess.size
    square = Image.new("RGB", (size, size), (preprocess.fill_color,) * 3)
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def _read(data: bytes, limits: ImageLimits, target: Callable[[int, int], tuple[int, int]]) -> _Picture:
    check_bytes(data, limits)
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
        format_name = str(image.format)
        if format_name in _NOT_DECODED_HERE:
            raise ImageError("unsupported", f"{format_name} files cannot be decoded here. Convert it to PNG or JPEG.")
        _check_pixels(image.size, limits)
        original = image.size
        if not _shrink_while_decoding(image, target(*original)):
            image.load()
            original = image.size  # icons and turned TIFFs know their size only now
            _check_pixels(original, limits)
        image.load()
        orientation = _orientation(image)
        upright = _in_colour(image)
    if orientation in _UPRIGHT:
        upright = upright.transpose(_UPRIGHT[orientation])
        if orientation >= 5:  # turned by a quarter
            original = original[::-1]
    return _Picture(upright, *original, format_name.lower())


def _formats() -> list[str]:
    Image.init()
    return list(Image.ID)


def _check_pixels(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"The picture has {width} x {height} pixels; the limit is {limits.max_pixels:,} pixels.",
        )


def _shrink_while_decoding(image: ImageFile.ImageFile, target: tuple[int, int]) -> bool:
    # The target may stand crosswise to a picture not yet upright, so each side is held against the greater need.
    factor = min(image.width, image.height) / min(target) / _DRAFT_MARGIN
    if factor < 2:
        return False
    wanted = int(image.width / factor), int(image.height / factor)
    return image.draft(None, wanted) is not None


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken EXIF raises nearly anything, and never costs the picture
        return 1


def _in_colour(image: Image.Image) -> Image.Image:
    """The same picture in mode L, RGB or RGBA."""
    if image.mode.startswith(("I", "F")):
        return _grey(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        try:
            return image.convert("RGBA")
        except ValueError:  # a transparent colour that the mode cannot have
            image.info.pop("transparency", None)
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """Numbers to grey: black is 0, and white the first usual maximum that no pixel exceeds.

    So 16-bit pictures keep their brightness, 12-bit ones (X-rays, microscopes) are not black, and where no usual range
    fits (heights, temperatures), the lowest number becomes black and the highest white.
    """
    if image.mode not in ("I", "F", "I;16", "I;16B", "I;16L"):
        image = image.convert("I")
    usual_maxima = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 4095.0, 65535.0)
    values = np.asarray(image)
    lowest, highest = _finite_range(values)
    black, white = 0.0, next((maximum for maximum in usual_maxima if highest <= maximum), highest)
    if lowest < black or highest > usual_maxima[-1]:
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
def _every_failure_named(data: bytes) -> Iterator[None]:
    with _warnings_ignored:
        try:
            yield
        except ImageError:
            raise
        except UnidentifiedImageError as exc:
            raise _unidentified(data) from exc
        except Image.DecompressionBombError as exc:
            raise ImageError("too_many_pixels", f"The picture is too large: {exc}") from exc
        except MemoryError as exc:
            raise ImageError("decoder_out_of_memory", "The picture does not fit into the decoder's memory.") from exc
        except Exception as exc:
            # Pillow's plugins raise nearly anything on broken files; one file is one recorded failure.
            text = f"Pillow cannot decode it: {type(exc).__name__}: {exc}"
            raise ImageError(_reason(exc, data), text[:_LONGEST_MESSAGE]) from exc


def _unidentified(data: bytes) -> ImageError:
    for offset, magic, name in _FOREIGN:
        if data.startswith(magic, offset):
            return ImageError("unsupported", f"{name} files cannot be decoded here. Convert it to PNG or JPEG.")
    for name in _UNMISTAKABLE:
        accept = Image.OPEN[name][1]
        if accept is not None and accept(data[:16]):
            reason = "truncated" if _is_short_riff(data) else "corrupt"
            return ImageError(reason, f"It begins like a {name} file, but its header is damaged or cut off.")
    return ImageError("not_an_image", f"No picture format that Pillow knows begins with {data[:16]!r}.")


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
    # libwebp does not tell a short file from a wrong one, but its container says how long it was.
    return data.startswith(b"RIFF") and len(data) < int.from_bytes(data[4:8], "little") + 8


class _WarningsIgnored:
    """`warnings.catch_warnings` swaps a process-wide list, so of the threads that decode at the same time the first
    one in sets it and the last one out restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._catcher = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._catcher = warnings.catch_warnings(action="ignore")
                self._catcher.__enter__()
            self._inside += 1

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._catcher.__exit__(None, None, None)


_warnings_ignored = _WarningsIgnored()
