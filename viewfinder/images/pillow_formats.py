"""The formats as which Pillow may open a file, by its first bytes.

Each of Pillow's plugins says which beginnings it accepts. Some accept any file, and some accept other content too and
fail at it, which makes a text a damaged image; for these it is decided here, so that no file is lost that Pillow opens.
"""

import re
import struct
from collections.abc import Callable

from PIL import Image

# Pillow recognises these and needs other programs or libraries for them: Ghostscript for EPS, some that it does not
# ship for the others. Decoding an image must not start a process.
_NEVER_OPENED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})

_NETPBM = re.compile(rb"P([1-6f]|0CMYK|y(P|RGBA|CMYK))[ \t\n\v\f\r]+[#0-9]")
_IM = re.compile(rb"\r*[A-Za-z][^:\n]*:")
# A header of lines ends before this.
_TEXT_HEADER_BYTES = 4096
# The headers of a FITS file, in cards of 80 bytes: the first one without axes; that of the first extension.
_MAX_FITS_HEADERS = 1024**2
_FITS_WITHOUT_AXES = re.compile(rb"(?:(?!END ).{80})*?NAXIS   = +0[ /]", re.DOTALL)


def formats_of(data: bytes) -> list[str]:
    """Return the formats to pass to `Image.open`, in the order in which it tries them.

    `data` is a file or, if it is longer, at least its first 4096 bytes.
    """
    Image.init()
    prefix = data[:16].ljust(16, b"\0")  # some plugins raise for less
    return [name for name in Image.ID if name not in _NEVER_OPENED and _accepts(name, prefix, data)]


def _accepts(name: str, prefix: bytes, data: bytes) -> bool:
    accept = Image.OPEN[name][1]
    if accept is not None and not accept(prefix):
        return False
    check = _CHECKS.get(name)
    return check is None or check(data)


def _is_bmp(data: bytes) -> bool:
    return 12 <= int.from_bytes(data[14:18], "little") <= 124


def _is_dib(data: bytes) -> bool:
    if len(data) < 16:
        return False
    layout = "<HHHH" if data[0] == 12 else "<iiHH"
    width, height, planes, bits = struct.unpack_from(layout, data, 4)
    return width > 0 and height != 0 and planes == 1 and bits in (1, 2, 4, 8, 16, 24, 32)


def _is_pcx(data: bytes) -> bool:
    return len(data) > 65 and data[2] <= 1 and data[3] in (1, 2, 4, 8) and 1 <= data[65] <= 4


def _is_netpbm(data: bytes) -> bool:
    return _NETPBM.match(data) is not None


def _is_fits(data: bytes) -> bool:
    if not data.startswith(b"SIMPLE  ="):
        return False
    if _FITS_WITHOUT_AXES.match(data, 0, _MAX_FITS_HEADERS) is None:
        return True
    start = data.find(b"XTENSION= '", 0, _MAX_FITS_HEADERS)
    end = data.find(b"END".ljust(80), start, _MAX_FITS_HEADERS)
    if min(start, end) < 0:
        return True
    extension = data[start:end]
    return extension.startswith(b"XTENSION= 'IMAGE") or b"ZIMAGE  =" in extension


def _is_xbm(data: bytes) -> bool:
    return b"#define" in data[:_TEXT_HEADER_BYTES]


def _is_im(data: bytes) -> bool:
    head = data[:_TEXT_HEADER_BYTES]
    # One of the two ends the header.
    return _IM.match(head, 0, 100) is not None and (b"\0" in head or b"\x1a" in head)


def _is_imt(data: bytes) -> bool:
    head = data[:_TEXT_HEADER_BYTES]
    return b"\n" in head[:100] and all(part in head for part in (b"width ", b"height ", b"\x0c"))


def _is_iptc(data: bytes) -> bool:
    return len(data) > 4 and data[0] == 0x1C and data[1] in (*range(1, 10), 240)


def _is_pcd(data: bytes) -> bool:
    return data.startswith(b"PCD_", 2048)


def _is_spider(data: bytes) -> bool:
    if len(data) < 108:
        return False
    headers = (struct.unpack_from(f"{order}27f", data) for order in "><")
    # Of an image, with a header of so many records of such a length.
    return any(header[4] == 1 and header[21] == header[12] * header[22] for header in headers)


def _is_tga(data: bytes) -> bool:
    if len(data) < 18 or data[1] > 1 or data[2] not in (1, 2, 3, 9, 10, 11) or data[16] not in (1, 8, 16, 24, 32):
        return False
    width, height = struct.unpack_from("<HH", data, 12)
    return width > 0 and height > 0 and (data[1] == 0 or data[7] in (16, 24, 32))


# Instead of a plugin's own check if it has none, else besides it.
_CHECKS: dict[str, Callable[[bytes], bool]] = {
    "BMP": _is_bmp,
    "DIB": _is_dib,
    "FITS": _is_fits,
    "IM": _is_im,
    "IMT": _is_imt,
    "IPTC": _is_iptc,
    "PCD": _is_pcd,
    "PCX": _is_pcx,
    "PPM": _is_netpbm,
    "SPIDER": _is_spider,
    "TGA": _is_tga,
    "XBM": _is_xbm,
}
