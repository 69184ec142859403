"""The function of decoder processes in tests: files whose text names the fault to cause, and real images."""

import contextlib
import os
import signal
import stat
import struct
import time
from pathlib import Path

import numpy as np

from viewfinder.images.decoding import Decoded, ImageLimits, Preprocess
from viewfinder.images.decoding import decode as decode_image
from viewfinder.images.thumbnails import decode_thumbnail

# Before a fault in a bucket, which the fetch stage would otherwise skip: the first bytes of a JPEG.
JPEG_START = b"\xff\xd8"


def decode(data: bytes, preprocess: Preprocess, limits: ImageLimits) -> Decoded:
    command, _, argument = data.removeprefix(JPEG_START).partition(b" ")
    match command:
        case b"signal":
            os.kill(os.getpid(), int(argument))
        case b"exit":
            os._exit(int(argument))
        case b"raise":
            raise RuntimeError("a bug in the decoder")
        case b"hang":
            if argument:  # a named pipe: tells its reader that the file hangs now, and in which process
                Path(os.fsdecode(argument)).write_text(str(os.getpid()))
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
            while True:
                time.sleep(3600)
        case b"eat":
            kept = []
            while True:
                kept.append(bytearray(16 * 1024**2))
        case b"chatter":  # like C libraries, on both standard streams, and more than a pipe holds
            for stream in (1, 2):
                os.write(stream, b"Corrupt JPEG data: premature end of data segment\n" * 10_000)
            return decode_image(argument, preprocess, limits)
        case b"answer":  # sends the argument as header, and one byte as body; the channel is the only open socket
            for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
                with contextlib.suppress(OSError):  # the descriptor of the listing itself
                    if stat.S_ISSOCK(os.fstat(number).st_mode):
                        os.write(number, struct.pack(">Q", len(argument)) + argument + struct.pack(">Q", 1) + b"x")
            time.sleep(3600)
        case b"once":  # kills the first process that decodes it, not the second
            marker = Path(os.fsdecode(argument))
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return _blank(preprocess)
        case b"pid":
            return _blank(preprocess)
    return decode_image(data, preprocess, limits)


def thumbnail(data: bytes, preprocess: Preprocess, limits: ImageLimits) -> Decoded:
    """Do the same with a request of `viewfinder.images.thumbnails`: two bytes of width, then the file."""
    decode(data[2:], preprocess, limits)
    return decode_thumbnail(data, preprocess, limits)


def _blank(preprocess: Preprocess) -> Decoded:
    """Return a black image whose width is the id of this process."""
    return Decoded(np.zeros((preprocess.size, preprocess.size, 3), np.uint8), os.getpid(), 1, "png")
