"""Data files of the open_clip package, read without importing it: that takes 13 s of CPU and torch."""

import ast
import copy
import functools
import importlib.util
import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast


def vocabulary_file() -> Path:
    """Return the path of the merges of CLIP's byte-pair encoding."""
    return _package() / "bpe_simple_vocab_16e6.txt.gz"


def architectures() -> frozenset[str]:
    """Return the names of open_clip's architectures, as `open_clip.list_models`."""
    return frozenset(path.stem for path in _configs().glob("*.json"))


def architecture(name: str) -> dict[str, Any]:
    """Return the `model_cfg` of an architecture, as `open_clip.get_model_config`."""
    return cast(dict[str, Any], json.loads((_configs() / f"{name}.json").read_text(encoding="utf-8")))


def pretrained(name: str) -> Mapping[str, dict[str, Any]]:
    """Return the configuration of each published tag of an architecture, as `open_clip.get_pretrained_cfg`."""
    return copy.deepcopy(_pretrained().get(name, {}))


def normalized_tag(tag: str) -> str:
    """Return the key of a tag in `pretrained`: open_clip accepts other spellings of it."""
    return tag.lower().replace("-", "_")


def published() -> list[tuple[str, str]]:
    """Return every architecture and tag with published weights, as `open_clip.list_pretrained`."""
    return [(name, tag) for name, tags in _pretrained().items() for tag in tags]


@functools.cache
def _pretrained() -> dict[str, dict[str, Any]]:
    # The module that holds the table imports torch. Only its table and the functions that make entries run here.
    file = _package() / "pretrained.py"
    body = ast.parse(file.read_text(encoding="utf-8")).body
    table: list[ast.stmt] = [
        node
        for node in body
        if isinstance(node, (ast.Assign, ast.Expr, ast.For))
        or (isinstance(node, ast.FunctionDef) and node.name.startswith("_") and node.name.endswith("cfg"))
    ]
    names = {"copy": copy, **runpy.run_path(str(_package() / "constants.py"))}
    exec(compile(ast.Module(table, type_ignores=[]), file, "exec"), names)
    return cast(dict[str, dict[str, Any]], names["_PRETRAINED"])


def _configs() -> Path:
    return _package() / "model_configs"


@functools.cache
def _package() -> Path:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'open_clip'", name="open_clip")
    return Path(spec.submodule_search_locations[0])
