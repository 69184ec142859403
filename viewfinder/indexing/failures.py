"""When the failure of an object counts for good.

A permanent failure holds for the same content and only while nothing has changed that decided it: the decoder and its
limits, or the model. A crash of the decoder is blamed on the file once a second machine confirms it, because a machine
can be at fault itself (a processor without an instruction crashes on good images); where there is only one machine,
once a second run does. It is never blamed on a file that was probably decoded before: its object has the size and time
of the point, and another form of ETag. A decoder that was stopped, or found no memory, may succeed on a less
busy machine.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import PIL
from PIL import features

from viewfinder._version import __version__
from viewfinder.errors import ObjectError
from viewfinder.images.decoding import ImageLimits
from viewfinder.indexing.rows import Row
from viewfinder.sources.versions import is_probably_same, version_of

if TYPE_CHECKING:
    # At run time it would load the client of Qdrant into workers that only read and decode.
    from viewfinder.store import Failure

CRASHED = "decoder_crashed"
# Every run tries again.
_NEVER_PERMANENT = frozenset({"decode_timeout", "decoder_out_of_memory"})
# Our own limits decided. The object may be fine, so the failure is not permanent and an existing point is kept, but it
# is read again only when the limits change.
_LIMITS = frozenset({"too_many_bytes", "too_many_pixels"})

# The libraries that read images; Pillow has others, for text and for writing.
_LIBRARIES = ("jpg", "libjpeg_turbo", "mozjpeg", "jpg_2000", "zlib", "zlib_ng", "libtiff", "webp", "avif", "littlecms2")


def deciders(limits: ImageLimits, fingerprint: str) -> dict[str, str]:
    """By stage, the version of the program part that decides, besides the content of an object, if it fails."""
    decoder = decoder_version(limits)
    return {"fetch": decoder, "decode": decoder, "encode": fingerprint}


@functools.cache
def decoder_version(limits: ImageLimits) -> str:
    """Return a short text that changes whenever a file that failed may decode, and the reverse.

    It covers viewfinder's release, Pillow's, the libraries in this build of Pillow, and `limits`. The same on every
    machine with the same packages and settings. Example: `viewfinder-0.2.0/pillow-13.0.0/4f1c09ab3d`.
    """
    parts = [f"{name}={features.version(name) if features.check(name) else None}" for name in _LIBRARIES]
    digest = hashlib.sha256("\n".join([*parts, repr(limits)]).encode()).hexdigest()[:10]
    return f"viewfinder-{__version__}/pillow-{PIL.__version__}/{digest}"


def is_permanent(error: ObjectError) -> bool:
    """True if the content itself is broken; a crash is not certain yet."""
    return error.permanent and error.reason not in _NEVER_PERMANENT | _LIMITS and error.reason != CRASHED


def is_same_decision(failure: "Failure", decided_by: Mapping[str, str]) -> bool:
    """True if what decided the failure has not changed."""
    return failure.decided_by == decided_by.get(failure.stage, "")


def fails_again(failure: "Failure") -> bool:
    """True if another attempt at the same content has the same result, unless what decided it has changed."""
    return failure.permanent or failure.reason in _LIMITS


def record_crash(row: Row, run_id: str, *, machines: int) -> None:
    """Add this run to the crashes of a row that failed now, and decide if the file is to blame."""
    if row["reason"] != CRASHED or row["crashed_on"] is None:
        return
    crashes = sorted({*(row["crashes"] or ()), f"{row['crashed_on']} {run_id}"})
    row["crashes"], row["permanent"] = crashes, _is_confirmed(crashes, machines) and not _was_decoded(row)


def _was_decoded(row: Row) -> bool:
    return row["stored"] is not None and is_probably_same(version_of(row["stored"]), version_of(row))


def _is_confirmed(crashes: Sequence[str], machines: int) -> bool:
    """True if two machines crashed on the file, or, of a single machine, two runs with a new decoder each."""
    on = {crash.partition(" ")[0] for crash in crashes}
    return len(on) > 1 or (machines == 1 and len(crashes) > 1)
