"""Decoding: pixels equal to open_clip's, orientation, colours, thumbnails."""

import io
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from tests.images.samples import (
    BLACK,
    GREEN,
    LIMITS,
    RED,
    SIZE,
    SMALL,
    WHITE,
    encoded,
    flat,
    photograph,
    pixels,
    quadrants,
)
from viewfinder.errors import ImageError
from viewfinder.images.decoding import ImageLimits, Preprocess, decode, thumbnail

pytestmark = pytest.mark.slow


class TestAsOpenClip:
    @pytest.mark.parametrize(
        ("resize_mode", "width", "height"),
        [
            (resize_mode, width, height)
            for resize_mode in ("shortest", "squash", "longest")
            for width, height in [(640, 480), (333, 1001), (64, 64), (40, 25), (65, 64), (700, 64)]
        ]
        # With "longest", open_clip fails for such stripes, because less than one pixel remains; see the next test.
        + [(resize_mode, *size) for resize_mode in ("shortest", "squash") for size in [(3000, 10), (1, 300)]],
    )
    @pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
    def test_pixels_equal_those_of_open_clip(
        self, resize_mode: Any, width: int, height: int, interpolation: Any
    ) -> None:
        preprocess = Preprocess(64, resize_mode, interpolation, 90, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        image = photograph(width, height, seed=width)
        expected = open_clip_transform(preprocess)(image).numpy().transpose(1, 2, 0) * 255
        difference = np.abs(pixels(encoded(image), preprocess) - expected)
        assert difference.mean() < 0.5
        assert difference.max() < 16

    def test_a_stripe_is_padded_where_open_clip_fails(self) -> None:
        stripe = Image.new("RGB", (5000, 5), RED)
        result = pixels(encoded(stripe), Preprocess(64, "longest", fill_color=7))
        assert result[31].tolist() == [list(RED)] * 64
        assert (np.delete(result, 31, axis=0) == 7).all()

    @pytest.mark.parametrize("quality", [60, 95])
    def test_embeddings_of_large_jpegs_equal_those_of_open_clip(self, quality: int) -> None:
        import open_clip
        import torch

        torch.manual_seed(0)
        vision = {"image_size": 64, "layers": 2, "width": 128, "patch_size": 16, "head_width": 64}
        text = {"context_length": 8, "vocab_size": 16, "width": 64, "heads": 1, "layers": 1}
        model = open_clip.CLIP(64, vision, text).eval()
        preprocess = Preprocess(64)
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (preprocess.mean, preprocess.std))
        files = [
            encoded(photograph(width, height, seed), "JPEG", quality=quality)
            for seed, (width, height) in enumerate([(1600, 1200), (900, 1600), (1601, 1203), (640, 480)])
        ]
        transform = open_clip_transform(preprocess)
        plain = torch.stack([transform(Image.open(io.BytesIO(file))) for file in files])
        decoded = torch.stack([torch.tensor(pixels(file, preprocess)).permute(2, 0, 1) for file in files])
        ours = (decoded / 255 - mean) / std
        with torch.no_grad():
            expected, got = (model.encode_image(batch, normalize=True) for batch in (plain, ours))
        assert (expected * got).sum(dim=1).mean() >= 0.999
        # All images are similar to an untrained model, so their differences must agree too.
        centre = expected.mean(dim=0)
        assert torch.cosine_similarity(expected - centre, got - centre).min() >= 0.99
        assert torch.cosine_similarity(expected[:1] - centre, expected[1:] - centre).max() < 0.9


def open_clip_transform(preprocess: Preprocess) -> Callable[[Image.Image], Any]:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform: Callable[[Image.Image], Any] = image_transform_v2(
        PreprocessCfg(
            size=preprocess.size,
            mean=preprocess.mean,
            std=preprocess.std,
            interpolation=preprocess.interpolation,
            resize_mode=preprocess.resize_mode,
            fill_color=preprocess.fill_color,
        ),
        is_train=False,
    )
    return transform


def test_pixels_are_a_writable_contiguous_copy() -> None:
    result = decode(encoded(quadrants()), SMALL, LIMITS)
    assert result.pixels.dtype == np.uint8
    assert result.pixels.shape == (SIZE, SIZE, 3)
    assert result.pixels.flags.writeable
    assert result.pixels.flags.c_contiguous


class TestUpright:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize(
        ("format_name", "width"), [("JPEG", 80), ("JPEG", 801), ("PNG", 80), ("WEBP", 80), ("TIFF", 80), ("MPO", 400)]
    )
    def test_a_rotated_image_is_decoded_upright(self, orientation: int, format_name: str, width: int) -> None:
        upright = quadrants(width, width * 3 // 4)
        stored = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,  # rotated back by 270 degrees
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }
        rotated = upright.transpose(stored[orientation]) if orientation in stored else upright
        exif = Image.Exif()
        exif[0x0112] = orientation
        result = decode(encoded(rotated, format_name, exif=exif), SMALL, LIMITS)
        assert (result.width, result.height) == upright.size
        assert np.abs(result.pixels.astype(int) - pixels(encoded(upright))).mean() < 6

    @pytest.mark.parametrize(
        "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x02"]
    )
    def test_invalid_exif_is_ignored(self, exif: bytes) -> None:
        assert pixels(encoded(quadrants(), "JPEG", exif=exif)).shape == (SIZE, SIZE, 3)

    @pytest.mark.parametrize("orientation", [0, 9, 4711])
    def test_an_unknown_orientation_is_ignored(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert (pixels(encoded(quadrants(), exif=exif)) == pixels(encoded(quadrants()))).all()


def lab_red() -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    return transform.apply(flat("RGB", RED))


def red_palette() -> Image.Image:
    image = flat("P", 1)
    image.putpalette([*BLACK, *RED])
    return image


def premultiplied(image: Image.Image) -> bytes:
    """Return a TIFF whose ExtraSamples field declares premultiplied alpha."""
    field = struct.pack("<HHI", 338, 3, 1)
    data = encoded(image, "TIFF")
    assert field + b"\2" in data
    return data.replace(field + b"\2", field + b"\1")


COLOURS: dict[str, tuple[Callable[[], bytes], tuple[int, int, int]]] = {
    "jpeg": (lambda: encoded(flat("RGB", RED), "JPEG", quality=95), RED),
    "progressive jpeg": (lambda: encoded(flat("RGB", RED), "JPEG", quality=95, progressive=True), RED),
    "grey jpeg": (lambda: encoded(flat("L", 77), "JPEG"), (77, 77, 77)),
    "cmyk jpeg": (lambda: encoded(flat("CMYK", (0, 255, 255, 0)), "JPEG", quality=95), (255, 0, 0)),
    "cmyk tiff": (lambda: encoded(flat("CMYK", (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
    "ycbcr tiff": (lambda: encoded(flat("RGB", RED).convert("YCbCr"), "TIFF"), RED),
    "lab tiff": (lambda: encoded(lab_red(), "TIFF"), RED),
    "1 bit, white": (lambda: encoded(flat("1", 1)), WHITE),
    "1 bit, black": (lambda: encoded(flat("1", 0), "TIFF", compression="group4"), BLACK),
    "palette": (lambda: encoded(flat("RGB", RED).quantize(4)), RED),
    "gif": (lambda: encoded(flat("RGB", RED), "GIF"), RED),
    "bmp": (lambda: encoded(flat("RGB", RED), "BMP"), RED),
    "ico": (lambda: encoded(flat("RGB", RED), "ICO", sizes=[(16, 16), (32, 32)]), RED),
    "icns": (lambda: encoded(flat("RGBA", (*RED, 255)), "ICNS"), RED),
    "webp": (lambda: encoded(flat("RGB", RED), "WEBP", lossless=True), RED),
    "avif": (lambda: encoded(flat("RGB", RED), "AVIF", quality=100), RED),
    "jpeg 2000": (lambda: encoded(flat("RGB", RED), "JPEG2000"), RED),
    "ppm": (lambda: encoded(flat("RGB", RED), "PPM"), RED),
    "tga": (lambda: encoded(flat("RGB", RED), "TGA"), RED),
    "dds": (lambda: encoded(flat("RGB", RED), "DDS"), RED),
    "half transparent": (lambda: encoded(flat("RGBA", (0, 0, 0, 128))), (127, 127, 127)),
    "transparent": (lambda: encoded(flat("RGBA", (*RED, 0))), WHITE),
    "transparent webp": (lambda: encoded(flat("RGBA", (*RED, 0)), "WEBP", lossless=True, exact=True), WHITE),
    "grey with alpha": (lambda: encoded(flat("LA", (0, 128))), (127, 127, 127)),
    "premultiplied": (lambda: premultiplied(flat("RGBA", (64, 0, 0, 128))), (191, 127, 127)),
    "premultiplied grey": (lambda: premultiplied(flat("LA", (64, 128))), (191, 191, 191)),
    "palette, one alpha each": (lambda: encoded(red_palette(), transparency=bytes([255, 128])), (238, 143, 148)),
    "palette, one transparent colour": (lambda: encoded(red_palette(), transparency=1), WHITE),
    "gif, one transparent colour": (lambda: encoded(red_palette(), "GIF", transparency=1), WHITE),
    "one transparent colour": (lambda: encoded(flat("RGB", RED), transparency=RED), WHITE),
    "one transparent grey": (lambda: encoded(flat("L", 10), transparency=10), WHITE),
}


@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_decoded_as_displayed(name: str) -> None:
    make, colour = COLOURS[name]
    assert np.abs(pixels(make()) - colour).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I", "I;16", "F"])
def test_every_mode_of_a_file_is_decoded(mode: str) -> None:
    assert pixels(encoded(Image.new(mode, (9, 7)), "TIFF")).shape == (SIZE, SIZE, 3)


class TestDeepGrey:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (np.array([[0, 32768, 65535]], np.uint16), [0, 128, 255]),
            (np.array([[0, 2048, 4095]], np.uint16), [0, 128, 255]),
            (np.array([[0, 128, 255]], np.int32), [0, 128, 255]),
            (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
            (np.array([[-50_000, 0, 50_000]], np.int32), [0, 128, 255]),
            (np.array([[0, 1 << 30, (1 << 31) - 1]], np.int32), [0, 128, 255]),
            (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
            (np.array([[0, 128, 255]], np.float32), [0, 128, 255]),
            (np.array([[-3e38, 0, 3e38]], np.float32), [0, 128, 255]),
            (np.array([[np.nan, 0.5, np.inf]], np.float32), [0, 128, 255]),
            (np.array([[-np.inf, 0.5, 1]], np.float32), [0, 128, 255]),
            (np.array([[np.nan, np.nan, np.nan]], np.float32), [0, 0, 0]),
            (np.array([[7, 7, 7]], np.float32), [7, 7, 7]),
            (np.array([[-7, -7, -7]], np.float32), [0, 0, 0]),
        ],
    )
    def test_values_are_scaled_by_their_range(self, values: NDArray[Any], expected: list[int]) -> None:
        stripes = np.repeat(np.repeat(values, 20, axis=1), 60, axis=0)
        result = pixels(encoded(Image.fromarray(stripes), "TIFF"), Preprocess(60))
        assert np.abs(result[30, [8, 30, 52], 0] - expected).max() <= 1

    @pytest.mark.parametrize("format_name", ["PNG", "TIFF", "PPM", "JPEG2000"])
    def test_16_bit_images_keep_their_brightness(self, format_name: str) -> None:
        image = Image.fromarray(np.full((40, 40), 20_000, np.uint16))
        assert np.abs(pixels(encoded(image, format_name)) - 20_000 / 257).max() <= 1

    def test_big_endian_images_are_decoded(self) -> None:
        image = Image.frombytes("I;16B", (40, 40), struct.pack(">H", 20_000) * 1600)
        assert np.abs(pixels(encoded(image, "TIFF")) - 20_000 / 257).max() <= 1


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_the_first_frame_of_an_animation_is_decoded(format_name: str) -> None:
    frames = [flat("RGB", RED), flat("RGB", GREEN)]
    data = encoded(frames[0], format_name, save_all=True, append_images=frames[1:])
    assert np.abs(pixels(data) - RED).max() <= 12


@pytest.mark.parametrize(("format_name", "name"), [("JPEG", "jpeg"), ("PNG", "png"), ("JPEG2000", "jpeg2000")])
def test_size_and_format_of_the_original_are_returned(format_name: str, name: str) -> None:
    result = decode(encoded(quadrants(901, 603), format_name), SMALL, LIMITS)
    assert (result.width, result.height, result.format) == (901, 603, name)


class TestWarnings:
    def test_no_warning_of_pillow_escapes(self) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            large = encoded(Image.new("1", (10_000, 9_000)), "TIFF", compression="group4")  # above Pillow's own limit
            decode(large, SMALL, ImageLimits(10**9, 10**9))
        assert caught == []

    def test_decoding_in_threads_restores_the_warning_filters(self) -> None:
        data = encoded(quadrants())
        before = list(warnings.filters)
        threads = [threading.Thread(target=lambda: [pixels(data) for _ in range(20)]) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == before


class TestThumbnail:
    def test_it_is_a_jpeg_of_the_requested_width(self) -> None:
        small = Image.open(io.BytesIO(thumbnail(encoded(quadrants(901, 600), "JPEG"), 320, LIMITS)))
        assert (small.format, small.size) == ("JPEG", (320, 213))
        assert np.abs(np.asarray(small.convert("RGB"))[20, 20].astype(int) - RED).max() < 12

    @pytest.mark.parametrize(
        ("size", "expected"), [((100, 70), (100, 70)), ((50, 9000), (7, 1280)), ((9000, 2), (320, 1))]
    )
    def test_it_is_never_enlarged_and_has_a_maximum_height(
        self, size: tuple[int, int], expected: tuple[int, int]
    ) -> None:
        small = Image.open(io.BytesIO(thumbnail(encoded(Image.new("RGB", size)), 320, LIMITS)))
        assert small.size == expected

    def test_it_is_upright_with_transparency_over_white(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encoded(flat("RGBA", (*RED, 0)).resize((60, 20)), exif=exif)
        small = Image.open(io.BytesIO(thumbnail(data, 320, LIMITS)))
        assert small.size == (20, 60)
        assert small.getpixel((10, 30)) == WHITE

    def test_it_fails_with_the_same_reasons(self) -> None:
        with pytest.raises(ImageError, match="0 bytes"):
            thumbnail(b"", 320, LIMITS)


def test_this_pillow_has_the_codecs_that_buckets_need() -> None:
    assert all(features.check(name) for name in ("jpg", "jpg_2000", "zlib", "libtiff", "webp", "avif", "littlecms2"))


def test_importing_the_decoder_loads_neither_torch_nor_ray() -> None:
    heavy = {"torch", "ray", "open_clip", "pydantic"}
    code = f"import sys, viewfinder.images.decoder; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
