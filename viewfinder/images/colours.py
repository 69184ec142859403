"""Pixels of any mode and colour space as 8-bit grey, RGB or RGBA in sRGB, which is what the models were trained on."""

import functools
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

# Rows of high-depth grey converted at a time: a large image in float32 would exceed the decoder's memory.
_CONVERTED_ROWS = 256

# Modes of the pixels that a profile's colour space describes.
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# Profiles that change no channel of the probe by more are treated as sRGB: there are dozens of slightly different ones.
_SAME_COLOUR = 2
# Paper is not quite white, and linear light makes 188 of 128.
_MIN_WHITE, _MIN_GREY, _MAX_GREY = 180, 40, 220
# Each profile is parsed once (CMYK profiles take 10 ms); a bucket has few different ones.
_CACHED_PROFILES = 16


class ToSrgb(NamedTuple):
    """The way from pixels of `mode` (L, RGB or CMYK) to RGB pixels in sRGB."""

    mode: str
    transform: ImageCms.ImageCmsTransform


def profile_of(image: Image.Image) -> bytes | None:
    """Return the colour profile embedded in a file, None if there is none."""
    profile = image.info.get("icc_profile")
    # Pillow converts LAB to sRGB by itself.
    return profile if isinstance(profile, bytes) and profile and image.mode != "LAB" else None


def to_supported_mode(image: Image.Image) -> Image.Image:
    """Convert an image to mode L, RGB or RGBA, or leave it in CMYK if its profile says which colours those are.

    High-depth greys are scaled to 8 bits. The colours are still those of the file.
    """
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
    if image.mode == "CMYK":
        described = conversion(profile_of(image))
        return image if described is not None and described.mode == "CMYK" else image.convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an image in mode L, RGB, RGBA or CMYK from the colours of `profile` to sRGB, in mode L, RGB or RGBA.

    An image in sRGB is returned as it is; a profile that is broken or of another kind of image is ignored.
    """
    described = conversion(profile)
    source = None if described is None else _in_mode(image, described.mode)
    if described is None or source is None:
        return image.convert("RGB") if image.mode == "CMYK" else image
    converted = _applied(described, source)
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    return converted


@functools.lru_cache(maxsize=_CACHED_PROFILES)
def conversion(profile: bytes | None) -> ToSrgb | None:
    """Return the conversion that a profile describes; None if it is broken, of another kind, or that of sRGB."""
    if profile is None:
        return None
    try:
        parsed = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODES.get(parsed.profile.xcolor_space)
        if mode is None:
            return None
        transform = ImageCms.buildTransform(parsed, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
        return None
    described = ToSrgb(mode, transform)
    return described if _is_plausible(described) and _changes_colours(described) else None


def _in_mode(image: Image.Image, mode: str) -> Image.Image | None:
    """Return the pixels that a profile for `mode` describes, without alpha; None if it does not fit the image."""
    if "CMYK" in (mode, image.mode):
        return image if mode == image.mode else None
    if mode == "RGB":  # common in grey JPEGs
        return image.convert("RGB")
    if image.mode == "L":
        return image
    red, green, blue = (image.getchannel(channel) for channel in "RGB")
    return red if red == green == blue else None  # grey with alpha is in mode RGBA


def _applied(described: ToSrgb, image: Image.Image) -> Image.Image:
    converted = described.transform.apply(image)
    assert converted is not None  # it is None only if applied in place
    return converted


def _is_plausible(described: ToSrgb) -> bool:
    """False if white is not white, or a middle grey nearly black or white: the profile's numbers are damaged."""
    source = Image.fromarray(np.array([[[255] * 3, [128] * 3]], np.uint8)).convert(described.mode)
    white, grey = np.asarray(_applied(described, source))[0]
    # Presses differ in the colour of equal parts of ink.
    return bool(white.min() >= _MIN_WHITE and (described.mode == "CMYK" or _MIN_GREY <= grey.mean() <= _MAX_GREY))


def _changes_colours(described: ToSrgb) -> bool:
    if described.mode == "CMYK":
        return True
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    if described.mode == "L":
        probe = np.repeat(levels[None, :, None], 3, axis=2)
    image = Image.fromarray(probe).convert(described.mode)
    after = np.asarray(_applied(described, image)).astype(int)
    return int(np.abs(after - probe).max()) > _SAME_COLOUR


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
    for top in range(0, len(values), _CONVERTED_ROWS):
        strip = values[top : top + _CONVERTED_ROWS].astype(np.float32)
        with np.errstate(all="ignore"):
            strip *= scale
            strip -= black * scale
        np.nan_to_num(strip, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        grey[top : top + _CONVERTED_ROWS] = np.rint(strip, out=strip)
    return Image.fromarray(grey)


def _finite_range(values: NDArray[np.generic]) -> tuple[float, float]:
    if values.dtype.kind != "f":
        return float(values.min()), float(values.max())
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
