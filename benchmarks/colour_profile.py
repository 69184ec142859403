"""Decode photographs of 12 megapixels with a colour profile that has to be converted, against the same without."""

from PIL import ImageCms

from benchmarks.bucket import photograph
from benchmarks.harness import Measurement
from benchmarks.ratio import in_turn
from viewfinder.images.decoding import ImageLimits, Preprocess, decode
from viewfinder.testing.colour_profiles import ADOBE_RGB, rgb_profile

WIDTH, HEIGHT = 4000, 3000
LIMITS = ImageLimits(10**9, 10**9)


def measure(quick: bool) -> Measurement:
    """Time with a profile of Adobe RGB ÷ time without a profile."""
    width, height = (WIDTH // 4, HEIGHT // 4) if quick else (WIDTH, HEIGHT)
    plain = [photograph(seed, width, height) for seed in range(1 if quick else 3)]
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rounds = 1 if quick else 9

    def decode_all(files: list[bytes]) -> None:
        for data in files:
            decode(data, Preprocess(224), LIMITS)

    def compared(name: str, profile: bytes) -> tuple[float, str]:
        profiled = [_with_profile(data, profile) for data in plain]
        ratio = in_turn(name, lambda: decode_all(profiled), lambda: decode_all(plain), rounds=rounds)
        return ratio.value, str(ratio)

    value, pairs = compared("colour_profile", rgb_profile(*ADOBE_RGB))
    same, _ = compared("colour_profile, sRGB", srgb)
    return Measurement(
        value,
        f"{pairs}; {len(plain)} generated JPEGs of {width} x {height} to 224 pixels, Adobe RGB ÷ no profile, in "
        f"process; {same:.2f} with a profile of sRGB, which is recognized and not converted",
    )


def _with_profile(data: bytes, profile: bytes) -> bytes:
    """The same JPEG with a profile of at most 64 kB."""
    content = b"ICC_PROFILE\0\1\1" + profile
    return data[:2] + b"\xff\xe2" + (len(content) + 2).to_bytes(2, "big") + content + data[2:]
