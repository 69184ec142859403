"""Where the weights, configuration and tokenizer of a model are found, and the fingerprint of the vectors they make."""

import copy
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from viewfinder.errors import ModelMismatchError, UnknownModelError
from viewfinder.images.decoding import Preprocess
from viewfinder.models import hub
from viewfinder.models.registry import CONFIG_NAME, REGISTRY, ModelSpec, find, read_config

# Part of every fingerprint. Raise it only when canonical vectors move by more than 1e-3: each index is then built anew.
ENCODER_VERSION = 1

__all__ = ["ENCODER_VERSION", "REGISTRY", "Checkpoint", "ModelSpec", "TokenizerSpec", "find", "locate"]


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """How texts become tokens: CLIP's own byte-pair encoding, or a Hugging Face tokenizer whose files lie here."""

    kind: Literal["bpe", "huggingface"]
    context_length: int
    options: dict[str, Any]
    mode: str | None = None
    directory: str = ""
    content: str = ""  # SHA-256 of the tokenizer's files


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model found on this machine: plain values, enough to load it.

    The paths hold for this machine only. What travels to another one is `name` and `fingerprint`, for
    `locate(name, expect=fingerprint)` there.
    """

    spec: ModelSpec
    weights: Path
    architecture: dict[str, Any]  # open_clip's model_cfg
    preprocess: Preprocess
    tokenizer: TokenizerSpec
    fingerprint: str

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def dimension(self) -> int:
        return int(self.architecture["embed_dim"])


def locate(name: str, *, expect: str | None = None) -> Checkpoint:
    """Find the model's files, downloading what the Hugging Face cache lacks, and compute its fingerprint.

    Raises `UnknownModelError` where they cannot be had or are damaged, and `ModelMismatchError` where the fingerprint
    is not the one that is expected.
    """
    spec = find(name)
    if spec.directory:
        checkpoint = _locate_directory(spec)
    elif spec.arch:
        checkpoint = _locate_open_clip(spec)
    else:
        checkpoint = _locate_hub(spec)
    if expect is not None and checkpoint.fingerprint != expect:
        raise ModelMismatchError(
            f"Model {name!r} has the fingerprint {checkpoint.fingerprint!r} on this machine, but {expect!r} is "
            f"expected: its weights, configuration or tokenizer differ from those that made the vectors. "
            f"Bring the same files here (this one reads {checkpoint.weights}), or index again with this model."
        )
    return checkpoint


def _locate_directory(spec: ModelSpec) -> Checkpoint:
    directory = Path(spec.directory)
    if spec.name in REGISTRY and not directory.is_dir():
        raise UnknownModelError(
            f"Model {spec.name!r} is not on this machine: it stands in the repository, in demo/models/{spec.name}, and "
            f"the installed package does not hold it (looked in {directory}). Run from a checkout of the repository, "
            f"name that directory as the model, or take another one: 'viewfinder models' lists them."
        )
    architecture, preprocess = read_config(spec.name, directory / CONFIG_NAME)
    return _checkpoint(spec, architecture, preprocess, _weights_in(spec.name, directory), home=directory)


def _locate_open_clip(spec: ModelSpec) -> Checkpoint:
    import open_clip

    arch = spec.arch.replace("/", "-")
    architecture, tag = open_clip.get_model_config(arch), open_clip.get_pretrained_cfg(arch, spec.tag)
    if tag.get("quick_gelu"):
        # The weights were trained with QuickGELU. open_clip.create_model only warns of it and takes GELU, which costs
        # accuracy; this is what it does with force_quick_gelu=True or for the architecture ARCH-quickgelu.
        architecture["quick_gelu"] = True
    repository, _, filename = tag["hf_hub"].rpartition("/")  # ORG/NAME/FILE, with an empty FILE for the default name
    return _checkpoint(spec, architecture, tag, _download_weights(spec.name, repository, filename))


def _locate_hub(spec: ModelSpec) -> Checkpoint:
    folder = hub.download(spec.name, spec.hub, [CONFIG_NAME])
    architecture, preprocess = read_config(spec.name, folder / CONFIG_NAME)
    return _checkpoint(spec, architecture, preprocess, _download_weights(spec.name, spec.hub, ""))


def _checkpoint(
    spec: ModelSpec,
    architecture: dict[str, Any],
    preprocess_config: Mapping[str, Any],
    weights: Path,
    home: Path | None = None,
) -> Checkpoint:
    architecture = copy.deepcopy(architecture)
    # Neither changes a vector, and both would make the towers download weights of their own.
    architecture["vision_cfg"].pop("timm_model_pretrained", None)
    text = architecture["text_cfg"]
    text.pop("hf_model_pretrained", None)

    preprocess = _preprocess(spec.name, architecture["vision_cfg"].get("image_size", 224), preprocess_config)
    tokenizer = _tokenizer(spec.name, text, home)
    identity: dict[str, Any] = copy.deepcopy(architecture)
    identity["text_cfg"].pop("hf_tokenizer_name", None)
    if tower := text.get("hf_model_name"):
        folder = _tower_folder(spec.name, tower, home)
        text["hf_model_name"] = str(folder)
        identity["text_cfg"]["hf_model_name"] = _tower_config(spec.name, folder / "config.json")
    described = {
        "architecture": identity,
        "weights": _sha256(weights),
        "preprocess": asdict(preprocess),
        "tokenizer": {key: value for key, value in asdict(tokenizer).items() if key != "directory"},
        "normalisation": "l2",
        "encoder": ENCODER_VERSION,
    }
    fingerprint = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
    return Checkpoint(spec, weights, architecture, preprocess, tokenizer, fingerprint)


def _preprocess(name: str, image_size: Any, config: Mapping[str, Any]) -> Preprocess:
    try:
        width, height = (image_size, image_size) if isinstance(image_size, int) else image_size
        if width != height:
            raise ValueError(f"pictures of {width} x {height} pixels; viewfinder prepares square ones only")
        given = {key: config[key] for key in _PREPROCESS_CHOICES if config.get(key) is not None}
        if given.get("interpolation") == "random":  # a way to train; open_clip encodes with bicubic then
            given["interpolation"] = "bicubic"
        for key, value in given.items():
            if value not in _PREPROCESS_CHOICES[key]:
                raise ValueError(f"{key} {value!r}; known are {', '.join(_PREPROCESS_CHOICES[key])}")
        for key in ("mean", "std"):
            if (value := config.get(key)) is not None:
                red, green, blue = value if isinstance(value, (list, tuple)) else (value, value, value)
                given[key] = (float(red), float(green), float(blue))
        return Preprocess(size=width, fill_color=int(config.get("fill_color") or 0), **given)
    except (TypeError, ValueError) as error:
        raise UnknownModelError(f"Model {name!r} cannot be used: it asks for {error} in its preprocessing.") from error


_PREPROCESS_CHOICES = {
    "resize_mode": ("shortest", "squash", "longest"),
    "interpolation": ("bicubic", "bilinear"),
}


# Everything by which transformers recognises and builds a tokenizer; a repository has some of them.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")


def _tokenizer(name: str, text: Mapping[str, Any], home: Path | None) -> TokenizerSpec:
    context_length = text.get("context_length", 77)
    options = dict(text.get("tokenizer_kwargs") or {})
    repository = text.get("hf_tokenizer_name")
    if not repository:
        return TokenizerSpec("bpe", context_length, options)
    # As open_clip has it: a local checkpoint brings its tokenizer along, whatever its configuration names.
    folder = home or hub.download(name, repository, [*_TOKENIZER_FILES, *_TOKENIZER_SETTINGS])
    present = [folder / each for each in _TOKENIZER_FILES if (folder / each).is_file()]
    if not present:
        raise UnknownModelError(
            f"Model {name!r} needs the files of its tokenizer {repository!r} in {folder}, such as tokenizer.json."
        )
    # tokenizer.json alone defines a tokenizer; the older files beside it depend on who filled the cache.
    defining = present[:1] if present[0].name == "tokenizer.json" else present
    defining += [folder / each for each in _TOKENIZER_SETTINGS[:1] if (folder / each).is_file()]
    content = hashlib.sha256("".join(_sha256(path) for path in defining).encode()).hexdigest()
    return TokenizerSpec("huggingface", context_length, options, text.get("tokenizer_mode"), str(folder), content)


def _tower_folder(name: str, tower: str, home: Path | None) -> Path:
    """Where the configuration of a Hugging Face text tower lies; its weights are part of the checkpoint's."""
    for folder in ([home / tower] if home else []) + [Path(tower)]:
        if (folder / "config.json").is_file():
            return folder.resolve()
    return hub.download(name, tower, ["config.json"])


def _tower_config(name: str, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        # Notes about who wrote the file, not about the tower.
        return {
            key: value
            for key, value in config.items()
            if key not in ("_name_or_path", "architectures", "transformers_version")
        }
    except (OSError, ValueError, AttributeError) as error:
        raise UnknownModelError(
            f"Model {name!r} cannot be loaded: {path} does not describe a text tower ({error})."
        ) from error


# open_clip's own order of preference.
_WEIGHTS_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)


def _weights_in(name: str, directory: Path) -> Path:
    for path in (directory / each for each in _WEIGHTS_NAMES):
        if path.is_file():
            return _intact(name, path)
    raise UnknownModelError(
        f"Model {name!r} has no weights in {directory}: it needs {_WEIGHTS_NAMES[0]} or {_WEIGHTS_NAMES[2]}."
    )


def _intact(name: str, path: Path) -> Path:
    """Look at the header of a safetensors file, so that a cut download fails here and not in the encoders."""
    if path.suffix == ".safetensors":
        import safetensors

        try:
            with safetensors.safe_open(path, framework="numpy"):
                pass
        except (OSError, safetensors.SafetensorError) as error:
            raise UnknownModelError(
                f"Model {name!r} cannot be loaded: {path} is damaged ({error}). Delete it and fetch it again."
            ) from error
    return path


def _download_weights(name: str, repository: str, filename: str) -> Path:
    names = [_WEIGHTS_NAMES[0], _WEIGHTS_NAMES[2]]
    if filename:
        names = [str(Path(filename).with_suffix(".safetensors")), filename]
    for each in names:  # safetensors first, as open_clip does
        path = hub.download(name, repository, [each]) / each
        if path.is_file():
            return _intact(name, path)
    raise UnknownModelError(
        f"Model {name!r}: the repository {repository!r}, as far as it can be seen from here, holds none of "
        f"{', '.join(names)}. {hub.WAY_OUT}"
    )


def _sha256(path: Path) -> str:
    try:
        status = path.stat()
        return _sha256_of(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UnknownModelError(f"The model's file {path} cannot be read: {error}.") from error


@functools.lru_cache(maxsize=64)
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    # A replica that looks for a new model every few seconds must not read gigabytes each time.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
