"""Damaged image files in every format that Pillow reads."""

import contextlib
import random
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

from tests.images.samples import encoded, photograph, quadrants

# Formats that Pillow reads but cannot write: a valid beginning, to be followed by random bytes.
BEGINNINGS = {
    "BLP": b"BLP2\x01\x00\x00\x00\x02\x08\x08\x00",
    "DCX": struct.pack("<II", 0x3ADE68B1, 12),
    "FITS": b"SIMPLE  =                    T",
    "FLI": b"\x00\x10\x00\x00\x12\xaf\x01\x00\x40\x01\xc8\x00\x08\x00\x03\x00",
    "FTEX": b"FTEX\x00\x00\x00\x00",
    "GBR": struct.pack(">IIIII", 28, 2, 40, 30, 3) + b"GIMP",
    "MIC": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "PDF": b"%PDF-1.4\n3 0 obj<<\n",
    "PSD": b"8BPS\x00\x01" + bytes(6) + b"\x00\x03" + struct.pack(">IIHH", 30, 40, 8, 3),
    "SUN": struct.pack(">IIIIIIII", 0x59A66A95, 40, 30, 24, 3600, 1, 0, 0),
    "XPM": b'/* XPM */\nstatic char *x[] = {\n"4 4 2 1",\n"a c #ff0000",\n',
    "XVTHUMB": b"P7 332\n#END_OF_COMMENTS\n40 30 255\n",
    "CUR": b"\x00\x00\x02\x00\x01\x00\x20\x20\x00\x00",
}


def corpus(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield format names with `count` damaged files of each, the same for the same seed."""
    chance = random.Random(seed)
    files = list(whole().items())
    for number, (name, data) in enumerate(files):
        other = files[(number + 1) % len(files)][1]
        damages = [_flip, _header, _cut, _number, _repeat, lambda *given, end=other: _splice(*given, end)]
        if name == "PNG":
            damages.append(_chunk)
        for _ in range(count):
            yield name, chance.choice(damages)(data, chance)
    for name, beginning in BEGINNINGS.items():
        for _ in range(count):
            yield name, beginning + chance.randbytes(chance.randrange(2000))


def whole() -> dict[str, bytes]:
    """An undamaged file of each format that Pillow reads and writes, and of some variants."""
    files: dict[str, bytes] = {}
    Image.init()
    for name in sorted(Image.SAVE.keys() & Image.OPEN.keys()):
        for mode in ("1", "L", "P", "RGB"):
            with contextlib.suppress(OSError, ValueError, KeyError), warnings.catch_warnings(action="ignore"):
                files[name] = encoded(quadrants(40, 30).convert(mode), name)
    large = photograph(320, 240, 4)
    files["JPEG, progressive"] = encoded(large, "JPEG", progressive=True)
    files["JPEG, EXIF"] = encoded(large, "JPEG", exif=_exif())
    files["PNG, interlaced palette"] = encoded(large.convert("P"), "PNG", transparency=3)
    files["WEBP, lossless"] = encoded(large, "WEBP", lossless=True)
    for kind in ("tiff_lzw", "tiff_deflate", "jpeg", "group4", "packbits"):
        files[f"TIFF, {kind}"] = encoded(large.convert("1") if kind == "group4" else large, "TIFF", compression=kind)
    frames = [photograph(60, 40, seed) for seed in range(3)]
    for name in ("GIF", "WEBP", "PNG"):
        files[f"{name}, animated"] = encoded(frames[0], name, save_all=True, append_images=frames[1:])
    return files


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "an image"
    return exif


Damage = Callable[[bytes, random.Random], bytes]


def _flip(data: bytes, chance: random.Random) -> bytes:
    broken = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
    return bytes(broken)


def _header(data: bytes, chance: random.Random) -> bytes:
    broken = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        broken[chance.randrange(min(len(broken), 120))] = chance.randrange(256)
    return bytes(broken)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _number(data: bytes, chance: random.Random) -> bytes:
    """Put an extreme number into the header, where lengths, offsets and sizes are."""
    at = chance.randrange(max(1, min(len(data), 400) - 4))
    extreme = chance.choice([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x10000])
    return data[:at] + struct.pack(chance.choice("<>") + "I", extreme) + data[at + 4 :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    part = data[start : start + chance.randint(1, 400)]
    return data[:start] + part * chance.randint(2, 50) + data[start:]


def _splice(data: bytes, chance: random.Random, other: bytes) -> bytes:
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]


def _chunk(data: bytes, chance: random.Random) -> bytes:
    """Damage a PNG chunk but correct its checksum, so that it passes the first check."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append(data[at + 4 : at + 8 + length])
        at += 12 + length
    which = chance.randrange(len(chunks))
    damaged = bytearray(chunks[which])
    damaged[chance.randrange(min(4, len(damaged) - 1), len(damaged))] = chance.randrange(256)
    chunks[which] = bytes(damaged)
    framed = (struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks)
    return data[:8] + b"".join(framed)
