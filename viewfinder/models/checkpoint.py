"""Checkpoints: locate the files of a model, locally or on the Hugging Face hub, and compute its fingerprint."""

import copy
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from viewfinder.errors import ModelMismatchError, UnknownModelError
from viewfinder.images.decoding import Preprocess
from viewfinder.models import open_clip_tables
from viewfinder.models.exports import Exports
from viewfinder.models.hub import ADVICE, cached, download, is_commit
from viewfinder.models.registry import CONFIG_NAME, REGISTRY, ModelSpec, find, read_config

# Part of every fingerprint. Raise it only when vectors change by more than 1e-3: every index must then be rebuilt.
ENCODER_VERSION = 1


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """A tokenizer: CLIP's own byte-pair encoding, or a Hugging Face tokenizer in a local directory."""

    kind: Literal["bpe", "huggingface"]
    context_length: int
    options: dict[str, Any]
    mode: str | None = None
    directory: str = ""
    content: str = ""  # SHA-256 of the tokenizer's files


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on this machine: plain values, enough to load it.

    The paths are valid on this machine only. Another machine gets `name`, `fingerprint` and
    `revisions`, and calls `locate(name, expect=fingerprint, revisions=revisions)`.
    """

    spec: ModelSpec
    weights: Path
    architecture: dict[str, Any]  # open_clip's model_cfg
    preprocess: Preprocess
    tokenizer: TokenizerSpec
    fingerprint: str
    weights_digest: str  # SHA-256

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def revisions(self) -> Mapping[str, str]:
        """The commits of the hub repositories that the files come from."""
        return self.spec.revisions

    @property
    def dimension(self) -> int:
        return int(self.architecture["embed_dim"])

    def verify(self) -> None:
        """Raise `ModelMismatchError` if the weights are not those of the fingerprint (see `locate`)."""
        if _sha256(self.weights) != self.weights_digest:
            raise _mismatch(self, "other weights", self.fingerprint)


def locate(
    name: str, *, expect: str | None = None, revisions: Mapping[str, str] | None = None, exported: bool = False
) -> Checkpoint:
    """Find the model's files, downloading what the Hugging Face cache lacks, and compute its fingerprint.

    `revisions` pins hub repositories to commits, as `Checkpoint.revisions` of another machine; the others are resolved
    here, once each. With `exported`, gigabytes of weights are not read if this machine has an export of the expected
    model, from which it will be loaded; who loads the weights instead calls `Checkpoint.verify`.
    Raises `UnknownModelError` if a file is missing or damaged, and `ModelMismatchError` if the fingerprint is not
    `expect`.
    """
    spec = replace(find(name), revisions=dict(revisions or {}))
    known = Exports.of_this_machine().weights(expect) if exported and expect else None
    if spec.directory:
        checkpoint = _locate_directory(spec, known)
    elif spec.arch:
        checkpoint = _locate_open_clip(spec, known)
    else:
        checkpoint = _locate_hub(spec, known)
    if known is not None and checkpoint.fingerprint != expect:
        return locate(name, expect=expect, revisions=revisions)
    if expect is not None and checkpoint.fingerprint != expect:
        raise _mismatch(checkpoint, f"the fingerprint {checkpoint.fingerprint!r}", expect)
    return checkpoint


def _mismatch(checkpoint: Checkpoint, found: str, expect: str) -> ModelMismatchError:
    return ModelMismatchError(
        f"Model {checkpoint.name!r} has {found} on this machine, but {expect!r} is expected: its weights, "
        f"configuration or tokenizer differ from those that made the vectors. Copy the same files here (this machine "
        f"reads {checkpoint.weights}), or index again with this model."
    )


def _locate_directory(spec: ModelSpec, digest: str | None) -> Checkpoint:
    directory = Path(spec.directory)
    if spec.name in REGISTRY and not directory.is_dir():
        raise UnknownModelError(
            f"Model {spec.name!r} is not on this machine: the installed package does not contain it, only a clone of "
            f"the repository does, in demo/models/{spec.name} (looked in {directory}). Run from a clone, pass that "
            f"directory as the model, or choose another model: 'viewfinder models' lists them."
        )
    architecture, preprocess = read_config(spec.name, directory / CONFIG_NAME)
    return _checkpoint(spec, architecture, preprocess, _weights_in(spec.name, directory), digest, home=directory)


def _locate_open_clip(spec: ModelSpec, digest: str | None) -> Checkpoint:
    arch = spec.arch.replace("/", "-")
    architecture = open_clip_tables.architecture(arch)
    tag = _published(spec)
    if tag.get("quick_gelu"):
        # The weights were trained with QuickGELU. open_clip.create_model only warns and uses GELU, which costs
        # accuracy; this is the same as its force_quick_gelu=True or the architecture ARCH-quickgelu.
        architecture["quick_gelu"] = True
    repository, _, filename = tag["hf_hub"].rpartition("/")
    return _checkpoint(spec, architecture, tag, _download_weights(spec, repository, filename), digest)


def _published(spec: ModelSpec) -> dict[str, Any]:
    """Return open_clip's record of the weights; its `hf_hub` is ORG/NAME/FILE, with an empty FILE for the default."""
    return open_clip_tables.pretrained(spec.arch.replace("/", "-"))[open_clip_tables.normalized_tag(spec.tag)]


def _locate_hub(spec: ModelSpec, digest: str | None) -> Checkpoint:
    folder = _download(spec, spec.hub, [CONFIG_NAME])
    architecture, preprocess = read_config(spec.name, folder / CONFIG_NAME)
    return _checkpoint(spec, architecture, preprocess, _download_weights(spec, spec.hub, ""), digest)


def _checkpoint(
    spec: ModelSpec,
    architecture: dict[str, Any],
    preprocess_config: Mapping[str, Any],
    weights: Path,
    digest: str | None,
    home: Path | None = None,
) -> Checkpoint:
    """Return the checkpoint of these files; without the `digest` of the weights they are read."""
    architecture = copy.deepcopy(architecture)
    # With either of these the towers would download weights of their own; neither changes a vector.
    architecture["vision_cfg"].pop("timm_model_pretrained", None)
    text = architecture["text_cfg"]
    text.pop("hf_model_pretrained", None)

    preprocess = _preprocess(spec.name, architecture["vision_cfg"].get("image_size", 224), preprocess_config)
    tokenizer = _tokenizer(spec, text, home)
    identity: dict[str, Any] = copy.deepcopy(architecture)
    identity["text_cfg"].pop("hf_tokenizer_name", None)
    if tower := text.get("hf_model_name"):
        folder = _tower_folder(spec, tower, home)
        text["hf_model_name"] = str(folder)
        identity["text_cfg"]["hf_model_name"] = _tower_config(spec.name, folder / "config.json")
    digest = digest or _sha256(weights)
    described = {
        "architecture": identity,
        "weights": digest,
        "preprocess": asdict(preprocess),
        "tokenizer": {key: value for key, value in asdict(tokenizer).items() if key != "directory"},
        "normalisation": "l2",
        "encoder": ENCODER_VERSION,
    }
    fingerprint = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
    return Checkpoint(spec, weights, architecture, preprocess, tokenizer, fingerprint, digest)


def _preprocess(name: str, image_size: Any, config: Mapping[str, Any]) -> Preprocess:
    try:
        width, height = (image_size, image_size) if isinstance(image_size, int) else image_size
        if width != height:
            raise ValueError(f"images of {width} x {height} pixels; viewfinder supports square ones only")
        given = {key: config[key] for key in _PREPROCESS_CHOICES if config.get(key) is not None}
        if given.get("interpolation") == "random":  # for training; open_clip encodes with bicubic then
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
        raise UnknownModelError(
            f"Model {name!r} cannot be used: its preprocessing is not supported ({error})."
        ) from error


_PREPROCESS_CHOICES = {
    "resize_mode": ("shortest", "squash", "longest"),
    "interpolation": ("bicubic", "bilinear"),
}


# The files from which transformers builds a tokenizer; a repository has some of them.
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


def _tokenizer(spec: ModelSpec, text: Mapping[str, Any], home: Path | None) -> TokenizerSpec:
    context_length = text.get("context_length", 77)
    options = dict(text.get("tokenizer_kwargs") or {})
    repository = text.get("hf_tokenizer_name")
    if not repository:
        return TokenizerSpec("bpe", context_length, options)
    # Like open_clip: a local checkpoint contains its tokenizer, whatever its configuration names.
    folder = home or _download(spec, repository, [*_TOKENIZER_FILES, *_TOKENIZER_SETTINGS])
    present = [folder / each for each in _TOKENIZER_FILES if (folder / each).is_file()]
    if not present:
        raise UnknownModelError(
            f"Model {spec.name!r} needs the files of its tokenizer {repository!r} in {folder}, such as tokenizer.json."
        )
    # tokenizer.json alone defines a tokenizer; which older files are beside it depends on how it was downloaded.
    defining = present[:1] if present[0].name == "tokenizer.json" else present
    defining += [folder / each for each in _TOKENIZER_SETTINGS[:1] if (folder / each).is_file()]
    content = hashlib.sha256("".join(_sha256(path) for path in defining).encode()).hexdigest()
    return TokenizerSpec("huggingface", context_length, options, text.get("tokenizer_mode"), str(folder), content)


def _tower_folder(spec: ModelSpec, tower: str, home: Path | None) -> Path:
    """Return the directory of a Hugging Face text tower's configuration; the checkpoint contains its weights."""
    for folder in ([home / tower] if home else []) + [Path(tower)]:
        if (folder / "config.json").is_file():
            return folder.resolve()
    return _download(spec, tower, ["config.json"])


def _tower_config(name: str, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        # These fields describe the program that wrote the file; they do not change the tower.
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
    """Check the header of a safetensors file, so that a truncated download fails here and not in the encoders."""
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


def cached_weights(spec: ModelSpec, revisions: Mapping[str, str]) -> Path | None:
    """Return the weights of a hub repository in this machine's cache, None if it lacks them. Needs no request.

    `revisions` as of `locate`. Raises `UnknownModelError` for a name that no repository can have.
    """
    repository, filename = spec.hub, ""
    if spec.arch:
        repository, _, filename = _published(spec)["hf_hub"].rpartition("/")
    revision = revisions.get(repository) or spec.revision or None
    for each in _hub_names(filename):
        folder = cached(spec.name, repository, [each], revision)
        if folder is not None and (folder / each).is_file():
            return folder / each
    return None


def _hub_names(filename: str) -> list[str]:
    """Return the names of the weights in a hub repository: safetensors first, as open_clip does."""
    if filename:
        return [str(Path(filename).with_suffix(".safetensors")), filename]
    return [_WEIGHTS_NAMES[0], _WEIGHTS_NAMES[2]]


def _download_weights(spec: ModelSpec, repository: str, filename: str) -> Path:
    name = spec.name
    names = _hub_names(filename)
    for each in names:
        path = _download(spec, repository, [each]) / each
        if path.is_file():
            return _intact(name, path)
    raise UnknownModelError(
        f"Model {name!r}: the repository {repository!r}, or its copy in the cache, contains none of "
        f"{', '.join(names)}. {ADVICE}"
    )


def _download(spec: ModelSpec, repository: str, files: list[str]) -> Path:
    """Return the directory of a repository's files, at the commit that is pinned; pin the one that was found."""
    revision = spec.revisions.get(repository) or (spec.revision if repository == spec.hub else "") or None
    folder = download(spec.name, repository, files, revision)
    if is_commit(folder.name):
        spec.revisions[repository] = folder.name
    return folder


def _sha256(path: Path) -> str:
    try:
        status = path.stat()
        return _sha256_of(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise UnknownModelError(f"The model's file {path} cannot be read: {error}.") from error


@functools.lru_cache(maxsize=64)
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    # Cached: a replica checks for a new model every few seconds and must not read gigabytes each time.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
