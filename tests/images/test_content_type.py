"""Files are recognised by their first bytes."""

import contextlib
import io
import itertools
import json
import struct
import tarfile
import time
import warnings
import zipfile

import pytest
from PIL import Image

from tests.chaos.corpus import BEGINNINGS, whole
from tests.images.samples import LIMITS, SMALL, encoded, reason
from viewfinder.errors import ImageError
from viewfinder.images.content_type import HEAD_BYTES, image_format, other_content
from viewfinder.images.decoding import decode
from viewfinder.images.pillow_formats import formats_of


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jpg", b"\xff\xd8\xff")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    return file.getvalue()


def ftyp(major: bytes, *others: bytes) -> bytes:
    content = b"ftyp" + major + bytes(4) + b"".join(others)
    return (len(content) + 4).to_bytes(4, "big") + content + bytes(3000)


def fits(*extension: bytes) -> bytes:
    """A FITS file whose first header has no axes, and one extension."""
    headers = [(b"SIMPLE  = T", b"BITPIX  = 8", b"NAXIS   = 0", b"END"), (*extension, b"END")]
    blocks = (b"".join(b"%-80s" % card for card in header).ljust(2880) for header in headers if len(header) > 1)
    return b"".join(blocks) + bytes(range(256)) * 12


POSTSCRIPT = b"%!PS-Adobe-3.0\n%%Title: a letter\n"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
OTHERS = {
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(2000),
    "PostScript": POSTSCRIPT + b"%%EndComments\n/Times-Roman findfont\n",
    "PostScript with pages": POSTSCRIPT + b"%%BoundingBox: 0 0 612 792\n%%Pages: (atend)\n%%EndComments\n",
    "PostScript with a page": POSTSCRIPT.replace(b"\n", b"\r") + b"%%BoundingBox: 0 0 612 792\r%%Page: 1 1\r",
    "PostScript that mentions EPSF": POSTSCRIPT + b"%%Creator: EPSF writer, %%BoundingBox: none\n",
    "zip": zipped(),
    "tar": tarred(),
    "gzip": b"\x1f\x8b\x08\0" + bytes(20),
    "MP4": ftyp(b"isom", b"isom", b"iso2", b"avc1", b"mp41"),
    "QuickTime": ftyp(b"qt  ", b"qt  "),
    "old QuickTime": b"\0\0\x10\0moov" + bytes(2000),
    "3GP": ftyp(b"3gp5", b"3gp5"),
    "WebM": b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01" + bytes(2000),
    "AVI": b"RIFF\0\1\0\0AVI LIST" + bytes(2000),
    "WAVE": b"RIFF\0\1\0\0WAVEfmt " + bytes(2000),
    "MPEG program stream": b"\0\0\1\xba" + bytes(2000),
    "MPEG video": b"\0\0\1\xb3\x14\x00\xf0\x13" + bytes(2000),
    "MPEG transport stream": 20 * (b"G" + bytes(187)),
    "MP3": b"ID3\x04" + bytes(2000),
    "AppleDouble": b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(4000),
    ".DS_Store": b"\0\0\0\1Bud1" + bytes(4000),
    "Thumbs.db": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(4000),
    "Parquet": b"PAR1" + bytes(400),
    "SQLite": b"SQLite format 3\0" + bytes(400),
    "HTML": b"\xef\xbb\xbf\r\n<!DOCTYPE html><html><body>404</body></html>",
    "an error of S3": b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code></Error>',
    "JSON": json.dumps({"a": "ü" * 400}, ensure_ascii=False).encode(),
    "CSV": b"key,caption\na.jpg,a dog\n",
    "a text in UTF-16": "\ufeffa text".encode("utf-16-le"),
    "a text that mentions SVG": b"An <svg> element is an image.",
    "one letter": b"a",
    "text in Latin-1": "Straße;Größe\n".encode("latin-1") * 400,
    "text in Latin-1, like a BMP": "BMW Händler in München".encode("latin-1") * 9,
    "text in UTF-16 without a mark, like a PCX": "\nError: no such file".encode("utf-16-le") * 9,
    "text like a Netpbm image": b"P1 incident report",
    "text like a Netpbm image, P6": b"P6 is",
    "text like a float map": b"Pf notes",
    "text like BUFR": b"ZCZC 123 message",
    "text like FITS": b"SIMPLE  recipes",
    "a dump of MariaDB": b"/*M!999999\\- enable the sandbox mode */\n-- MariaDB dump" + b"\nINSERT" * 900,
    "YAML": b"Name: a\nImage size (x*y): 3*4\nImage type: L image\n",
    "MP4 with mif1": ftyp(b"isom", b"isom", b"mif1", b"mp42"),
    "MP4 with avif": ftyp(b"mp42", b"mp42", b"avif"),
    "MP4 from moof on": b"\0\0\1\0moof\0\0\0\x10mfhd" + bytes(4000),
    "MP3 without ID3": b"\xff\xfb\x90\x64" + bytes(4000),
    "MXF": b"\x06\x0e\x2b\x34\x02\x05\x01\x01" + bytes(4000),
    "H.264": b"\0\0\0\1\x67\x64\0\x28\xac" + bytes(4000),
    "m2ts": 20 * (b"\0\1\2\3G" + bytes(187)),
    "DV": b"\x1f\7\0\xbf\xf8\x78\x78\x78" + bytes(4000),
    "SWF": b"CWS\x0a\0\1\2\3\x78\xda" + bytes(4000),
    "MPEG system header": b"\0\0\1\xbb\0\x0c\x80\x04" + bytes(4000),
    "AIFF": b"FORM\0\1\0\0AIFFCOMM" + bytes(4000),
    "lz4": b"\x04\x22\x4d\x18\x64\x40\xa7" + bytes(4000),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(4000),
    "GRIB": b"GRIB\0\1\0\1" + bytes(4000),
    "GRIB 2": b"GRIB\0\0\0\2" + bytes(4000),
    "BUFR": b"BUFR\0\1\0\4" + bytes(4000),
    "safetensors": b'\x28\0\0\0\0\0\0\0{"weight":' + bytes(4000),
    "GGUF": b"GGUF\3\0\0\0" + bytes(4000),
    "NumPy": b"\x93NUMPY\1\0\x76\0{'descr': '<f4'" + bytes(4000),
    "VMDK": b"KDMV\1\0\0\0" + bytes(4000),
    "Avro": b"Obj\1\4\x16avro.schema" + bytes(4000),
    "ORC": b"ORC\n\x0b" + bytes(4000),
    "nothing but zeros": bytes(5000),
    **{f"TFRecord of {size}": size.to_bytes(8, "little") + b"\x9a\3\xb1\7" * 400 for size in (12, 40, 64, 108, 124)},
    "FITS with a table": fits(b"XTENSION= 'BINTABLE'", b"BITPIX  = 8", b"NAXIS   = 2", b"NAXIS1  = 9", b"NAXIS2  = 9"),
    "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
}
HEIF_BRANDS = (
    *(b"mif1", b"mif2", b"mif3", b"msf1", b"miaf", b"unif", b"avci", b"avcs", b"vvic", b"vvis"),
    *(b"evbi", b"evbs", b"evmi", b"evms", b"jpeg", b"jpgs", b"j2ki", b"j2is"),
)
IMAGES = {
    "HEIC": ftyp(b"heic", b"mif1", b"heic"),
    "HEIC, as mif1": ftyp(b"mif1", b"heic", b"mif1"),
    "HEIC that can be read as AVIF": ftyp(b"heic", b"mif1", b"heic", b"avif"),
    "AVIF that Pillow does not open": ftyp(b"MA1B", b"mif1", b"miaf", b"avif"),
    **{f"HEIF of the brand {major.decode()}": ftyp(major, b"mif1", b"miaf") for major in HEIF_BRANDS},
    "JPEG XL": b"\xff\x0a" + bytes(300),
    "SVG": b"<?xml version='1.0'?>\n<!-- drawn -->\n" + SVG,
    "SVG with a stylesheet": b"<?xml version='1.0'?><?xml-stylesheet href='a.css'?>" + SVG,
    "SVG with entities": b"<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' [\n<!ENTITY a 'b[0]'>\n]>" + SVG,
    "SVG with a prefix": b"<svg:svg xmlns:svg='http://www.w3.org/2000/svg'/>",
    "SVG in UTF-16": ("\ufeff" + SVG.decode()).encode("utf-16-be"),
    "SVG after a long comment": b"<!--" + b" licence" * 200 + b"-->" + SVG,
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    "EPS with carriage returns": b"%!PS-Adobe-2.0 EPSF-1.2\r%%BoundingBox: 0 0 9 9\r%%Pages: 1\r",
    "EPS that does not say so": POSTSCRIPT + b"%%BoundingBox: 0 0 9 9\n%%PageOrder: Ascend\n%%EndComments\n",
    "EPS with a binary header": b"\xc5\xd0\xd3\xc6\x1e\0\0\0" + bytes(22) + b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + bytes(300),
    "EMF": b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(300),
    "PAM": b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 1\nMAXVAL 255\nENDHDR\n" + bytes(4),
    "PFM": b"PF\n2 2\n-1.0\n" + bytes(48),
    "OpenEXR": b"v/1\x01" + bytes(300),
    "DICOM": bytes(128) + b"DICM" + bytes(300),
    "JPEG XR": b"II\xbc\x01" + bytes(300),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_is_no_image_is_recognized_by_its_first_bytes(name: str) -> None:
    data = OTHERS[name]
    assert other_content(data[:HEAD_BYTES]) is not None
    assert reason(data) == "not_an_image"
    assert reason(data + bytes(10)) == "not_an_image"


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_of_another_format_is_unsupported(name: str) -> None:
    data = IMAGES[name]
    assert other_content(data[:HEAD_BYTES]) is None
    assert image_format(data) is not None
    assert reason(data) == "unsupported"


def test_no_image_is_taken_for_something_else() -> None:
    for name, data in [*whole().items(), *BEGINNINGS.items()]:
        for head in (data, data[:HEAD_BYTES], data + bytes(200)):
            assert name in ("PDF", "MIC") or other_content(head[:HEAD_BYTES]) is None, name


def test_a_fits_file_without_an_image_is_not_damaged() -> None:
    assert reason(fits()) == "not_an_image"


def test_the_message_says_what_the_content_is() -> None:
    with pytest.raises(ImageError, match="a PDF document"):
        decode(OTHERS["PDF"], SMALL, LIMITS)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"\0\0\0\x18ftypavif"])
def test_what_is_not_sure_is_not_decided(data: bytes) -> None:
    assert other_content(data) is None


def bitmap(*, core: bool, bits: int = 24) -> bytes:
    """A bitmap of 2 x 2 pixels without the header of its file."""
    palette = bytes(3 if core else 4) * (1 << bits if bits <= 8 else 0)
    header = struct.pack("<IHHHH", 12, 2, 2, 1, bits) if core else struct.pack("<IiiHH24x", 40, 2, 2, 1, bits)
    return header + palette + bytes(40)


def bmp(content: bytes) -> bytes:
    return b"BM" + struct.pack("<I4xI", 14 + len(content), 14 + len(content) - 40) + content


def pcx(version: int) -> bytes:
    header = struct.pack("<4B6H48xBB60x", 10, version, 1, 1, 0, 0, 7, 7, 72, 72, 0, 1)
    return header.ljust(128, b"\0")[:65] + b"\1\2\0".ljust(63, b"\0") + b"\xc2\xff" * 8


MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")
ICON_SIZES = {"ICNS": (1024, 1024), "ICO": (24, 18)}
OPENED = {
    "Netpbm": b"P5\n2 2\n255\n" + bytes(4),
    "Netpbm with a comment": b"P5\n# a comment\n2 2 255\n" + bytes(4),
    "Netpbm in one line": b"P2 2 2 255 0 0 0 0\n",
    "Pillow's Netpbm": b"PyRGBA\n2 2\n255\n" + bytes(16),
    **{f"BMP of {bits} bits": bmp(bitmap(core=False, bits=bits)) for bits in (1, 4, 8, 16, 24, 32)},
    **{f"OS/2 BMP of {bits} bits": bmp(bitmap(core=True, bits=bits)) for bits in (1, 4, 8, 24)},
    **{f"DIB of {bits} bits": bitmap(core=False, bits=bits) for bits in (1, 4, 8, 16, 24, 32)},
    **{f"OS/2 DIB of {bits} bits": bitmap(core=True, bits=bits) for bits in (1, 4, 8, 24)},
    "DIB, top down": struct.pack("<IiiHH24x", 40, 2, -2, 1, 24) + bytes(40),
    **{f"PCX {version}": pcx(version) for version in (0, 2, 3, 5)},
    "XBM after a comment": b"/* drawn */\n" + encoded(Image.new("1", (9, 9)), "XBM"),
    "FITS": b"".join(
        b"%-80s" % card
        for card in (b"SIMPLE  = T", b"BITPIX  = 8", b"NAXIS   = 2", b"NAXIS1  = 9", b"NAXIS2  = 9", b"END")
    ).ljust(2880)
    + bytes(2880),
    "FITS with an image as extension": fits(
        b"XTENSION= 'IMAGE   '", b"BITPIX  = 8", b"NAXIS   = 2", b"NAXIS1  = 9", b"NAXIS2  = 9"
    ),
}


@pytest.mark.parametrize("name", OPENED)
def test_an_image_that_pillow_opens_is_decoded(name: str) -> None:
    data = OPENED[name]
    assert other_content(data[:HEAD_BYTES]) is None
    assert decode(data, SMALL, LIMITS).width in (2, 8, 9)


def saved() -> dict[tuple[str, str], bytes]:
    """A file of each format and mode that Pillow both writes and reads."""
    Image.init()
    files = {}
    for kind, mode in itertools.product(sorted(Image.SAVE.keys() & Image.OPEN.keys()), MODES):
        with contextlib.suppress(OSError, ValueError, KeyError), warnings.catch_warnings(action="ignore"):
            files[kind, mode] = encoded(Image.new(mode, (40, 30)), kind)
    return files


def test_images_of_every_format_and_mode_are_decoded() -> None:
    """Pillow decides of each file with all of its plugins."""
    files = saved()
    assert len(files) >= 150
    for (kind, mode), data in files.items():
        assert other_content(data[:HEAD_BYTES]) is None, (kind, mode)
        if kind == "EPS":  # needs Ghostscript
            assert reason(data) == "unsupported", mode
        else:
            assert kind in formats_of(data), (kind, mode)
            image = decode(data, SMALL, LIMITS)
            size = ICON_SIZES.get(kind, (40, 30))
            assert (image.format, image.width, image.height) == (kind.lower(), *size), (kind, mode)


NO_AXES = b"".join(b"%-80s" % card for card in (b"SIMPLE  = T", b"NAXIS   = 0"))
# A beginning, and what is repeated after it.
HOSTILE = {
    "SVG, instructions": (b"", b"<?x?>"),
    "SVG, open instructions": (b"", b"<?"),
    "SVG, comments": (b"", b"<!-- -->"),
    "SVG, open comments": (b"", b"<!--"),
    "SVG, types": (b"", b"<!DOCTYPE svg []>"),
    "SVG, open types": (b"", b"<!DOCTYPE svg ["),
    "SVG, brackets in a type": (b"<!DOCTYPE svg [", b"]  "),
    "SVG, spaces in a type": (b"<!DOCTYPE svg []", b" "),
    "SVG, a prefix": (b"<", b"a"),
    "SVG in UTF-16": (b"\xff\xfe", b"<\0!\0-\0-\0"),
    "spaces": (b"", b" "),
    "Netpbm": (b"P5", b" "),
    "PFM": (b"PF", b"\n"),
    "IM, carriage returns": (b"", b"\r"),
    "IM, letters": (b"", b"A"),
    "EPS, lines": (b"%!PS", b"\r%%BoundingBox"),
    "FITS, cards": (NO_AXES[:80], b"%-80s" % b"COMMENT"),
    "FITS, spaces": (NO_AXES[:90], b" "),
    "FITS, zeros": (NO_AXES[:90], b"0"),
    "FITS, extensions without an end": (NO_AXES, b"XTENSION= 'A"),
    "FITS, an extension with a long name": (NO_AXES, b"XTENSION= '" + b"A" * 10_000),
    "FITS, ends that are none": (NO_AXES + b"XTENSION= 'A", b"END".ljust(79)),
}


@pytest.mark.parametrize("size", [HEAD_BYTES, 2**20])
@pytest.mark.parametrize("name", HOSTILE)
def test_recognition_takes_time_linear_in_the_file(name: str, size: int) -> None:
    beginning, repeated = HOSTILE[name]
    data = (beginning + repeated * (size // len(repeated) + 1))[:size]
    Image.init()
    started = time.process_time()
    image_format(data)
    other_content(data)
    formats_of(data)
    assert time.process_time() - started < 1
