"""The version of the decoder: what decides, besides the content of a file, whether it can be decoded."""

import functools
import hashlib

import PIL
from PIL import features

from viewfinder._version import __version__
from viewfinder.images.decoding import ImageLimits

# The libraries that read images; Pillow has others, for text and for writing.
_LIBRARIES = ("jpg", "libjpeg_turbo", "mozjpeg", "jpg_2000", "zlib", "zlib_ng", "libtiff", "webp", "avif", "littlecms2")


@functools.cache
def decoder_version(limits: ImageLimits) -> str:
    """Return a short text that changes whenever a file that failed may decode, and the reverse.

    It covers viewfinder's release, Pillow's, the libraries in this build of Pillow, and `limits`. The same on every
    machine with the same packages and settings. Example: `viewfinder-0.2.0/pillow-13.0.0/4f1c09ab3d`.
    """
    parts = [f"{name}={features.version(name) if features.check(name) else None}" for name in _LIBRARIES]
    digest = hashlib.sha256("\n".join([*parts, repr(limits)]).encode()).hexdigest()[:10]
    return f"viewfinder-{__version__}/pillow-{PIL.__version__}/{digest}"
