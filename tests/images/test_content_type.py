"""Files are recognised by their first bytes."""

import io
import json
import tarfile
import zipfile

import pytest

from tests.chaos.corpus import BEGINNINGS, whole
from tests.images.samples import LIMITS, SMALL, reason
from viewfinder.errors import ImageError
from viewfinder.images.content_type import HEAD_BYTES, image_format, other_content
from viewfinder.images.decoding import decode


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


OTHERS = {
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(2000),
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
    "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
}
IMAGES = {
    "HEIC": ftyp(b"heic", b"mif1", b"heic"),
    "HEIC, as mif1": ftyp(b"mif1", b"heic", b"mif1"),
    "JPEG XL": b"\xff\x0a" + bytes(300),
    "SVG": b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg xmlns='http://www.w3.org/2000/svg'/>",
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
        for head in (data[:HEAD_BYTES], data[:HEAD_BYTES] + bytes(200)):
            assert name in ("PDF", "MIC") or other_content(head[:HEAD_BYTES]) is None, name


def test_the_message_says_what_the_content_is() -> None:
    with pytest.raises(ImageError, match="a PDF document"):
        decode(OTHERS["PDF"], SMALL, LIMITS)


@pytest.mark.parametrize("data", [b"", b"\0", bytes(600), b"\xff\xd8", b"\0\0\0\x18ftyp", b"\0\0\0\x18ftypavif"])
def test_what_is_not_sure_is_not_decided(data: bytes) -> None:
    assert other_content(data) is None
