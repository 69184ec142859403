"""Decoding in a child process: a file may crash the child, never the parent."""

import io
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.images.samples import damaged_files, encoded, photograph, quadrants
from tests.processes import children
from viewfinder.errors import ImageError, ViewfinderError
from viewfinder.images.decoder import Decoder
from viewfinder.images.decoding import REASONS, Decoded, ImageLimits, Preprocess, decode

pytestmark = pytest.mark.slow

PREPROCESS = Preprocess(32)
LIMITS = ImageLimits(max_bytes=50_000_000, max_pixels=200_000_000)
CRASHING = "tests.images.crashing:decode"
MEMORY = 512 * 1024**2


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    with Decoder(PREPROCESS, LIMITS, timeout_s=60, memory_bytes=MEMORY, entry=CRASHING) as decoder:
        yield decoder


@pytest.fixture
def short_limit() -> Iterator[Decoder]:
    with Decoder(PREPROCESS, LIMITS, timeout_s=1.0, memory_bytes=MEMORY, entry=CRASHING) as decoder:
        yield decoder


def process_of(decoder: Decoder) -> int:
    return decoder.decode(b"pid").width


def failure(decoder: Decoder, data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decoder.decode(data)
    assert caught.value.permanent
    assert caught.value.reason in REASONS
    return caught.value


def ended_within(process: int, seconds: float) -> bool:
    watch = select.poll()
    watch.register(process, select.POLLIN)  # a pidfd becomes readable when its process ends
    return bool(watch.poll(seconds * 1000))


def test_an_image_is_decoded_as_in_process(decoder: Decoder) -> None:
    data = encoded(photograph(901, 700, seed=3), "JPEG")
    there, here = decoder.decode(data), decode(data, PREPROCESS, LIMITS)
    assert (there.pixels == here.pixels).all()
    assert there[1:] == here[1:] == (901, 700, "jpeg", None, here.image_hash)
    assert here.image_hash
    assert there.pixels.dtype == np.uint8
    assert there.pixels.flags.writeable


def test_an_invalid_image_fails_as_in_process(decoder: Decoder) -> None:
    for data in (b"", b"not an image", encoded(quadrants())[:90]):
        with pytest.raises(ImageError) as here:
            decode(data, PREPROCESS, LIMITS)
        there = failure(decoder, data)
        assert (there.reason, there.message) == (here.value.reason, here.value.message)


def test_one_process_decodes_many_files(decoder: Decoder) -> None:
    assert process_of(decoder) != os.getpid()
    failure(decoder, b"not an image")
    assert process_of(decoder) == process_of(decoder)


@pytest.mark.chaos("Files", "an image ends its decoder: signals, exits, memory")
@pytest.mark.parametrize(
    ("command", "reason", "cause"),
    [
        (f"signal {signal.SIGSEGV:d}", "decoder_crashed", "SIGSEGV"),
        (f"signal {signal.SIGABRT:d}", "decoder_crashed", "SIGABRT"),
        ("exit 0", "decoder_crashed", "exit status 0"),
        ("raise", "decoder_crashed", "exit status 1"),
        (f"signal {signal.SIGKILL:d}", "decoder_out_of_memory", "memory"),
        ("eat", "decoder_out_of_memory", "memory"),
    ],
    ids=["SIGSEGV", "SIGABRT", "an exit", "an exception", "SIGKILL", "memory"],
)
def test_a_file_that_crashes_the_child_fails_alone(decoder: Decoder, command: str, reason: str, cause: str) -> None:
    error = failure(decoder, command.encode())
    assert error.reason == reason
    assert cause in error.message
    assert decoder.decode(encoded(quadrants())).width == 80


@pytest.mark.parametrize(
    "header",
    [
        b"\x80abc",
        b"[" * 10_000,
        b"[]",
        b"{}",
        b'{"reason": "boredom", "message": "."}',
        b'{"shape": [-1], "width": 1, "height": 1, "format": "png"}',
        b'{"shape": [2], "width": 1, "height": 1, "format": "png"}',
        b'{"shape": [1], "width": 1, "height": 1, "format": "png", "warning": "boredom"}',
        b'{"shape": [1], "width": 1' + b"0" * 30 + b', "height": 1, "format": "png"}',
    ],
    ids=lambda header: header[:40].decode("latin-1"),
)
def test_a_file_that_makes_the_child_send_an_invalid_response_fails_alone(decoder: Decoder, header: bytes) -> None:
    error = failure(decoder, b"answer " + header)
    assert error.reason == "decoder_crashed"
    assert "invalid response" in error.message
    assert decoder.decode(encoded(quadrants())).width == 80


@pytest.mark.chaos("Files", "an image loops forever in its decoder")
def test_a_file_that_hangs_times_out(short_limit: Decoder) -> None:
    assert failure(short_limit, b"hang").reason == "decode_timeout"
    assert failure(short_limit, b"hang").reason == "decode_timeout"
    assert short_limit.decode(b"pid").height == 1


def test_a_file_is_retried_once_in_a_new_child(decoder: Decoder, tmp_path: Path) -> None:
    before = process_of(decoder)
    assert decoder.decode(f"once {tmp_path / 'marker'}".encode()).width != before


def test_a_child_that_died_while_idle_is_replaced(decoder: Decoder) -> None:
    before = process_of(decoder)
    handle = os.pidfd_open(before)
    os.kill(before, signal.SIGKILL)
    assert ended_within(handle, 60)
    os.close(handle)
    assert process_of(decoder) != before


@pytest.mark.chaos("Files", "an image needs more memory than allowed")
def test_an_image_beyond_the_memory_limit_fails_alone() -> None:
    large = encoded(Image.new("1", (13_000, 13_000)), "TIFF", compression="group4")
    thin = encoded(Image.new("RGB", (9_000, 9_000)), "PNG", compress_level=1)
    with Decoder(PREPROCESS, LIMITS, timeout_s=60, memory_bytes=256 * 1024**2) as decoder:
        assert failure(decoder, large).reason == "decoder_out_of_memory"
        assert failure(decoder, thin).reason == "decoder_out_of_memory"
        assert decoder.decode(encoded(quadrants())).width == 80


def test_the_pixel_limit_may_exceed_pillows_own() -> None:
    large = encoded(Image.new("1", (14_000, 13_000)), "TIFF", compression="group4")  # Pillow stops at 179 million
    with Decoder(PREPROCESS, LIMITS, timeout_s=60, memory_bytes=2 * 1024**3) as decoder:
        assert decoder.decode(large).width == 14_000


def test_output_of_c_libraries_is_ignored(decoder: Decoder) -> None:
    data = b"chatter " + encoded(quadrants())
    assert (decoder.decode(data).pixels == decode(data[8:], PREPROCESS, LIMITS).pixels).all()
    assert decoder.decode(b"pid").height == 1


def test_core_files_are_disabled_and_memory_is_limited(decoder: Decoder) -> None:
    process = process_of(decoder)
    assert resource.prlimit(process, resource.RLIMIT_CORE) == (0, 0)
    assert resource.prlimit(process, resource.RLIMIT_AS) == (MEMORY, MEMORY)


def test_the_child_loads_neither_torch_nor_ray(decoder: Decoder) -> None:
    maps = Path(f"/proc/{process_of(decoder)}/maps").read_text()
    assert "_imaging" in maps
    assert "torch" not in maps
    assert "/ray/" not in maps


@pytest.mark.parametrize("used", [True, False])
def test_a_closed_decoder_has_no_child_and_starts_none(used: bool) -> None:
    decoder = Decoder(PREPROCESS, LIMITS, timeout_s=60, memory_bytes=MEMORY, entry=CRASHING)
    child = process_of(decoder) if used else None
    decoder.close()
    assert child is None or not Path(f"/proc/{child}").exists()
    before = children()
    with pytest.raises(RuntimeError, match="closed"):
        decoder.decode(b"pid")
    assert children() == before
    decoder.close()


def test_threads_that_share_a_decoder_get_their_own_images(decoder: Decoder) -> None:
    files = [encoded(photograph(40 + 3 * seed, 40, seed)) for seed in range(6)]
    wrong: list[int] = []

    def decode_again_and_again(data: bytes) -> None:
        expected = decode(data, PREPROCESS, LIMITS)
        wrong.extend(1 for _ in range(30) if not (decoder.decode(data).pixels == expected.pixels).all())

    threads = [threading.Thread(target=decode_again_and_again, args=(data,)) for data in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_thread_that_started_the_child_may_end(decoder: Decoder) -> None:
    processes: list[int] = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: processes.append(process_of(decoder)))
        thread.start()
        thread.join()
    assert processes[0] == processes[1]


@pytest.mark.parametrize("entry", ["tests.no_such_module:decode", "viewfinder.images.decoding:no_such_function"])
def test_a_child_that_cannot_start_reports_why(entry: str) -> None:
    name = entry.partition(":")[0] if "no_such_module" in entry else entry.partition(":")[2]
    with (
        Decoder(PREPROCESS, LIMITS, timeout_s=60, memory_bytes=MEMORY, entry=entry) as decoder,
        pytest.raises(ViewfinderError, match=name),
    ):
        decoder.decode(b"pid")


@pytest.mark.parametrize("busy", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_child_does_not_outlive_a_killed_parent(busy: bool, tmp_path: Path) -> None:
    pipe = tmp_path / "hanging"
    os.mkfifo(pipe)
    program = (
        "import pathlib, sys\n"
        "from tests.images.test_decoder import CRASHING, LIMITS, MEMORY, PREPROCESS\n"
        "from viewfinder.images.decoder import Decoder\n"
        "decoder = Decoder(PREPROCESS, LIMITS, timeout_s=3, memory_bytes=MEMORY, entry=CRASHING)\n"
        "child = decoder.decode(b'pid').width\n"
        f"if {busy}: decoder.decode({b'hang ' + os.fsencode(pipe)!r})\n"
        f"pathlib.Path({str(pipe)!r}).write_text(str(child))\n"
        "sys.stdin.read()\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, stdin=subprocess.PIPE) as parent:
        child = os.pidfd_open(int(pipe.read_text()))
        assert not ended_within(child, 0)
        parent.kill()
    assert ended_within(child, 60)
    os.close(child)


def test_the_child_finds_its_modules_from_any_directory(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    (tmp_path / "viewfinder").mkdir()
    (tmp_path / "viewfinder" / "decoder.py").write_text("raise SystemExit('the wrong viewfinder')")
    program = (
        f"import sys; sys.path[:0] = [{str(root)!r}]\n"
        "from viewfinder.images.decoder import Decoder\n"
        "from viewfinder.images.decoding import ImageLimits, Preprocess\n"
        "with Decoder(Preprocess(32), ImageLimits(10**6, 10**6), timeout_s=60, memory_bytes=2**29) as decoder:\n"
        "    print(decoder.decode(sys.stdin.buffer.read()).format)\n"
    )
    environment = {"PATH": os.defpath, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, input=encoded(quadrants()), capture_output=True
    )
    assert done.stdout == b"png\n", done.stderr


def test_damaged_files_have_the_same_outcome_as_in_process() -> None:
    limits = ImageLimits(10**7, 10**6)

    def outcome(decode_file: Callable[[bytes], Decoded], data: bytes) -> tuple[object, ...]:
        try:
            return decode_file(data)[1:]
        except ImageError as error:
            return (error.reason,)

    with Decoder(PREPROCESS, limits, timeout_s=60, memory_bytes=MEMORY) as decoder:
        for name, data in damaged_files(4):
            here = outcome(lambda data: decode(data, PREPROCESS, limits), data)
            assert outcome(decoder.decode, data) == here, name


def test_images_that_change_size_on_loading_are_decoded(decoder: Decoder) -> None:
    icon = io.BytesIO()
    Image.new("RGBA", (64, 64), "red").save(icon, "ICNS")
    assert decoder.decode(icon.getvalue()).width == 1024
