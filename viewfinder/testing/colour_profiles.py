"""Small colour profiles (ICC.1:2001-04), and the colours that they describe, computed without a library."""

import struct
from collections.abc import Mapping

import numpy as np

Colour = tuple[float, float, float]
Matrix = tuple[Colour, Colour, Colour]

# Primaries adapted to D50, one column each, and gamma.
ADOBE_RGB: tuple[Matrix, float] = (
    ((0.60974, 0.20528, 0.14919), (0.31111, 0.62567, 0.06322), (0.01947, 0.06087, 0.74457)),
    2.19921875,
)
DISPLAY_P3: tuple[Matrix, float] = (
    ((0.51512, 0.29198, 0.15710), (0.24120, 0.69225, 0.06657), (-0.00105, 0.04189, 0.78407)),
    2.19921875,
)
SRGB = np.array(((0.43607, 0.38515, 0.14307), (0.22249, 0.71687, 0.06061), (0.01392, 0.09708, 0.71410)))
WHITE = (0.9642, 1.0, 0.8249)
# CIE L*a*b* of printing inks, far from the pure cyan, magenta and yellow of screens.
INKS: Mapping[str, Colour] = {"C": (55, -37, -50), "M": (48, 74, -3), "Y": (89, -5, 93), "K": (0, 0, 0)}


def rgb_profile(matrix: Matrix, gamma: float) -> bytes:
    """A profile of a screen or camera with these primaries."""
    columns = [tuple(row[channel] for row in matrix) for channel in range(3)]
    tags = {f"{name}XYZ".encode(): _xyz(column) for name, column in zip("rgb", columns, strict=True)}
    tags |= {f"{name}TRC".encode(): _curve(gamma) for name in "rgb"}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    """A profile of grey images."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """A profile of a printer on which each ink darkens the others, and black is black."""
    straight = bytes(range(256))
    nodes = b""
    for mixture in range(16):
        inks = [ink for bit, ink in enumerate(INKS.values()) if mixture & 8 >> bit]
        lightness = 100 * np.prod([each[0] / 100 for each in inks])
        a, b = (
            np.sum([(0, 0), *(each[1:] for each in inks)], axis=0) * lightness / 100 if len(inks) != 1 else inks[0][1:]
        )
        nodes += bytes([round(lightness * 255 / 100), round(a + 128), round(b + 128)])
    identity = [65536, 0, 0, 0, 65536, 0, 0, 0, 65536]
    table = b"mft1" + bytes(4) + struct.pack(">4B9i", 4, 3, 2, 0, *identity) + straight * 4 + nodes + straight * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def matrix_to_srgb(colour: tuple[int, int, int], matrix: Matrix, gamma: float) -> list[int]:
    """The sRGB values 0..255 of a colour under the profile `rgb_profile(matrix, gamma)`."""
    linear = (np.array(colour) / 255) ** gamma
    return _srgb_bytes(np.array(matrix) @ linear)


def lab_to_srgb(lab: Colour) -> list[int]:
    """The sRGB values 0..255 of CIE L*a*b* (D50)."""
    lightness, a, b = lab
    middle = (lightness + 16) / 116
    values = np.array([middle + a / 500, middle, middle - b / 200])
    return _srgb_bytes(np.where(values > 6 / 29, values**3, 3 * (6 / 29) ** 2 * (values - 4 / 29)) * WHITE)


def _srgb_bytes(xyz: np.ndarray) -> list[int]:
    linear = np.clip(np.linalg.solve(SRGB, xyz), 0, 1)
    curved = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return [int(value) for value in (curved * 255).round()]


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    name = b"test\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(79)
    tags = {b"desc": description, b"wtpt": _xyz(WHITE), **tags}
    at = 132 + 12 * len(tags)
    table, content = struct.pack(">I", len(tags)), b""
    for signature, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        table += signature + struct.pack(">II", at + len(content), len(data))
        content += padded
    header = struct.pack(">I4sI4s4s4s12x4s", at + len(content), bytes(4), 0x02400000, kind, space, connection, b"acsp")
    header += bytes(28) + _xyz(WHITE)[8:] + bytes(48)
    return header + table + content


def _xyz(value: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(each * 65536) for each in value))


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
