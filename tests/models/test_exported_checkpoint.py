"""A model that this machine has an export of, which names the weights that it was made of."""

import json
from pathlib import Path
from typing import Any

import pytest

from viewfinder.errors import ModelMismatchError
from viewfinder.models import checkpoint as checkpoints
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.encoder import Encoder
from viewfinder.models.exports import Exports
from viewfinder.models.registry import CONFIG_NAME
from viewfinder.testing.models import tiny_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny")


@pytest.fixture
def checkpoint(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    found = locate(str(directory))
    exported = {found.fingerprint: found.weights_digest, "another": "0" * 64}
    monkeypatch.setattr(Exports, "weights", lambda self, fingerprint: exported.get(fingerprint))
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files of which a digest was computed."""
    names: list[str] = []
    digest = checkpoints._sha256
    monkeypatch.setattr(checkpoints, "_sha256", lambda path: [digest(path), names.append(path.name)][0])
    return names


def test_its_weights_are_not_read(checkpoint: Checkpoint, directory: Path, read: list[str]) -> None:
    assert locate(str(directory), expect=checkpoint.fingerprint, exported=True) == checkpoint
    assert read == []
    checkpoint.verify()
    assert read == [checkpoint.weights.name]


@pytest.mark.parametrize("options", [{}, {"exported": True}, {"expect": True}])
def test_they_are_if_the_caller_does_not_load_the_export(
    checkpoint: Checkpoint, directory: Path, read: list[str], options: dict[str, Any]
) -> None:
    if options.get("expect"):
        options = {"expect": checkpoint.fingerprint}
    assert locate(str(directory), **options) == checkpoint
    assert read == [checkpoint.weights.name]


def test_other_weights_are_found_when_they_are_to_be_loaded(checkpoint: Checkpoint, directory: Path) -> None:
    tiny_checkpoint(directory, seed=1)
    found = locate(str(directory), expect=checkpoint.fingerprint, exported=True)
    with pytest.raises(ModelMismatchError, match="has other weights on this machine"):
        found.verify()
    with pytest.raises(ModelMismatchError, match="has other weights on this machine"):
        Encoder.load(found, device="cpu", runtime="torch")


def test_another_configuration_is_another_model(checkpoint: Checkpoint, directory: Path) -> None:
    config = json.loads((directory / CONFIG_NAME).read_text())
    config["preprocess_cfg"] = {"mean": [0.1, 0.2, 0.3]}
    (directory / CONFIG_NAME).write_text(json.dumps(config))
    with pytest.raises(ModelMismatchError, match="has the fingerprint"):
        locate(str(directory), expect=checkpoint.fingerprint, exported=True)


def test_an_export_of_another_model_does_not_change_the_fingerprint_of_this_one(
    checkpoint: Checkpoint, directory: Path, read: list[str]
) -> None:
    with pytest.raises(ModelMismatchError, match=checkpoint.fingerprint):
        locate(str(directory), expect="another", exported=True)
    assert read == [checkpoint.weights.name]
