"""Loading of a file's pixels: upright, in a mode that can be resized, with what says which colours they are.

A file that Pillow cannot read is tried again without its metadata, then as far as it goes.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

from PIL import ExifTags, Image, ImageFile, ImagePalette, UnidentifiedImageError

from viewfinder.errors import ImageError
from viewfinder.images import raw
from viewfinder.images.colours import profile_of, to_supported_mode
from viewfinder.images.image_hash import image_hash
from viewfinder.images.metadata import without_metadata
from viewfinder.images.pillow_formats import formats_of
from viewfinder.images.truncated import load_truncated, without_blank_end

# libjpeg decodes at 1/2, 1/4 or 1/8 scale in a fraction of the time; each side must keep this multiple of the pixels
# needed. Measured at 12 MP: an embedding cosine of 0.99999, and a seventh (JPEG quality 75) to a third (95) of plain
# Pillow's time, nearly all of it Huffman decoding, which no scale avoids. A margin of 2 costs a tenth more time.
_DRAFT_MARGIN = 1.5

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

TRUNCATED_TAIL = "truncated_tail"


class Loaded(NamedTuple):
    """An upright image in mode L, RGB, RGBA or CMYK, perhaps already smaller than the original, in `profile`'s colours.

    `width`, `height` and `format` are the original's; `warning` is None or `TRUNCATED_TAIL`. `image_hash` is "" if the
    loader makes none.
    """

    image: Image.Image
    width: int
    height: int
    format: str
    profile: bytes | None
    warning: str | None = None
    image_hash: str = ""


class Loader:
    """Loads one file with at most `max_pixels`, and with at least the share `min_rows` of its rows.

    `target` returns the size needed for an original of the given size. With `hashed` images have an `image_hash`.
    """

    def __init__(
        self, *, max_pixels: int, min_rows: float, target: Callable[[int, int], tuple[int, int]], hashed: bool
    ) -> None:
        self._max_pixels = max_pixels
        self._min_rows = min_rows
        self._target = target
        self._hashed = hashed

    def load(self, data: bytes) -> Loaded:
        """Load a file. Raises `ImageError`, and nearly anything else for broken files, as Pillow's plugins do."""
        return self._load_main_image(data) if raw.has_previews(data) else self._load_file(data)

    def _load_main_image(self, data: bytes) -> Loaded:
        """Load the largest image inside a RAW file, or a TIFF that begins with a preview."""
        too_large: Exception | None = None
        for preview in raw.previews(data):
            try:
                loaded = self._load_file(preview.content(), preview.orientation)
            except MemoryError:
                raise
            except Image.DecompressionBombError as error:
                too_large = too_large or error
            except ImageError as error:
                if error.reason == "too_many_pixels":
                    too_large = too_large or error
            except Exception:
                continue  # an embedded preview of a kind that Pillow does not decode, or other bytes
            else:
                return loaded._replace(format="tiff" if data[:2] in (b"II", b"MM") else "raw")
        if too_large is not None:
            raise too_large
        raise ImageError(
            "unsupported",
            "A camera's RAW file, or a TIFF, in which only a thumbnail can be decoded. Convert it to JPEG or PNG.",
        )

    def _load_file(self, data: bytes, orientation: int = 1) -> Loaded:
        data = without_blank_end(data)
        try:
            return self._load_whole(data, orientation)
        except (ImageError, Image.DecompressionBombError, MemoryError):
            raise
        except Exception as error:
            return self._load_damaged(data, orientation, error)

    def _load_whole(self, data: bytes, orientation: int) -> Loaded:
        image, original = self._opened(data)
        with image:
            reduced = image.size != original
            image.load()
            if image.mode == "P" and image.palette is None:  # of an icon of macOS Pillow takes over the pixels alone
                image.palette = ImagePalette.ImagePalette("RGB", image.im.getpalette("RGB", "RGB"))
            if not reduced:
                original = image.size  # icons and rotated TIFFs have their final size only now
                _check_pixels(original, self._max_pixels)
            return self._finished(image, original, orientation, data)

    def _load_damaged(self, data: bytes, orientation: int, error: Exception) -> Loaded:
        """Load a file that Pillow cannot load because of `error`: without metadata, then what there is of it."""
        copies = [*without_metadata(data)]
        if not copies and isinstance(error, UnidentifiedImageError):
            raise error
        for copy in copies:
            try:
                return self._load_whole(copy, orientation)
            except MemoryError:
                raise
            except Exception:
                continue  # the pixels are damaged too
        return self._load_truncated(copies[0] if copies else data, orientation, error)

    def _load_truncated(self, data: bytes, orientation: int, error: Exception) -> Loaded:
        """Load as much as there is of a file that cannot be loaded as a whole because of `error`."""
        original = (0, 0)

        def opened(part: bytes) -> ImageFile.ImageFile:
            nonlocal original
            image, original = self._opened(part)
            return image

        try:
            partial = load_truncated(data, opened, self._min_rows)
        except MemoryError:
            raise
        except Exception:
            partial = None
        if partial is None:
            error.add_note(f"Less than {self._min_rows:.0%} of its rows can be decoded.")
            raise error
        finished = self._finished(partial, original, orientation, data, whole=False)
        return finished._replace(warning=TRUNCATED_TAIL)

    def _opened(self, data: bytes) -> tuple[ImageFile.ImageFile, tuple[int, int]]:
        """Open a file that may be loaded, at a reduced size if possible, and return its original size too."""
        image = Image.open(io.BytesIO(data), formats=formats_of(data))
        if image.format == "IPTC":  # contains an image of any format, including EPS
            raise ImageError("unsupported", "IPTC files cannot be decoded here. Convert it to PNG or JPEG.")
        original = image.size
        _check_pixels(original, self._max_pixels)
        # The image may be rotated relative to the target, so its shorter side is compared with the target's.
        factor = min(original) / min(self._target(*original)) / _DRAFT_MARGIN
        if factor >= 2:
            image.draft(None, (int(image.width / factor), int(image.height / factor)))
        return image, original

    def _finished(
        self,
        image: ImageFile.ImageFile,
        original: tuple[int, int],
        default_orientation: int,
        data: bytes,
        *,
        whole: bool = True,
    ) -> Loaded:
        orientation = _orientation(image, default_orientation)
        profile = profile_of(image)
        # Before its mode is changed.
        hashed = image_hash(data, image, orientation, whole=whole) if self._hashed else ""
        upright = to_supported_mode(image)
        if orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[orientation])
            if orientation >= 5:  # rotated by 90 degrees
                original = original[::-1]
        return Loaded(upright, *original, str(image.format).lower(), profile, image_hash=hashed)


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            "too_many_pixels", f"The image has {width} x {height} pixels; the limit is {max_pixels:,} pixels."
        )


def _orientation(image: Image.Image, default: int) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, default))
    except Exception:  # broken EXIF raises nearly anything, and must not fail the image
        return default
