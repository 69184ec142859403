"""The encoder compared with open_clip's model, tokenizer and transform, loaded from the same directory."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from viewfinder.arrays import Vectors
from viewfinder.errors import ConfigurationError, UnknownModelError
from viewfinder.images.decoding import ImageLimits, decode
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.devices import Device
from viewfinder.models.encoder import Encoder
from viewfinder.models.open_clip_internals import build_model
from viewfinder.models.registry import REGISTRY
from viewfinder.testing.models import Family, tiny_checkpoint

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.slow

FAMILIES = get_args(Family)
# Vision towers of timm, of which siglip's stands for all in most runs.
LARGE = ("mobileclip", "eva", "pe-core")
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
TEXTS = [
    "a red car",
    "",
    "two dogs play with a yellow frisbee on the beach at sunset",
    "一只猫在窗台上 🐈",
    "A man's hat & <b>nothing</b> else: 3,000 pieces!",
    "word " * 400,
]


class Reference(NamedTuple):
    """open_clip's own implementation."""

    model: Any
    transform: Callable[[Image.Image], torch.Tensor]
    tokenizer: Callable[[list[str]], torch.Tensor]

    def encode_texts(self, texts: list[str]) -> Vectors:
        import torch

        with torch.no_grad():
            return unit(self.model.encode_text(self.tokenizer(texts)))

    def encode_images(self, images: list[Image.Image]) -> Vectors:
        import torch

        with torch.no_grad():
            return unit(self.model.encode_image(torch.stack([self.transform(image) for image in images])))


class Pair(NamedTuple):
    family: Family
    checkpoint: Checkpoint
    encoder: Encoder
    reference: Reference


def unit(features: torch.Tensor) -> Vectors:
    import torch

    vectors: Vectors = torch.nn.functional.normalize(features, dim=-1).numpy()
    return vectors


def load_pair(family: Family, directory: Path) -> Pair:
    import open_clip

    checkpoint = locate(str(tiny_checkpoint(directory, family)))
    name = f"local-dir:{directory}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    reference = Reference(model.eval(), transform, open_clip.get_tokenizer(name))
    return Pair(family, checkpoint, Encoder.load(checkpoint, device="cpu"), reference)


@pytest.fixture(
    scope="module",
    params=[pytest.param(each, marks=pytest.mark.full) if each in LARGE else each for each in FAMILIES],
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return load_pair(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return load_pair("clip", tmp_path_factory.mktemp("clip"))


def random_images(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def text_tower(config: dict[str, Any]) -> tuple[object, ...]:
    """The properties of a text tower that decide how it is run."""
    text = config["text_cfg"]
    return (
        "hf_model_name" in text,
        "hf_tokenizer_name" in text,
        text.get("pool_type", "argmax"),
        text.get("no_causal_mask", False),
        text.get("embed_cls", False),
        text.get("proj_bias", False),
    )


def test_every_kind_of_text_tower_in_the_registry_is_tested_here(tmp_path: Path) -> None:
    import open_clip

    tested = set()
    for family in FAMILIES:
        directory = tiny_checkpoint(tmp_path / family, family)
        tested.add(text_tower(json.loads((directory / CONFIG).read_text())["model_cfg"]))
    known = {text_tower(open_clip.get_model_config(spec.arch)) for spec in REGISTRY.values() if spec.arch}
    assert known <= tested


class TestTexts:
    def test_single_texts_equal_open_clip(self, pair: Pair) -> None:
        ours = np.concatenate([pair.encoder.encode_texts([text])[0] for text in TEXTS])
        np.testing.assert_allclose(ours, pair.reference.encode_texts(TEXTS), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("count", [2, 5, len(TEXTS)])
    def test_batches_equal_open_clip(self, pair: Pair, count: int) -> None:
        ours, _ = pair.encoder.encode_texts(TEXTS[:count])
        np.testing.assert_allclose(ours, pair.reference.encode_texts(TEXTS[:count]), rtol=0, atol=1e-5)

    def test_vectors_have_unit_length_are_float32_and_differ(self, pair: Pair) -> None:
        vectors, _ = pair.encoder.encode_texts(TEXTS)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(TEXTS), pair.checkpoint.dimension) == (len(TEXTS), pair.encoder.dimension)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert np.abs(vectors[0] - vectors[2]).max() > 0.01

    @pytest.mark.parametrize("text", [TEXTS[0], TEXTS[5]])
    def test_truncated_tokens_are_counted(self, pair: Pair, text: str) -> None:
        # A tiny Hugging Face tokenizer makes one token of each byte; CLIP's makes one of each of these words.
        clip_like = pair.checkpoint.tokenizer.kind == "bpe"
        special = 1 if pair.family == "siglip" else 2  # SigLIP has no start token
        tokens = (len(text.split()) if clip_like else len(text.strip())) + special
        _, truncated = pair.encoder.encode_texts(["short", text])
        assert truncated.tolist() == [0, max(0, tokens - pair.encoder.context_length)]

    def test_an_empty_list_gives_no_vectors(self, pair: Pair) -> None:
        vectors, truncated = pair.encoder.encode_texts([])
        assert vectors.shape == (0, pair.encoder.dimension)
        assert truncated.shape == (0,)

    @pytest.mark.parametrize("pair", ["clip", "clip-quickgelu", "metaclip2", "xlm-roberta"], indirect=True)
    def test_the_tower_runs_over_the_needed_tokens_only(self, pair: Pair) -> None:
        assert self.tokens_read(pair, ["a", "bc"]) == (4 if pair.checkpoint.tokenizer.kind == "huggingface" else 3)

    @pytest.mark.parametrize("pair", ["siglip", "coca"], indirect=True)
    def test_a_tower_that_attends_to_padding_gets_all_tokens(self, pair: Pair) -> None:
        class_token = pair.family == "coca"  # follows the padding
        assert self.tokens_read(pair, ["a", "bc"]) == pair.encoder.context_length + class_token

    @staticmethod
    def tokens_read(pair: Pair, texts: list[str]) -> int:
        lengths: list[int] = []

        def record(module: object, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            lengths.append((arguments[0] if arguments else keywords["input_ids"]).shape[1])

        model = pair.encoder.runtime.model
        tower = getattr(model, "text", model).transformer
        hook = tower.register_forward_pre_hook(record, with_kwargs=True)
        try:
            pair.encoder.encode_texts(texts)
        finally:
            hook.remove()
        return lengths[0]

    @pytest.mark.parametrize("pair", ["clip", "xlm-roberta"], indirect=True)
    def test_threads_share_an_encoder(self, pair: Pair) -> None:
        # A fast tokenizer used by two threads raised "Already borrowed".
        expected, _ = pair.encoder.encode_texts(TEXTS)
        with ThreadPoolExecutor(8) as pool:
            for vectors, _ in pool.map(pair.encoder.encode_texts, [TEXTS] * 32):
                np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)


class TestImages:
    def test_images_equal_open_clip(self, pair: Pair) -> None:
        images = random_images(3, pair.encoder.preprocess.size)
        expected = pair.reference.encode_images([Image.fromarray(image) for image in images])
        np.testing.assert_allclose(pair.encoder.encode_images(images), expected, rtol=0, atol=1e-5)

    def test_a_decoded_file_gives_canonical_vectors(self, pair: Pair) -> None:
        # Smooth and only a little larger than the input: large images are decoded to other pixels than by open_clip.
        height, width = pair.encoder.preprocess.size * 3 // 2, pair.encoder.preprocess.size * 2
        rows, columns = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
        image = np.stack([rows * 255, columns * 255, 128 + 100 * np.sin(6 * columns)], -1).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        pixels = decode(file.getvalue(), pair.encoder.preprocess, ImageLimits(10**7, 10**7)).pixels
        expected = pair.reference.encode_images([Image.fromarray(image)])
        np.testing.assert_allclose(pair.encoder.encode_images(pixels[np.newaxis])[0, :8], expected[0, :8], atol=1e-3)

    def test_vectors_have_unit_length_are_float32_and_differ(self, pair: Pair) -> None:
        images = random_images(2, pair.encoder.preprocess.size)
        images[1] //= 4  # a tower that averages sees little else of noise
        vectors = pair.encoder.encode_images(images)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert np.abs(vectors[0] - vectors[1]).max() > 0.01

    def test_read_only_and_strided_arrays_are_accepted(self, clip: Pair) -> None:
        images = random_images(6, 32)
        expected = clip.encoder.encode_images(images)[::2]
        images.flags.writeable = False
        np.testing.assert_allclose(clip.encoder.encode_images(images[::2]), expected, rtol=0, atol=1e-5)

    def test_an_empty_list_gives_no_vectors(self, clip: Pair) -> None:
        assert clip.encoder.encode_images(random_images(0, 32)).shape == (0, 32)

    @pytest.mark.parametrize(
        "images",
        [
            random_images(1, 32).astype(np.float32),
            random_images(1, 64),
            random_images(1, 32)[0],
            random_images(1, 32).transpose(0, 3, 1, 2),
        ],
    )
    def test_other_arrays_are_refused(self, clip: Pair, images: NDArray[Any]) -> None:
        with pytest.raises(ValueError, match=r"must be uint8 \[N, 32, 32, 3\]"):
            clip.encoder.encode_images(images)


class TestMemory:
    @pytest.fixture
    def batches(self, clip: Pair, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
        """The sizes of the batches that reach the model, whose memory ends at three images."""
        import torch

        monkeypatch.setattr(clip.encoder.runtime, "_maximum_batch", sys.maxsize)  # restored after the test
        sizes: list[int] = []

        def full(module: object, arguments: tuple[torch.Tensor, ...]) -> None:
            sizes.append(len(arguments[0]))
            if len(arguments[0]) > 3 or arguments[0].isnan().any():
                raise torch.OutOfMemoryError("CUDA out of memory")

        hook = clip.encoder.runtime.model.visual.register_forward_pre_hook(full)
        yield sizes
        hook.remove()

    def test_a_batch_that_does_not_fit_is_encoded_in_parts_that_do(self, clip: Pair, batches: list[int]) -> None:
        images = random_images(5, 32)
        expected = np.concatenate([clip.encoder.encode_images(images[index : index + 1]) for index in range(5)])
        batches.clear()
        np.testing.assert_allclose(clip.encoder.encode_images(images), expected, rtol=0, atol=1e-5)
        assert batches == [5, 2, 2, 1]

    def test_the_batch_size_that_fits_is_remembered(self, clip: Pair, batches: list[int]) -> None:
        clip.encoder.encode_images(random_images(8, 32))
        assert batches == [8, 4, 2, 2, 2, 2]
        batches.clear()
        clip.encoder.encode_images(random_images(5, 32))
        assert batches == [2, 2, 1]

    def test_memory_too_small_for_one_image_is_an_error(self, clip: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(clip.encoder.runtime, "_maximum_batch", sys.maxsize)

        def full(module: object, arguments: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        hook = clip.encoder.runtime.model.visual.register_forward_pre_hook(full)
        try:
            with pytest.raises(torch.OutOfMemoryError):
                clip.encoder.encode_images(random_images(3, 32))
        finally:
            hook.remove()


class TestLoad:
    @pytest.mark.parametrize("pair", ["clip", "siglip"], indirect=True)
    def test_logits_equal_those_of_the_model(self, pair: Pair) -> None:
        import torch

        images = random_images(2, pair.encoder.preprocess.size)
        with torch.no_grad():
            pixels = torch.stack([pair.reference.transform(Image.fromarray(image)) for image in images])
            expected, _ = pair.reference.model.get_logits(pixels, pair.reference.tokenizer(TEXTS))
        cosines = pair.encoder.encode_images(images) @ pair.encoder.encode_texts(TEXTS)[0].T
        logits = pair.encoder.logit_scale * cosines + pair.encoder.logit_bias
        np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-3)

    def test_the_default_on_a_cpu_is_float32(self, clip: Pair) -> None:
        assert (clip.encoder.device, clip.encoder.precision) == ("cpu", "float32")
        assert clip.encoder.fingerprint == clip.checkpoint.fingerprint

    def test_bfloat16_vectors_are_close_to_float32(self, pair: Pair) -> None:
        if pair.family == "mobileclip":
            pytest.skip("its random convolutions amplify rounding; trained ones do not")
        bfloat16 = Encoder.load(pair.checkpoint, device="cpu", precision="bfloat16")
        assert bfloat16.precision == "bfloat16"
        images = random_images(3, pair.encoder.preprocess.size)
        texts = (bfloat16.encode_texts(TEXTS)[0] * pair.encoder.encode_texts(TEXTS)[0]).sum(axis=1)
        images_cosines = (bfloat16.encode_images(images) * pair.encoder.encode_images(images)).sum(axis=1)
        assert texts.min() >= 0.999
        assert images_cosines.min() >= 0.999
        assert bfloat16.logit_scale == pair.encoder.logit_scale

    def test_a_missing_device_is_refused(self, clip: Pair) -> None:
        import torch

        missing: Device = "cuda" if not torch.cuda.is_available() else "mps"
        with pytest.raises(ConfigurationError, match=f"The device '{missing}' is not available: torch"):
            Encoder.load(clip.checkpoint, device=missing)

    def test_load_sets_the_threads_of_the_process(self, clip: Pair) -> None:
        import torch

        before = torch.get_num_threads()
        try:
            Encoder.load(clip.checkpoint, device="cpu", threads=1)
            assert torch.get_num_threads() == 1
        finally:
            torch.set_num_threads(before)

    def test_a_processor_with_bfloat16_instructions_gets_bfloat16_weights(
        self, clip: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("viewfinder.models.devices.multiplies_bfloat16", lambda: True)
        encoder = Encoder.load(clip.checkpoint, device="cpu")
        assert encoder.precision == "bfloat16"
        cosines = np.sum(encoder.encode_texts(TEXTS)[0] * clip.encoder.encode_texts(TEXTS)[0], axis=1)
        assert cosines.min() > 0.999
        assert Encoder.load(clip.checkpoint, device="cpu", precision="float32").precision == "float32"

    @pytest.mark.parametrize(
        "change",
        [{"embed_dim": 48}, {"vision_cfg": {"image_size": 32, "width": 32}}, {"text_cfg": {"no_such_thing": 1}}],
    )
    def test_weights_that_do_not_fit_are_refused(self, tmp_path: Path, change: dict[str, Any]) -> None:
        path = tiny_checkpoint(tmp_path) / CONFIG
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"model_cfg": config["model_cfg"] | change}))
        with pytest.raises(UnknownModelError, match="damaged or does not fit its configuration"):
            Encoder.load(locate(str(tmp_path)), device="cpu")

    def test_damaged_weights_of_the_pickle_format_are_refused(self, tmp_path: Path) -> None:
        (tiny_checkpoint(tmp_path) / WEIGHTS).unlink()
        (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"not a pickle")
        with pytest.raises(UnknownModelError, match="damaged or does not fit its configuration"):
            Encoder.load(locate(str(tmp_path)), device="cpu")

    def test_a_damaged_tokenizer_is_refused(self, tmp_path: Path) -> None:
        (tiny_checkpoint(tmp_path, "siglip") / "tokenizer.json").write_text("{")
        with pytest.raises(UnknownModelError, match=r"The tokenizer in .* cannot be loaded"):
            Encoder.load(locate(str(tmp_path)), device="cpu")

    @pytest.mark.parametrize(
        "arch",
        sorted({spec.arch for spec in REGISTRY.values() if spec.arch and not spec.arch.startswith("xlm")}),
    )
    def test_the_built_model_equals_that_of_open_clip(self, arch: str) -> None:
        # Without storage, so that the largest takes no memory; XLM-RoBERTa's configuration would come from the hub.
        import open_clip
        import torch

        config = open_clip.get_model_config(arch)
        with torch.device("meta"):
            ours = build_model(config)
            theirs = open_clip.create_model(arch, load_weights=False, device="meta")
        assert describe(ours) == describe(theirs)


def describe(model: torch.nn.Module) -> list[object]:
    modules: list[object] = [(name, type(module)) for name, module in model.named_modules()]
    return modules + [(name, tensor.shape) for name, tensor in model.state_dict().items()]


@pytest.mark.parametrize("name", ["demo", "demo-small"])
def test_the_demo_models_equal_open_clip(name: str) -> None:
    import open_clip

    directory = REGISTRY[name].directory
    if not Path(directory).is_dir():
        pytest.skip(f"{directory} is not there: demo/train.py makes it")
    encoder = Encoder.load(locate(name), device="cpu")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{directory}")
    reference = Reference(model.eval(), transform, open_clip.get_tokenizer(f"local-dir:{directory}"))
    images = random_images(2, encoder.preprocess.size)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS)[0], reference.encode_texts(TEXTS), rtol=0, atol=1e-5)
    expected = reference.encode_images([Image.fromarray(image) for image in images])
    np.testing.assert_allclose(encoder.encode_images(images), expected, rtol=0, atol=1e-5)
