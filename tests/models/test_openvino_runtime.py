"""Exported models on OpenVINO compared with open_clip's own, loaded from the same directory."""

import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.models.exported import Exported, exported, published
from tests.models.test_encoder import TEXTS, random_images
from viewfinder.errors import ConfigurationError, ModelMismatchError, ViewfinderError
from viewfinder.models import checkpoint as checkpoints
from viewfinder.models import exporter, exports
from viewfinder.models.checkpoint import locate
from viewfinder.models.encoder import Encoder, loads_exports
from viewfinder.models.exports import Export, ExportMissingError, Manifest
from viewfinder.models.openvino_runtime import OpenVinoRuntime
from viewfinder.models.runtime import RuntimeName
from viewfinder.testing.models import Family, tiny_checkpoint

pytestmark = pytest.mark.slow


DEFAULT: tuple[Family, ...] = ("clip", "siglip")
FULL: tuple[Family, ...] = (
    "clip-quickgelu",
    "xlm-roberta",
    "metaclip2",
    "coca",
    "mobileclip",
    "eva",
    "pe-core",
)


@pytest.fixture(scope="module", params=[*DEFAULT, *(pytest.param(family, marks=pytest.mark.full) for family in FULL)])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(request.param, tmp_path_factory.mktemp(request.param))


def test_texts_equal_open_clip_alone_and_together(model: Exported) -> None:
    expected = model.reference.encode_texts(TEXTS)
    alone = np.concatenate([model.encoder.encode_texts([text])[0] for text in TEXTS])
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-5)
    for count in (2, 5, len(TEXTS)):
        np.testing.assert_allclose(model.encoder.encode_texts(TEXTS[:count])[0], expected[:count], rtol=0, atol=1e-5)


def test_truncated_tokens_are_counted_as_on_torch(model: Exported) -> None:
    on_torch = Encoder.load(model.checkpoint, device="cpu", runtime="torch")
    assert model.encoder.encode_texts(TEXTS)[1].tolist() == on_torch.encode_texts(TEXTS)[1].tolist()


@pytest.mark.parametrize("count", [1, 3])
def test_images_equal_open_clip(model: Exported, count: int) -> None:
    images = random_images(count, model.encoder.preprocess.size)
    expected = model.reference.encode_images([Image.fromarray(image) for image in images])
    np.testing.assert_allclose(model.encoder.encode_images(images), expected, rtol=0, atol=1e-5)


def test_the_logits_are_those_of_torch(model: Exported) -> None:
    on_torch = Encoder.load(model.checkpoint, device="cpu", runtime="torch")
    assert model.encoder.logit_scale == on_torch.logit_scale
    assert model.encoder.logit_bias == on_torch.logit_bias


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported("clip", tmp_path_factory.mktemp("clip"))


def test_threads_share_an_encoder(clip: Exported) -> None:
    runtime = OpenVinoRuntime(clip.export, "float32", threads=1, calls=2)
    encoder = Encoder(clip.checkpoint, runtime)
    images = random_images(4, 32)
    expected, seen = clip.encoder.encode_texts(TEXTS)[0], clip.encoder.encode_images(images)
    with ThreadPoolExecutor(8) as pool:
        texts = pool.map(encoder.encode_texts, [TEXTS[: 1 + number % 6] for number in range(64)])
        pixels = pool.map(encoder.encode_images, [images] * 64)
        for number, (vectors, _) in enumerate(texts):
            np.testing.assert_allclose(vectors, expected[: 1 + number % 6], rtol=0, atol=1e-5)
        for vectors in pixels:
            np.testing.assert_allclose(vectors, seen, rtol=0, atol=1e-5)


def test_read_only_and_strided_arrays_are_accepted(clip: Exported) -> None:
    images = random_images(6, 32)
    expected = clip.encoder.encode_images(images)[::2]
    images.flags.writeable = False
    np.testing.assert_allclose(clip.encoder.encode_images(images[::2]), expected, rtol=0, atol=1e-5)


def test_vectors_stay_when_the_encoder_goes_on(clip: Exported) -> None:
    first = clip.encoder.encode_texts(["a red car"])[0]
    kept = first.copy()
    clip.encoder.encode_texts(["two dogs"])
    assert first.tolist() == kept.tolist()


@pytest.fixture
def unusable(clip: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """The export of this machine: whole, and nothing that OpenVINO reads, as that of another version may be."""
    return published(clip, tmp_path, monkeypatch, **{"text.xml": b"<net>"})


def test_an_export_that_openvino_cannot_use_is_made_again(
    clip: Exported, unusable: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process said that it exported the model in the background, and the export was found to be whole."""
    made: list[str] = []
    monkeypatch.setattr(exporter, "_export", lambda checkpoint, _: made.append(checkpoint.fingerprint))
    fingerprint = clip.checkpoint.fingerprint
    exporter.main(
        json.dumps({"name": clip.checkpoint.name, "fingerprint": fingerprint, "revisions": {}, "background": False})
    )
    assert made == [fingerprint]


def test_an_export_of_which_this_machine_computes_other_vectors_is_kept_for_the_others(
    clip: Exported, unusable: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ExportMissingError("its vectors differ from torch's", retry=False)

    monkeypatch.setattr(exporter, "OpenVinoRuntime", refuse)
    job = {"name": clip.checkpoint.name, "fingerprint": clip.checkpoint.fingerprint, "revisions": {}}
    with pytest.raises(SystemExit, match="vectors differ"):
        exporter.main(json.dumps(job | {"background": False}))
    with pytest.raises(ViewfinderError, match="does not run on OpenVINO: its vectors differ"):
        exporter.prepare(clip.checkpoint)
    assert exports.Exports.of_this_machine().find(clip.checkpoint.fingerprint).directory == unusable.directory


def test_a_model_that_openvino_cannot_use_does_not_run_on_torch_where_openvino_is_set(
    clip: Exported, unusable: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "prepare", lambda _: unusable)
    with pytest.raises(ViewfinderError, match="does not run on OpenVINO: OpenVINO cannot use its export"):
        Encoder.load(clip.checkpoint, device="cpu", runtime="openvino")
    with pytest.raises(ConfigurationError, match="OpenVINO does not compute in float16"):
        Encoder.load(clip.checkpoint, device="cpu", runtime="openvino", precision="float16")
    assert Encoder.load(clip.checkpoint, device="cpu", runtime="auto").runtime.name == "torch"


def test_an_export_that_cannot_be_written_is_no_failure_of_the_model(
    clip: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO writes the files itself: a full disk was an error of any kind, and the model stayed on torch."""

    def save_model(*_: object, **__: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(exporter.import_openvino(), "save_model", save_model)
    with pytest.raises(OSError, match=r"image\.xml could not be written") as failed:
        exporter.write_export(clip.checkpoint, tmp_path)
    assert exporter.is_passing(failed.value)


def test_vectors_that_differ_are_not_published(clip: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_cosine", lambda *arguments: float("nan"))
    with pytest.raises(ExportMissingError, match="have the cosine nan"):
        exporter.write_export(clip.checkpoint, tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_the_manifest_says_how_close_the_vectors_are(clip: Exported) -> None:
    manifest = Manifest.load(clip.export.directory)
    assert manifest == clip.export.manifest
    assert manifest.cosine > 0.9999
    assert manifest.fingerprint == clip.checkpoint.fingerprint


def in_process(script: str, *arguments: str, **environment: str) -> Any:
    """Run a script in a new process; return what it prints as JSON on its last line."""
    import os

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HF_HOME with the export of `demo-small`, made by a process of its own."""
    home = tmp_path_factory.mktemp("home")
    found = in_process(
        """
        import json, sys
        from viewfinder.models.checkpoint import locate
        from viewfinder.models.exporter import prepare
        made = prepare(locate("demo-small"))
        print(json.dumps([str(made.directory), sorted({"torch", "open_clip"} & set(sys.modules))]))
        """,
        HF_HOME=str(home),
    )
    assert found[0].startswith(str(home / "viewfinder"))
    assert found[1] == [], "torch is imported by the process that exports, not by the one that asks for it"
    return home


# The packages that take seconds to import; transformers imports torch.
HEAVY = "sorted({'torch', 'open_clip', 'torchvision', 'transformers', 'timm'} & set(sys.modules))"

REPLICA = f"""
    import json, sys
    from viewfinder.service.search_service import SearchService
    from viewfinder.service.http.api import build_api
    from viewfinder.service.generation.models import Models
    from viewfinder.settings import Settings
    from viewfinder.service.telemetry.metrics import Metrics
    from viewfinder.models.checkpoint import locate
    settings = Settings.load(model="demo-small", runtime="auto", data_dir=sys.argv[1])
    service = SearchService.connect(settings, Metrics())
    models = service.follower.models
    model = models.made(models._load(locate("demo-small")))
    model.warm(wait_for_images=True)
    runtime = model.encoder.runtime.name
    model.close()
    service.close()
    print(json.dumps([runtime, {HEAVY}]))
"""
EVALUATION = f"""
    import json, sys
    from types import SimpleNamespace
    from viewfinder.evaluation import comparison, plots, recall
    from viewfinder.models.checkpoint import locate
    from viewfinder.settings import Settings
    made_by = SimpleNamespace(model_name="demo-small", fingerprint=locate("demo-small").fingerprint, revisions={{}})
    settings = Settings.load(runtime="auto")
    vectors = comparison._encode(["a cat"], SimpleNamespace(metadata=made_by), settings)
    print(json.dumps(["openvino" if "openvino" in sys.modules else "torch", {HEAVY}]))
"""
ENCODE_ACTOR = f"""
    import json, sys
    import numpy as np
    from viewfinder.indexing.encode import Encode
    from viewfinder.models.checkpoint import locate
    checkpoint = locate("demo-small")
    stage = Encode(
        "demo-small", checkpoint.fingerprint, device="auto", precision="auto", runtime="auto", cores=2, revisions={{}}
    )
    stage.encode_texts(["a cat", "two dogs"])
    size = checkpoint.preprocess.size
    stage._divide(stage.encoder().encode_images, np.zeros((4, size, size, 3), np.uint8))
    stage.close()
    print(json.dumps([stage.encoder().runtime.name, {HEAVY}]))
"""
LOCAL_SEARCH = f"""
    import json, sys
    from viewfinder.engine import local
    from viewfinder.models.encoder import Encoder, loads_exports
    from viewfinder.models.checkpoint import locate
    encoder = Encoder.load(locate("demo-small"))
    encoder.encode_texts(["a cat"])
    print(json.dumps([encoder.runtime.name, {HEAVY}]))
"""


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(REPLICA, id="replica"),
        pytest.param(EVALUATION, id="evaluation", marks=pytest.mark.full),
        pytest.param(ENCODE_ACTOR, id="encode_actor", marks=pytest.mark.full),
        pytest.param(LOCAL_SEARCH, id="local_search", marks=pytest.mark.full),
    ],
)
def test_nothing_on_a_cpu_imports_torch_once_a_model_is_exported(prepared: Path, tmp_path: Path, path: str) -> None:
    runtime, heavy = in_process(path, str(tmp_path), HF_HOME=str(prepared), VIEWFINDER_RUNTIME="auto")
    assert runtime == "openvino"
    assert heavy == []


@pytest.mark.parametrize("runtime", ["auto", "openvino"])
def test_an_export_is_read_once_for_its_digests(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, runtime: RuntimeName
) -> None:
    read: list[str] = []
    digest = exports.sha256
    monkeypatch.setattr(exports, "sha256", lambda path: [digest(path), read.append(path.name)][0])
    monkeypatch.setattr(exports.Exports, "of_this_machine", lambda: exports.Exports(prepared / "viewfinder"))
    encoder = Encoder.load(locate("demo-small"), device="cpu", runtime=runtime)
    assert encoder.runtime.name == "openvino"
    weights = [name for name in read if name != "probes.npz"]
    assert sorted(weights) == ["image.bin", "image.xml", "text.bin", "text.xml"]


def test_who_loads_an_export_does_not_read_the_weights(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = locate("demo-small").fingerprint
    monkeypatch.setattr(exports.Exports, "of_this_machine", lambda: exports.Exports(prepared / "viewfinder"))
    monkeypatch.setattr(checkpoints, "_sha256", lambda path: pytest.fail(f"{path} was read"))
    found = locate("demo-small", expect=fingerprint, exported=True)
    assert found.fingerprint == fingerprint
    assert Encoder.load(found, device="cpu").runtime.name == "openvino"


@pytest.mark.parametrize(
    ("options", "loads"),
    [
        (("cpu", "auto", "auto"), True),
        (("auto", "auto", "openvino"), True),
        (("cpu", "auto", "torch"), False),
        (("cpu", "float16", "auto"), False),
        (("cuda", "auto", "auto"), False),
    ],
)
def test_weights_are_read_where_torch_will_load_them(
    monkeypatch: pytest.MonkeyPatch, options: tuple[Any, Any, Any], loads: bool
) -> None:
    monkeypatch.setattr("viewfinder.models.encoder.may_have_gpu", lambda: False)
    assert loads_exports(*options) is loads
    monkeypatch.setattr("viewfinder.models.encoder.may_have_gpu", lambda: True)
    assert not loads_exports("auto", "auto", "auto")


def test_weights_that_are_replaced_while_they_are_exported_give_no_export(tmp_path: Path) -> None:
    """Regression: the towers of the new weights were served under the fingerprint of the old ones."""
    directory = tiny_checkpoint(tmp_path / "model", "clip")
    checkpoint = locate(str(directory))
    tiny_checkpoint(directory, "clip", seed=1)
    made = exports.Exports(tmp_path / "exports")
    with made.alone(checkpoint.fingerprint), pytest.raises(ModelMismatchError, match="has other weights"):
        exporter._export(checkpoint, made)
    with pytest.raises(ExportMissingError, match="has not been exported") as missing:
        made.find(checkpoint.fingerprint)
    assert missing.value.retry


def test_openvino_is_imported_without_a_connection(prepared: Path) -> None:
    opened = in_process(
        """
        import json, socket, sys
        opened = []
        class Refused(socket.socket):
            def __init__(self, *arguments, **options):
                opened.append(str(arguments))
                raise OSError("no sockets here")
        socket.socket = Refused
        sys.addaudithook(lambda event, arguments: opened.append(event) if event.startswith("socket.") else None)
        import time
        from viewfinder.models.openvino_runtime import import_openvino
        from viewfinder.models.checkpoint import locate
        from viewfinder.models.encoder import Encoder, loads_exports
        openvino = import_openvino()
        import openvino.tools.ovc
        Encoder.load(locate("demo-small"), device="cpu").encode_texts(["a cat"])
        time.sleep(0.5)
        print(json.dumps(opened))
        """,
        HF_HOME=str(prepared),
    )
    assert opened == []


@pytest.mark.full
def test_a_model_is_exported_in_the_background_and_used_by_the_next_process(tmp_path: Path) -> None:
    script = """
        import json
        from viewfinder.models.checkpoint import locate
        from viewfinder.models.encoder import Encoder, loads_exports
        encoder = Encoder.load(locate("demo-small"), device="cpu", export=True)
        print(json.dumps(encoder.runtime.name))
        """
    assert in_process(script, HF_HOME=str(tmp_path)) == "torch"
    wait = """
        import json, time
        from viewfinder.models.checkpoint import locate
        from viewfinder.models.exports import ExportMissingError, Exports
        checkpoint, exports = locate("demo-small"), Exports.of_this_machine()
        time.sleep(1)
        while True:
            with exports.alone(checkpoint.fingerprint):
                try:
                    exports.find(checkpoint.fingerprint)
                    break
                except ExportMissingError as error:
                    assert error.retry, str(error)
            time.sleep(0.5)
        print("true")
        """
    assert in_process(wait, HF_HOME=str(tmp_path))
    assert in_process(script, HF_HOME=str(tmp_path)) == "openvino"


def test_a_cache_that_cannot_be_written_leaves_torch_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # HF_HOME of the tests cannot be written.
    checkpoint = locate(str(tiny_checkpoint(tmp_path / "model")))
    with caplog.at_level("INFO"):
        encoder = Encoder.load(checkpoint, device="cpu", export=True)
    assert encoder.runtime.name == "torch"
    (line,) = [each.getMessage() for each in caplog.records if "OpenVINO" in each.getMessage()]
    assert "it has not been exported on this machine; it cannot be exported: " in line
    assert "cannot be written" in line
