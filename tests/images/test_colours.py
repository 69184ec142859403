"""Colour profiles: pixels come out in sRGB."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.images.samples import LIMITS, encoded, flat, photograph, pixels
from viewfinder.images.colours import conversion
from viewfinder.images.decoding import Preprocess, thumbnail
from viewfinder.testing.colour_profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    INKS,
    Matrix,
    cmyk_profile,
    grey_profile,
    lab_to_srgb,
    matrix_to_srgb,
    rgb_profile,
)

# Profiles with damaged numbers.
DARK = rgb_profile(((0.01, 0.0, 0.0), (0.0, 0.01, 0.0), (0.0, 0.0, 0.01)), 2.2)
GREY = grey_profile(1.0)
BRIGHT = rgb_profile(ADOBE_RGB[0], 0.01)

COLOUR = (30, 200, 90)
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("space", [ADOBE_RGB, DISPLAY_P3], ids=["Adobe RGB", "Display P3"])
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "MPO"])
def test_rgb_is_converted_from_its_profile(format_name: str, space: tuple[Matrix, float]) -> None:
    options = {"quality": 100} if format_name not in ("PNG", "TIFF") else {}
    data = encoded(flat("RGB", COLOUR), format_name, icc_profile=rgb_profile(*space), **options)
    expected = matrix_to_srgb(COLOUR, *space)
    assert np.abs(pixels(data) - expected).max() <= 3
    assert np.abs(np.array(expected) - COLOUR).max() > 10


def test_a_large_jpeg_is_converted_at_its_reduced_size() -> None:
    photo = photograph(900, 700, seed=1)
    profile = rgb_profile(*ADOBE_RGB)
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    converted = ImageCms.buildTransform(source, target, "RGB", "RGB").apply(photo)
    assert converted is not None
    size = Preprocess(224)
    got = pixels(encoded(photo, "JPEG", quality=95, icc_profile=profile), size)
    assert np.abs(got - pixels(encoded(converted), size)).mean() < 2
    assert np.abs(got - pixels(encoded(photo), size)).mean() > 6


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
@pytest.mark.parametrize("ink", range(4))
def test_cmyk_is_converted_from_its_profile(format_name: str, ink: int) -> None:
    image = flat("CMYK", tuple(255 if channel == ink else 0 for channel in range(4)))
    data = encoded(image, format_name, icc_profile=cmyk_profile())
    assert np.abs(pixels(data) - lab_to_srgb([*INKS.values()][ink])).max() <= 5


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_is_converted_from_its_profile(mode: str) -> None:
    linear = grey_profile(1.0)
    colour = {"L": 128, "LA": (128, 255), "1": 1}[mode]
    expected = 255 if mode == "1" else 188
    assert np.abs(pixels(encoded(flat(mode, colour), icc_profile=linear)) - expected).max() <= 2


def test_grey_with_an_rgb_profile_is_converted() -> None:
    bright = rgb_profile(ADOBE_RGB[0], 1.0)
    assert np.abs(pixels(encoded(flat("L", 128), "JPEG", icc_profile=bright)) - 188).max() <= 2


def test_a_palette_is_converted() -> None:
    data = encoded(flat("RGB", COLOUR).quantize(4), icc_profile=rgb_profile(*ADOBE_RGB))
    assert np.abs(pixels(data) - matrix_to_srgb(COLOUR, *ADOBE_RGB)).max() <= 3


def test_transparency_survives_the_conversion() -> None:
    data = encoded(flat("RGBA", (*COLOUR, 128)), icc_profile=rgb_profile(*ADOBE_RGB))
    expected = (np.array(matrix_to_srgb(COLOUR, *ADOBE_RGB)) * 128 + 255 * 127) / 255
    assert np.abs(pixels(data) - expected).max() <= 3


def test_a_thumbnail_is_in_srgb() -> None:
    data = encoded(flat("RGB", COLOUR), icc_profile=rgb_profile(*ADOBE_RGB))
    small = np.asarray(Image.open(io.BytesIO(thumbnail(data, 32, LIMITS)))).astype(int)
    assert np.abs(small - matrix_to_srgb(COLOUR, *ADOBE_RGB)).max() <= 4


@pytest.mark.parametrize(
    "profile",
    [b"garbage", bytes(4000), SRGB_PROFILE[:60], rgb_profile(*ADOBE_RGB)[:200], cmyk_profile(), GREY, DARK, BRIGHT],
    ids=["garbage", "zeros", "half a header", "cut", "for CMYK", "for grey", "black", "all white"],
)
@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_a_profile_that_is_broken_or_for_other_pixels_is_ignored(format_name: str, profile: bytes) -> None:
    image = photograph(120, 90, seed=2)
    assert (pixels(encoded(image, format_name, icc_profile=profile)) == pixels(encoded(image, format_name))).all()


def test_cmyk_with_a_broken_profile_is_decoded_as_without() -> None:
    image = flat("CMYK", (0, 255, 255, 0))
    assert (pixels(encoded(image, "TIFF", icc_profile=b"garbage")) == pixels(encoded(image, "TIFF"))).all()


@pytest.mark.parametrize("gamma", [2.2, None])
def test_a_profile_like_srgb_changes_nothing(gamma: float | None) -> None:
    profile = SRGB_PROFILE if gamma is None else grey_profile(gamma)
    image = photograph(120, 90, seed=3).convert("RGB" if gamma is None else "L")
    assert np.abs(pixels(encoded(image, icc_profile=profile)) - pixels(encoded(image))).max() <= (6 if gamma else 0)


def test_an_srgb_profile_costs_no_conversion() -> None:
    assert conversion(SRGB_PROFILE) is None
    assert conversion(rgb_profile(*ADOBE_RGB)) is not None
