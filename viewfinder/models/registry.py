"""Model names: a record for each well-known model, and the lookup of all others. Needs neither torch nor open_clip."""

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from viewfinder.errors import UnknownModelError
from viewfinder.models import open_clip_tables

HUB_PREFIX = "hf-hub:"
# Models of open_clip that were trained with Matryoshka representation learning.
_MATRYOSHKA = frozenset({"nllb-clip-base-siglip::mrl", "nllb-clip-large-siglip::mrl"})
CONFIG_NAME = "open_clip_config.json"
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The properties of a model known before it is loaded; None means that the value is only in its configuration."""

    name: str
    arch: str = ""  # open_clip's architecture and tag, empty for a hub repository or a directory
    tag: str = ""
    dimension: int | None = None  # of the vectors
    image_size: int | None = None  # pixels a side
    context_length: int | None = None  # tokens of a text, start and end tokens included
    languages: str = "unknown"
    licence: str = "unknown"  # of the weights
    good_for: str = ""
    hub: str = ""  # Hugging Face repository of the weights
    revision: str = ""  # of that repository: a branch, a tag or a commit; empty for `main`
    directory: str = ""  # local directory of the weights
    matryoshka: bool = False  # the first numbers of a vector are a vector, if a less precise one
    # Commits of the hub repositories, known once the files are located.
    revisions: dict[str, str] = field(default_factory=dict, compare=False)


def read_config(name: str, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `model_cfg` and `preprocess_cfg` of an open_clip configuration; raise `UnknownModelError` if unusable."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        architecture = config["model_cfg"]
        if not (int(architecture["embed_dim"]) > 0 and isinstance(architecture["vision_cfg"], dict)):
            raise ValueError("embed_dim or vision_cfg is not usable")
        if not isinstance(architecture["text_cfg"], dict):
            raise ValueError("text_cfg is not usable")
        return architecture, config.get("preprocess_cfg") or {}
    except FileNotFoundError as error:
        raise UnknownModelError(
            f"Model {name!r} cannot be loaded: {path} does not exist. A local directory or a hub repository must "
            f"contain {CONFIG_NAME} and the weights, as open_clip's push_to_hf_hub writes them."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnknownModelError(
            f"Model {name!r} cannot be loaded: {path} is not an open_clip configuration ({type(error).__name__}: "
            f"{error}). It needs 'model_cfg' with 'embed_dim', 'vision_cfg' and 'text_cfg'."
        ) from error


def _architecture_sizes(architecture: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "dimension": architecture["embed_dim"],
        "image_size": architecture["vision_cfg"].get("image_size", 224),
        "context_length": architecture["text_cfg"].get("context_length", 77),
    }


def _clip(name: str, dimension: int, image_size: int, hub: str, good_for: str, licence: str = "MIT") -> ModelSpec:
    arch, tag = name.split("::")
    return ModelSpec(name, arch, tag, dimension, image_size, 77, "English", licence, good_for, hub)


def _siglip2(arch: str, dimension: int, image_size: int, good_for: str) -> ModelSpec:
    many = "more than 100"
    hub = f"timm/{arch}"
    return ModelSpec(f"{arch}::webli", arch, "webli", dimension, image_size, 64, many, "Apache-2.0", good_for, hub)


def _multilingual(name: str, dimension: int, hub: str, good_for: str) -> ModelSpec:
    arch, tag = name.split("::")
    return ModelSpec(name, arch, tag, dimension, 224, 77, "about 100", "MIT", good_for, hub)


def _demo(name: str, directory: Path, good_for: str) -> ModelSpec:
    config = directory / CONFIG_NAME
    figures = _architecture_sizes(read_config(name, config)[0]) if config.is_file() else {}
    return ModelSpec(
        name, **figures, languages="English, Chinese", licence="MIT", good_for=good_for, directory=str(directory)
    )


_SPECS = (
    _clip("ViT-B-32::openai", 512, 224, "timm/vit_base_patch32_clip_224.openai", "the default: fast, also without GPU"),
    _clip("ViT-B-16::openai", 512, 224, "timm/vit_base_patch16_clip_224.openai", "finer detail at four times the cost"),
    _clip("ViT-L-14::openai", 768, 224, "timm/vit_large_patch14_clip_224.openai", "quality, with a GPU"),
    _clip("ViT-L-14-336::openai", 768, 336, "timm/vit_large_patch14_clip_336.openai", "small things in large images"),
    _clip(
        "ViT-B-32::laion2b_e16", 512, 224, "timm/vit_base_patch32_clip_224.laion2b_e16", "indexes made with this tag"
    ),
    _clip(
        "ViT-B-32::laion2b_s34b_b79k", 512, 224, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "better than openai's B-32"
    ),
    _clip(
        "ViT-B-16::datacomp_xl_s13b_b90k", 512, 224, "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K", "quality at base size"
    ),
    _clip(
        "ViT-L-14::datacomp_xl_s13b_b90k", 768, 224, "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K", "quality, with a GPU"
    ),
    _clip(
        "ViT-H-14::laion2b_s32b_b79k", 1024, 224, "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "quality, with a large GPU"
    ),
    _clip(
        "ViT-bigG-14::laion2b_s39b_b160k",
        1280,
        224,
        "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
        "the largest of LAION's",
    ),
    _clip(
        "ViT-H-14-378::dfn5b",
        1024,
        378,
        "apple/DFN5B-CLIP-ViT-H-14-378",
        "quality above all, with a large GPU; read its licence",
        licence="Apple's own (see the model's page)",
    ),
    _siglip2("ViT-B-16-SigLIP2", 768, 224, "many languages at base size"),
    _siglip2("ViT-B-16-SigLIP2-256", 768, 256, "many languages, a little finer"),
    _siglip2("ViT-B-16-SigLIP2-384", 768, 384, "many languages, small things"),
    _siglip2("ViT-L-16-SigLIP2-384", 1024, 384, "many languages, quality, with a GPU"),
    _siglip2("ViT-SO400M-14-SigLIP2", 1152, 224, "many languages, quality, with a GPU"),
    _siglip2("ViT-SO400M-16-SigLIP2-384", 1152, 384, "many languages, quality above all, with a large GPU"),
    _multilingual(
        "xlm-roberta-base-ViT-B-32::laion5b_s13b_b90k",
        512,
        "laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k",
        "many languages, fast",
    ),
    _multilingual(
        "xlm-roberta-large-ViT-H-14::frozen_laion5b_s13b_b90k",
        1024,
        "laion/CLIP-ViT-H-14-frozen-xlm-roberta-large-laion5B-s13B-b90k",
        "many languages, quality, with a large GPU",
    ),
    _demo("demo", _HERE / "demo", "the demo's painted scenes, and nothing else"),
    # Only in a clone of the repository.
    _demo("demo-small", _HERE.parents[1] / "demo" / "models" / "demo-small", "trying a change of model on the demo"),
)

REGISTRY: Mapping[str, ModelSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})


def find(name: str) -> ModelSpec:
    """Return the model of this name: from the registry, `ARCH::TAG` of open_clip, `hf-hub:ORG/NAME`, or a directory.

    The first three may end in `@REVISION`, a branch, tag or commit of the hub repository. The name of a directory is
    its absolute path, so that it is the same for a program in another directory. Uses no network.
    Raises `UnknownModelError` with the closest known name.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    model, _, revision = name.partition("@")
    if revision and (model.startswith(HUB_PREFIX) or "::" in model):
        spec = find(model)
        return replace(spec, name=name, revision=revision)
    if name.startswith(HUB_PREFIX):
        return ModelSpec(name, hub=name.removeprefix(HUB_PREFIX))
    if "::" in name:
        return _open_clip_pair(name)
    if (directory := _directory(name)) is not None:
        architecture, _ = read_config(name, directory / CONFIG_NAME)
        return ModelSpec(str(directory), **_architecture_sizes(architecture), directory=str(directory.resolve()))
    if "/" in name or name.startswith((".", "~")):
        raise UnknownModelError(
            f"Unknown model {name!r}: there is no such directory. A local model is a directory that contains "
            f"{CONFIG_NAME} and the weights; a model of the Hugging Face hub is named {HUB_PREFIX}ORG/NAME."
        )
    raise UnknownModelError(f"Unknown model {name!r}.{_closest(name, REGISTRY)} List them with 'viewfinder models'.")


def canonical_name(name: str) -> str:
    """Return the name that `find` gives the model; one that it does not know is returned as it is."""
    try:
        return find(name).name
    except UnknownModelError:
        return name


def _directory(name: str) -> Path | None:
    """Return the absolute path of a local directory; None if there is none. Symbolic links are not resolved."""
    path = Path(name.removeprefix("file://"))
    try:
        # pathlib cannot normalise `..` without resolving links.
        path = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100
        return path if path.is_dir() else None
    except RuntimeError as error:
        raise UnknownModelError(
            f"Unknown model {name!r}: the home directory in it does not exist on this machine."
        ) from error
    except OSError as error:
        raise UnknownModelError(f"Unknown model {name!r}: {path} cannot be read: {error.strerror}.") from error


def _open_clip_pair(name: str) -> ModelSpec:
    given, _, tag = name.partition("::")
    arch = given.replace("/", "-")  # open_clip also accepts OpenAI's spelling ViT-B/32
    if arch not in open_clip_tables.architectures():
        pairs = [f"{known}::{known_tag}" for known, known_tag in open_clip_tables.published()]
        hint = _closest(name, [*REGISTRY, *pairs])
        raise UnknownModelError(f"Unknown model {name!r}.{hint} List them with 'viewfinder models'.")
    tags = open_clip_tables.pretrained(arch)
    published = tags.get(open_clip_tables.normalized_tag(tag))
    if published is None:
        known = f"{arch!r} comes with the tags {', '.join(tags)}." if tags else f"{arch!r} has no published weights."
        hint = _closest(f"{arch}::{tag}", [f"{arch}::{each}" for each in tags])
        raise UnknownModelError(f"Unknown model {name!r}.{hint} {known} List them with 'viewfinder models'.")
    sizes = _architecture_sizes(open_clip_tables.architecture(arch))
    repository = published["hf_hub"].rpartition("/")[0]
    return ModelSpec(name, arch, tag, **sizes, hub=repository, matryoshka=f"{arch}::{tag}" in _MATRYOSHKA)


def _closest(name: str, known: Iterable[str]) -> str:
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.4)
    return f" Closest known: {by_lower[near[0]]!r}." if near else ""
