"""Buckets of generated photographs behind a real S3 endpoint: many keys over few files."""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from viewfinder.testing.s3 import S3Endpoint

QUALITY = 85
# Standard deviation of the Gaussian blur of lens and demosaicing. It gives files of 3.9 MB, common for cameras of 12
# megapixels; without it they have 5.7 MB.
BLUR_PIXELS = 0.7

# Files are kept between runs, because generating an image of 12 megapixels takes seconds.
KEPT = Path(__file__).parent / "out" / "images"

CAMERA = ((2048, 1536), (2592, 1944), (3264, 2448), (4000, 3000))  # 3 to 12 megapixels
WEB = ((640, 480), (480, 640), (1024, 683), (500, 375))
SMALL = ((96, 96), (96, 72), (72, 96), (128, 96))


@dataclass(frozen=True)
class Bucket:
    """`count` objects at `source`, copies of `files`; a local directory if there is no `endpoint`."""

    source: str
    count: int
    files: Sequence[Path]
    endpoint: S3Endpoint | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Variables that a program needs to read it."""
        if self.endpoint is None:
            return {}
        return {
            "AWS_ACCESS_KEY_ID": self.endpoint.access_key,
            "AWS_SECRET_ACCESS_KEY": self.endpoint.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint.url,
            "VIEWFINDER_S3_ENDPOINT_URL": self.endpoint.url,
        }

    @property
    def described(self) -> str:
        """A description for `detail`."""
        sizes = [path.stat().st_size for path in self.files]
        place = "a local directory" if self.endpoint is None else "a loopback S3 endpoint (rclone)"
        return f"JPEGs of {_kilobytes(min(sizes))} to {_kilobytes(max(sizes))} from {place}"


@contextmanager
def bucket(
    root: Path, sizes: Sequence[tuple[int, int]], count: int, *, each: int = 3, kept: Path = KEPT
) -> Iterator[Bucket]:
    """Serve the images of `laid_out` as a bucket."""
    local = laid_out(root, sizes, count, each=each, kept=kept)
    with S3Endpoint(root, changing=False) as endpoint:
        yield Bucket("s3://images", count, local.files, endpoint)


def laid_out(root: Path, sizes: Sequence[tuple[int, int]], count: int, *, each: int = 3, kept: Path = KEPT) -> Bucket:
    """Make `count` files in `root`/images: `each` different images of every (width, height), repeated in turn.

    They are hard links, so that disk and page cache do not affect the measurement.
    """
    files = [kept_photograph(seed, width, height, kept) for width, height in sizes for seed in range(each)]
    directory = root / "images"
    directory.mkdir(parents=True)
    local = [directory.parent / path.name for path in files]
    for path, copy in zip(files, local, strict=True):
        copy.write_bytes(path.read_bytes())
    for number in range(count):
        os.link(local[number % len(local)], directory / f"{number:06}.jpg")
    return Bucket(str(directory), count, files)


def kept_photograph(seed: int, width: int, height: int, kept: Path = KEPT) -> Path:
    """The file of a photograph in `kept`, generated if it does not exist."""
    path = kept / f"{width}x{height}-{seed}.jpg"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_bytes(photograph(seed, width, height))
        unfinished.replace(path)
    return path


def photograph(seed: int, width: int, height: int, *, blur_pixels: float = BLUR_PIXELS) -> bytes:
    """Generate a JPEG with a photograph's statistics.

    Amplitudes fall as 1/frequency, blurred by a Gaussian of this standard deviation; weak colours, sensor noise.
    """
    print(f"making image {seed} of {width} x {height}", file=sys.stderr, flush=True)
    rng = np.random.default_rng(seed)
    light, blue, red = (_cloud(rng, width, height, blur_pixels) for _ in range(3))
    planes = [128 + 50 * light, 128 + 12 * blue, 128 + 12 * red]
    planes[0] += rng.normal(0, 2, (height, width)).astype(np.float32)
    ycc = np.stack([np.clip(plane, 0, 255).astype(np.uint8) for plane in planes], axis=-1)
    file = io.BytesIO()
    Image.frombytes("YCbCr", (width, height), ycc.tobytes()).convert("RGB").save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _cloud(rng: np.random.Generator, width: int, height: int, blur_pixels: float) -> NDArray[np.float32]:
    """Blurred noise with amplitudes that fall as 1/frequency: float32 [height, width], mean 0, deviation 1."""
    down = np.fft.fftfreq(height).astype(np.float32)[:, None]
    across = np.fft.rfftfreq(width).astype(np.float32)[None, :]
    frequency = np.sqrt(down**2 + across**2)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((height, width), dtype=np.float32)) / frequency
    spectrum *= np.exp(-2 * (np.pi * blur_pixels) ** 2 * (down**2 + across**2))
    cloud: NDArray[np.float32] = np.fft.irfft2(spectrum, (height, width)).astype(np.float32)
    cloud /= cloud.std()
    return cloud


def _kilobytes(size: int) -> str:
    return f"{size / 1000:,.0f} kB"
