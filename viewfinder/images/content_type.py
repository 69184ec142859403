"""Recognition of files that Pillow cannot open, by their first bytes: images of other formats, and other content."""

import re

from viewfinder.images import raw
from viewfinder.images.pillow_formats import formats_of

# Bytes that suffice to tell.
HEAD_BYTES = 4096
# Of these a text has no others.
_TEXT_BYTES = 512

# Nearly all images: (offset, first bytes). Pillow opens some of them only without their metadata, if these are damaged.
_COMMON = ((0, b"\xff\xd8"), (0, b"\x89PNG\r\n\x1a\n"), (8, b"WEBP"), (0, b"GIF87a"), (0, b"GIF89a"), (4, b"jP  "))

# Images of formats that Pillow does not know: (offset, first bytes, name).
_IMAGES = (
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"II\xbc\x01", "JPEG XR"),
    (0, b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"8BPS\x00\x02", "Photoshop PSB"),
    (0, b"gimp xcf", "GIMP XCF"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"\x8aMNG\r\n", "MNG"),
    (0, b"\x8bJNG\r\n", "JNG"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"FLIF", "FLIF"),
    (128, b"DICM", "DICOM"),
    (0, b"\xabKTX ", "KTX"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
)

# First brands of ISO media files (ISO/IEC 14496-12) that are images and image sequences.
_HEIF_BRANDS = frozenset(
    (
        *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
        *(b"mif1", b"mif2", b"mif3", b"msf1", b"miaf", b"unif", b"MA1A", b"MA1B"),
        *(b"avci", b"avcs", b"vvic", b"vvis", b"evbi", b"evbs", b"evmi", b"evms"),
        *(b"jpeg", b"jpgs", b"j2ki", b"j2is"),
    )
)
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
# Pillow reads AVIF itself, with these first brands or those of AVIF.
_AVIF_CONTAINERS = frozenset((b"mif1", b"msf1"))
_MAX_BRANDS_BYTES = 512

# Files that are no images: (offset, first bytes, name).
_OTHERS = (
    (0, b"%PDF-", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"PK\x03\x04", "a ZIP archive or a document in one"),
    (0, b"PK\x05\x06", "a ZIP archive"),
    (0, b"PK\x07\x08", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"BZh", "a bzip2 file"),
    (0, b"\xfd7zXZ\x00", "an xz file"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OLE document or Thumbs.db"),
    (0, b"\x00\x05\x16\x07", "an AppleDouble file (metadata that macOS writes)"),
    (0, b"\x00\x05\x16\x00", "an AppleSingle file (metadata that macOS writes)"),
    (0, b"\x00\x00\x00\x01Bud1", "a .DS_Store file"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"ARROW1", "an Arrow file"),
    (0, b"SQLite format 3\x00", "an SQLite database"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 or NetCDF file"),
    (0, b"GRIB", "a GRIB file"),
    (0, b"BUFR", "a BUFR file"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (0, b"FLV\x01", "a Flash video"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file"),
    (0, b"\x00\x00\x01\xba", "an MPEG video"),
    (0, b"\x00\x00\x01\xb3", "an MPEG video"),
    (8, b"AVI ", "an AVI video"),
    (8, b"WAVE", "a WAVE sound"),
    (4, b"moov", "a QuickTime video"),
    (4, b"mdat", "a QuickTime video"),
    (4, b"wide", "a QuickTime video"),
    (4, b"moof", "a video or sound (MP4, QuickTime)"),
    (4, b"styp", "a video or sound (MP4, QuickTime)"),
    (4, b"sidx", "a video or sound (MP4, QuickTime)"),
    (0, b"OggS", "an Ogg file"),
    (0, b"fLaC", "a FLAC sound"),
    (0, b"ID3", "an MP3 sound"),
)

# Instructions, comments and the document type may precede the first element.
_SVG = re.compile(
    rb"\s*+(?>(?><\?.*?\?>|<!--.*?-->|<!DOCTYPE\s[^\[>]*+(?:\[.*?\]\s*)?>)\s*+)*+<(\w+:)?svg[\s/>]",
    re.DOTALL | re.IGNORECASE,
)
# The last two are Netpbm images that Pillow does not read.
_PATTERNS = (
    (re.compile(rb"\xd7\xcd\xc6\x9a\0\0|\x01\0\0\0.{36} EMF", re.DOTALL), "WMF"),
    (re.compile(rb"P7\n(#|WIDTH |HEIGHT |DEPTH |MAXVAL |TUPLTYPE )"), "PAM"),
    (re.compile(rb"PF\s+[#0-9]"), "PFM"),
)
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def image_format(head: bytes) -> str | None:
    """Return the name of the image format that Pillow does not know and that these first bytes are of, else None."""
    brands, first = _brands(head), head[8:12]
    if first in brands & _HEIF_BRANDS and not (first in _AVIF_CONTAINERS and brands & _AVIF_BRANDS):
        return "HEIC" if any(brand.startswith(b"he") for brand in brands) else "HEIF"
    if _SVG.match(_as_utf_8(head[:HEAD_BYTES])):
        return "SVG"
    if _is_eps(head[:HEAD_BYTES]):
        return "EPS"
    for pattern, name in _PATTERNS:
        if pattern.match(head):
            return name
    return next((name for offset, start, name in _IMAGES if head.startswith(start, offset)), None)


def other_content(head: bytes) -> str | None:
    """Return what a file is that begins with these bytes if no decoder would open it as an image, else None.

    `head` are the first `HEAD_BYTES`, or the whole file if it is shorter.
    """
    if not head or any(head.startswith(first, offset) for offset, first in _COMMON) or image_format(head) is not None:
        return None
    brands = _brands(head)
    # The first brand decides: videos, too, name `mif1` among the others.
    if brands and head[8:12] not in _HEIF_BRANDS | _AVIF_BRANDS | {b"crx "}:
        return "a video or sound (MP4, QuickTime)"
    for offset, first, name in _OTHERS:
        if head.startswith(first, offset):
            return name
    if head[:188:188] == b"G" and head[188:189] == b"G" and head[376:377] == b"G":
        return "an MPEG transport stream"
    if re.match(rb"\s*(<!doctype html|<html|<\?php)", _as_utf_8(head[:_TEXT_BYTES]), re.IGNORECASE):
        return "an HTML page"
    if raw.begins_like_raw(head) or formats_of(head):
        return None
    return "text" if _is_text(head) else "of no known image format"


def _brands(head: bytes) -> frozenset[bytes]:
    """The brands of an ISO media file: what it can be read as."""
    if head[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(head[:4], "big"), len(head), _MAX_BRANDS_BYTES)
    return frozenset(head[at : at + 4] for at in (8, *range(16, end - 3, 4)) if at + 4 <= len(head))


def _is_eps(head: bytes) -> bool:
    """True for PostScript that is one image: it says so in its first line, or has a bounding box and no pages."""
    if not head.startswith(b"%!PS"):
        return False
    first, *lines = head.splitlines()
    if b"EPSF" in first:
        return True
    boxed = any(line.startswith(b"%%BoundingBox:") for line in lines)
    return boxed and not any(line.startswith((b"%%Pages:", b"%%Page:")) for line in lines)


def _as_utf_8(head: bytes) -> bytes:
    if head.startswith(_BYTE_ORDER_MARKS):
        return head.decode("utf-16", "ignore").encode()
    return head.removeprefix(b"\xef\xbb\xbf")


def _is_text(head: bytes) -> bool:
    if head.startswith(_BYTE_ORDER_MARKS):
        return len(head) > 4 and _decodes(head[: len(head) // 2 * 2], "utf-16")
    text = head.removeprefix(b"\xef\xbb\xbf")[:_TEXT_BYTES]
    if _CONTROLS.search(text):
        return False
    # The last character may be cut off.
    return any(_decodes(text[: len(text) - cut], "utf-8") for cut in range(4))


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        return bool(data.decode(encoding).strip("\0 "))
    except UnicodeDecodeError:
        return False
