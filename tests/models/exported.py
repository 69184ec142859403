"""Small models with their exports for OpenVINO, as they are made and as they may be damaged."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.models.test_encoder import Reference
from viewfinder.models import exporter, exports
from viewfinder.models.checkpoint import Checkpoint, locate
from viewfinder.models.encoder import Encoder
from viewfinder.models.exports import Export
from viewfinder.models.hugging_face_tokenizer import TokenizerDefinition
from viewfinder.models.openvino_runtime import OpenVinoRuntime
from viewfinder.testing.models import Family, tiny_checkpoint


class Exported(NamedTuple):
    family: Family
    checkpoint: Checkpoint
    export: Export
    encoder: Encoder
    reference: Reference


def exported(family: Family, directory: Path) -> Exported:
    import open_clip

    checkpoint = locate(str(tiny_checkpoint(directory / "model", family)))
    (directory / "export").mkdir()
    manifest = exporter.write_export(checkpoint, directory / "export")
    export = Export(directory / "export", manifest)
    definition = export.file("tokenizer.json")
    runtime = OpenVinoRuntime(export, "float32", threads=1)
    encoder = Encoder(checkpoint, runtime, TokenizerDefinition.load(definition) if definition.exists() else None)
    name = f"local-dir:{directory / 'model'}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    return Exported(
        family, checkpoint, export, encoder, Reference(model.eval(), transform, open_clip.get_tokenizer(name))
    )


def changed(export: Export, directory: Path, **contents: bytes) -> Export:
    """A whole export with other contents of these files, as another version or another machine may have made."""
    directory.mkdir(exist_ok=True)
    shutil.copytree(export.directory, directory, dirs_exist_ok=True)
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    digests = {**export.manifest.files, **{name: exports.sha256(directory / name) for name in contents}}
    manifest = replace(export.manifest, files=digests)
    manifest.save(directory)
    return Export(directory, manifest)


def published(model: Exported, directory: Path, monkeypatch: pytest.MonkeyPatch, **contents: bytes) -> Export:
    """The export of this machine: that of the model with other contents of these files."""
    made = exports.Exports(directory)
    monkeypatch.setattr(exports.Exports, "of_this_machine", lambda: made)
    fingerprint = model.checkpoint.fingerprint
    with made.alone(fingerprint), made.publish(fingerprint) as published_in:
        changed(model.export, published_in, **contents)
    return made.find(fingerprint)
