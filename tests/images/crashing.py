"""What a decoder process runs in tests: files whose text says what goes wrong, and real pictures."""

import contextlib
import os
import signal
import stat
import struct
import time
from pathlib import Path

import numpy as np

from viewfinder.images.decoding import Decoded, ImageLimits, Preprocess
from viewfinder.images.decoding import decode as decode_picture
from viewfinder.images.thumbnails import decode_thumbnail


def decode(data: bytes, preprocess: Preprocess, limits: ImageLimits) -> Decoded:
    command, _, argument = data.partition(b" ")
    match command:
        case b"signal":
            os.kill(os.getpid(), int(argument))
        case b"exit":
            os._exit(int(argument))
        case b"raise":
            raise RuntimeError("a mistake in the decoder")
        case b"hang":
            if argument:  # a named pipe: its reader learns that the hanging has begun, and in which process
                Path(os.fsdecode(argument)).write_text(str(os.getpid()))
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
            while True:
                time.sleep(3600)
        case b"eat":
            hoard = []
            while True:
                hoard.append(bytearray(16 * 1024**2))
        case b"chatter":  # as C libraries do, on both standard streams and more than a pipe holds
            for stream in (1, 2):
                os.write(stream, b"Corrupt JPEG data: premature end of data segment\n" * 10_000)
            return decode_picture(argument, preprocess, limits)
        case b"answer":  # this in the place of a header, and one byte; the channel is the one socket that is open
            for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
                with contextlib.suppress(OSError):  # the listing's own
                    if stat.S_ISSOCK(os.fstat(number).st_mode):
                        os.write(number, struct.pack(">Q", len(argument)) + argument + struct.pack(">Q", 1) + b"x")
            time.sleep(3600)
        case b"once":  # ends the first process that meets it, not the second
            marker = Path(os.fsdecode(argument))
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return _blank(preprocess)
        case b"pid":
            return _blank(preprocess)
    return decode_picture(data, preprocess, limits)


def thumbnail(data: bytes, preprocess: Preprocess, limits: ImageLimits) -> Decoded:
    """The same for what `viewfinder.images.thumbnails` sends: two bytes of width, then the file."""
    decode(data[2:], preprocess, limits)
    return decode_thumbnail(data, preprocess, limits)


def _blank(preprocess: Preprocess) -> Decoded:
    """A picture whose width is the process that made it."""
    return Decoded(np.zeros((preprocess.size, preprocess.size, 3), np.uint8), os.getpid(), 1, "png")
