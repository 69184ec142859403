"""Names, files and fingerprints of models, without a network."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from viewfinder.errors import ModelMismatchError, UnknownModelError
from viewfinder.models import open_clip_tables
from viewfinder.models.checkpoint import locate
from viewfinder.models.registry import REGISTRY, ModelSpec, canonical_name, find
from viewfinder.testing.models import tiny_checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
OPEN_CLIP_SPECS = [spec for spec in REGISTRY.values() if spec.arch]


def edit_config(directory: Path, change: dict[str, Any]) -> None:
    """Merge `change` into the configuration, one level below its two sections."""
    config = json.loads((directory / CONFIG).read_text())
    for section, values in change.items():
        config[section] = config.get(section, {}) | values
    (directory / CONFIG).write_text(json.dumps(config))


def run_python(code: str, *arguments: str, root: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny")


class TestRegistry:
    @pytest.mark.parametrize("spec", OPEN_CLIP_SPECS, ids=lambda spec: spec.name)
    def test_a_record_agrees_with_open_clip(self, spec: ModelSpec) -> None:
        import open_clip

        config = open_clip.get_model_config(spec.arch)
        assert spec.name == f"{spec.arch}::{spec.tag}"
        assert spec.dimension == config["embed_dim"]
        assert spec.image_size == config["vision_cfg"]["image_size"]
        assert spec.context_length == config["text_cfg"].get("context_length", 77)
        assert spec.tag in open_clip.list_pretrained_tags_by_model(spec.arch)
        assert spec.hub + "/" == open_clip.get_pretrained_cfg(spec.arch, spec.tag)["hf_hub"]

    @pytest.mark.parametrize("spec", REGISTRY.values(), ids=lambda spec: spec.name)
    def test_a_record_has_a_purpose_languages_and_a_licence(self, spec: ModelSpec) -> None:
        assert spec.good_for
        assert "unknown" not in (spec.languages, spec.licence)

    @pytest.mark.parametrize(
        "name",
        [
            "ViT-B-32::openai",
            "ViT-B-16::openai",
            "ViT-L-14::openai",
            "ViT-L-14-336::openai",
            "ViT-B-32::laion2b_e16",
            "ViT-B-32::laion2b_s34b_b79k",
            "xlm-roberta-base-ViT-B-32::laion5b_s13b_b90k",
            "demo",
            "demo-small",
        ],
    )
    def test_documented_names_are_in_the_registry(self, name: str) -> None:
        assert find(name).name == name

    def test_the_tables_read_from_open_clips_files_equal_its_own(self) -> None:
        import open_clip

        assert open_clip_tables.architectures() == set(open_clip.list_models())
        assert open_clip_tables.published() == open_clip.list_pretrained()
        for arch in open_clip.list_models():
            assert open_clip_tables.architecture(arch) == open_clip.get_model_config(arch)
        for arch, tag in open_clip.list_pretrained():
            expected = open_clip.get_pretrained_cfg(arch, tag)
            assert open_clip_tables.pretrained(arch)[open_clip_tables.normalized_tag(tag)] == expected

    @pytest.mark.parametrize("tag", ["laion2b_s34b_b79k", "LAION2B-s34B-b79K"])
    def test_a_tag_may_be_spelled_as_open_clip_allows(self, tag: str) -> None:
        assert find(f"ViT-B-32::{tag}").hub == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"

    def test_every_published_model_of_open_clip_names_a_hub_repository(self) -> None:
        # Weights at a bare URL would need a second way to download.
        import open_clip

        assert all(open_clip.get_pretrained_cfg(arch, tag)["hf_hub"] for arch, tag in open_clip.list_pretrained())

    def test_every_siglip_names_its_tokenizer(self) -> None:
        # Without the name, open_clip guesses the tokenizer from the architecture's; we would take CLIP's.
        import open_clip

        siglip = [arch for arch in open_clip.list_models() if "siglip" in arch.lower()]
        assert siglip
        assert all(open_clip.get_model_config(arch)["text_cfg"].get("hf_tokenizer_name") for arch in siglip)


class TestFind:
    def test_any_pair_of_open_clip_is_found(self) -> None:
        spec = find("ViT-B-16::metaclip_400m")
        assert (spec.dimension, spec.image_size, spec.context_length) == (512, 224, 77)
        assert spec.hub == "timm/vit_base_patch16_clip_224.metaclip_400m"

    def test_the_matryoshka_models_of_open_clip_are_marked(self) -> None:
        import open_clip

        pairs = [f"{arch}::{tag}" for arch, tag in open_clip.list_pretrained() if "mrl" in tag]
        assert len(pairs) == 2
        assert all(find(pair).matryoshka for pair in pairs)
        assert not find("nllb-clip-base-siglip::v1").matryoshka

    def test_a_hub_repository_is_found_by_name(self) -> None:
        spec = find("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
        assert spec.hub == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
        assert spec.dimension is None

    def test_a_directory_has_the_dimensions_of_its_configuration(self, directory: Path) -> None:
        spec = find(str(directory))
        assert (spec.dimension, spec.image_size, spec.context_length) == (32, 32, 77)

    def test_a_relative_directory_is_found(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(directory.parent)
        assert Path(find("./tiny").directory) == directory.resolve()
        assert Path(find("tiny").directory) == directory.resolve()

    @pytest.mark.parametrize("spelling", ["./tiny", "tiny", "tiny/", "other/../tiny", "~/tiny", "file://{directory}"])
    def test_a_directory_has_one_name(self, spelling: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Regression: a relative name was recorded as it was given, and meant nothing in another directory.
        monkeypatch.chdir(directory.parent)
        monkeypatch.setenv("HOME", str(directory.parent))
        name = find(spelling.format(directory=directory)).name
        assert name == canonical_name(spelling.format(directory=directory)) == str(directory)
        monkeypatch.chdir("/")
        assert find(name).name == name

    @pytest.mark.parametrize(
        "name", ["demo", "ViT-B-32::openai", "hf-hub:org/name@v1", "ViT-B/32::openai", "./nowhere"]
    )
    def test_other_names_stay_as_they_are(self, name: str) -> None:
        assert canonical_name(name) == name

    def test_a_directory_that_cannot_be_entered_is_named(self, forbidden: Path) -> None:
        with pytest.raises(UnknownModelError, match=r"forbidden/ckpt cannot be read: Permission denied\.$"):
            find(str(forbidden / "ckpt"))

    def test_the_home_directory_of_an_unknown_user_is_named(self) -> None:
        with pytest.raises(UnknownModelError, match=r"'~no-such-user/ckpt': the home directory in it does not exist"):
            find("~no-such-user/ckpt")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("ViT-B-23::openai", "Unknown model 'ViT-B-23::openai'. Closest known: 'ViT-B-32::openai'. List them with"),
            ("vit-b-32::openai", "Closest known: 'ViT-B-32::openai'"),
            ("ViT-B-32", "Closest known: 'ViT-B-32::openai'"),
            ("ViT-B-32:openai", "Closest known: 'ViT-B-32::openai'"),
            ("ViT-B-32::opnai", "'ViT-B-32' comes with the tags openai, laion400m_e31"),
            ("ViT-B-32::opnai", "Closest known: 'ViT-B-32::openai'"),
            ("ViT-S-32::openai", "'ViT-S-32' has no published weights"),
            ("demos", "Closest known: 'demo'"),
            ("./nowhere", "there is no such directory"),
        ],
    )
    def test_an_unknown_name_is_refused_with_the_closest(self, name: str, message: str) -> None:
        with pytest.raises(UnknownModelError) as caught:
            find(name)
        assert repr(name) in str(caught.value)
        assert message in str(caught.value)


class TestFingerprint:
    def test_it_does_not_depend_on_the_directory(self, tmp_path: Path) -> None:
        first = locate(str(tiny_checkpoint(tmp_path / "one", "xlm-roberta")))
        second = locate(str(tiny_checkpoint(tmp_path / "two", "xlm-roberta")))
        assert first.fingerprint == second.fingerprint
        assert first.weights != second.weights
        assert len(first.fingerprint) == 12

    @pytest.mark.parametrize(
        "change",
        [
            {"model_cfg": {"quick_gelu": True}},
            {"preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}},
            {"preprocess_cfg": {"resize_mode": "squash"}},
            {"preprocess_cfg": {"interpolation": "bilinear"}},
            {"model_cfg": {"text_cfg": {"context_length": 64}}},
        ],
    )
    def test_configuration_that_changes_vectors_changes_it(self, directory: Path, change: dict[str, Any]) -> None:
        before = locate(str(directory)).fingerprint
        edit_config(directory, change)
        assert locate(str(directory)).fingerprint != before

    def test_other_weights_change_it(self, directory: Path) -> None:
        before = locate(str(directory)).fingerprint
        tiny_checkpoint(directory, seed=1)
        assert locate(str(directory)).fingerprint != before

    @pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "text_tower/config.json"])
    def test_another_tokenizer_or_text_tower_changes_it(self, tmp_path: Path, file: str) -> None:
        path = tiny_checkpoint(tmp_path, "xlm-roberta") / file
        before = locate(str(tmp_path)).fingerprint
        path.write_text(json.dumps(json.loads(path.read_text()) | {"something": "else"}))
        assert locate(str(tmp_path)).fingerprint != before

    def test_the_program_that_wrote_the_text_tower_does_not_change_it(self, tmp_path: Path) -> None:
        path = tiny_checkpoint(tmp_path, "xlm-roberta") / "text_tower" / "config.json"
        before = locate(str(tmp_path)).fingerprint
        path.write_text(json.dumps(json.loads(path.read_text()) | {"transformers_version": "0.0.1"}))
        assert locate(str(tmp_path)).fingerprint == before

    def test_a_worker_verifies_that_it_has_the_same_model(self, directory: Path) -> None:
        fingerprint = locate(str(directory)).fingerprint
        assert locate(str(directory), expect=fingerprint).fingerprint == fingerprint
        tiny_checkpoint(directory, seed=1)
        with pytest.raises(ModelMismatchError) as caught:
            locate(str(directory), expect=fingerprint)
        assert fingerprint in str(caught.value)
        assert locate(str(directory)).fingerprint in str(caught.value)


class TestLocate:
    def test_a_checkpoint_can_be_pickled(self, directory: Path) -> None:
        checkpoint = locate(str(directory))
        assert pickle.loads(pickle.dumps(checkpoint)) == checkpoint
        assert (checkpoint.name, checkpoint.dimension) == (str(directory), 32)

    def test_preprocessing_comes_from_the_configuration(self, tmp_path: Path) -> None:
        preprocess = locate(str(tiny_checkpoint(tmp_path, "siglip"))).preprocess
        assert (preprocess.size, preprocess.resize_mode, preprocess.mean) == (160, "squash", (0.5, 0.5, 0.5))

    @pytest.mark.parametrize(
        "names",
        [
            ["model.pth", "open_clip_pytorch_model.bin", WEIGHTS],
            ["pytorch_model.bin", "open_clip_pytorch_model.bin"],
            ["model.pth", "pytorch_model.pth"],
        ],
    )
    def test_of_several_weights_files_it_uses_the_same_as_open_clip(self, tmp_path: Path, names: list[str]) -> None:
        from open_clip.factory import _find_checkpoint_in_dir

        weights = (tiny_checkpoint(tmp_path) / WEIGHTS).read_bytes()
        (tmp_path / WEIGHTS).unlink()
        for name in names:
            (tmp_path / name).write_bytes(weights)
        assert str(locate(str(tmp_path)).weights) == _find_checkpoint_in_dir(tmp_path)

    def test_a_directory_without_configuration_is_refused(self, directory: Path) -> None:
        (directory / CONFIG).unlink()
        with pytest.raises(
            UnknownModelError, match=r"does not exist\. A local directory or a hub repository must contain"
        ):
            locate(str(directory))

    @pytest.mark.parametrize(
        "text", ["{", "[]", "{}", '{"model_cfg": {}}', '{"model_cfg": {"embed_dim": "x"}}', "\xff"]
    )
    def test_an_invalid_configuration_is_refused(self, directory: Path, text: str) -> None:
        (directory / CONFIG).write_bytes(text.encode("latin-1"))
        with pytest.raises(UnknownModelError, match="is not an open_clip configuration"):
            locate(str(directory))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model_cfg": {"vision_cfg": {"image_size": [32, 64]}}}, "square"),
            ({"preprocess_cfg": {"resize_mode": "stretch"}}, "resize_mode 'stretch'"),
            ({"preprocess_cfg": {"mean": [0.5, 0.5]}}, "preprocessing"),
        ],
    )
    def test_unsupported_preprocessing_is_refused(self, directory: Path, change: dict[str, Any], message: str) -> None:
        edit_config(directory, change)
        with pytest.raises(UnknownModelError, match=message):
            locate(str(directory))

    def test_missing_weights_are_refused(self, directory: Path) -> None:
        (directory / WEIGHTS).unlink()
        with pytest.raises(UnknownModelError, match="has no weights in"):
            locate(str(directory))

    @pytest.mark.parametrize("size", [0, 100, 100_000])
    def test_a_truncated_download_is_refused(self, directory: Path, size: int) -> None:
        whole = (directory / WEIGHTS).read_bytes()
        (directory / WEIGHTS).write_bytes(whole[:size])
        with pytest.raises(UnknownModelError, match="is damaged"):
            locate(str(directory))

    def test_a_missing_tokenizer_is_refused(self, tmp_path: Path) -> None:
        (tiny_checkpoint(tmp_path, "siglip") / "tokenizer.json").unlink()
        with pytest.raises(UnknownModelError, match="needs the files of its tokenizer 'tiny'"):
            locate(str(tmp_path))

    def test_the_installed_package_contains_demo_and_names_the_place_of_demo_small(self, tmp_path: Path) -> None:
        shutil.copytree(ROOT / "viewfinder", tmp_path / "viewfinder", ignore=shutil.ignore_patterns("__pycache__"))
        out = run_python(
            "from viewfinder.errors import UnknownModelError\n"
            "from viewfinder.models.checkpoint import locate\n"
            "locate('demo')\n"
            "try: locate('demo-small')\n"
            "except UnknownModelError as error: print(error)",
            root=tmp_path,
        )
        assert "only a clone of the repository does, in demo/models/demo-small" in out


LOCATE_EACH = """
import json, sys
from viewfinder.errors import UnknownModelError
from viewfinder.models.checkpoint import locate
answers = {}
for name in sys.argv[1:]:
    try:
        found = locate(name)
        answers[name] = {"weights": found.weights.name, "quick_gelu": found.architecture.get("quick_gelu", False),
            "tokenizer": found.tokenizer.kind, "size": found.preprocess.size, "mode": found.preprocess.resize_mode,
            "fingerprint": found.fingerprint, "tower": found.architecture["text_cfg"].get("hf_model_name", "")}
    except UnknownModelError as error:
        answers[name] = {"error": str(error)}
assert not {"torch", "open_clip", "transformers"} & sys.modules.keys()
print(json.dumps(answers))
"""


LOCATE_PINNED = """
import json
from viewfinder.models.checkpoint import locate
name, old = "hf-hub:someone/own", "a" * 40
found = [locate(name), locate(name, revisions={"someone/own": old}), locate(f"{name}@v1"), locate(f"{name}@{old}")]
print(json.dumps([[each.fingerprint, each.revisions] for each in found]))
"""


class TestHub:
    """Files in the Hugging Face cache are found without a network; here they are small stand-ins."""

    XLM = "xlm-roberta-base-ViT-B-32::laion5b_s13b_b90k"
    OWN = "hf-hub:someone/own"

    @pytest.fixture(scope="class")
    @classmethod
    def answers(cls, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
        import open_clip

        home = tmp_path_factory.mktemp("hf-home")

        def cached(repository: str, **files: str) -> Path:
            folder = home / "hub" / f"models--{repository.replace('/', '--')}"
            snapshot = folder / "snapshots" / ("0" * 40)
            snapshot.mkdir(parents=True)
            (folder / "refs").mkdir()
            (folder / "refs" / "main").write_text("0" * 40)
            for name, text in files.items():
                (snapshot / name.replace("__", ".")).write_text(text)
            return snapshot

        save_file({}, cached("timm/vit_base_patch32_clip_224.openai") / WEIGHTS)
        cached("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", open_clip_pytorch_model__bin="weights")
        save_file({}, cached("timm/ViT-B-16-SigLIP2-384", tokenizer__json="{}") / WEIGHTS)
        cached("jienengchen/ViTamin-S", pytorch_model__bin="weights")
        save_file({}, cached(REGISTRY[cls.XLM].hub) / WEIGHTS)
        cached("xlm-roberta-base", config__json='{"model_type": "xlm-roberta"}', tokenizer__json="{}")
        own = {"model_cfg": open_clip.get_model_config("ViT-B-32-quickgelu")}
        save_file({}, cached("someone/own", open_clip_config__json=json.dumps(own)) / WEIGHTS)
        cached("someone/other", README__md="not a model of open_clip")
        names = [
            "ViT-B-32::openai",
            "ViT-B-32-quickgelu::openai",
            "ViT-B/32::openai",
            "ViT-B-32::laion2b_s34b_b79k",
            "ViT-B-16-SigLIP2-384::webli",
            "ViTamin-S::datacomp1b",
            cls.XLM,
            cls.OWN,
            "hf-hub:someone/other",
            "hf-hub:missing/model",
            "hf-hub:no//name",
            "ViT-L-14::openai",
        ]
        out = run_python(LOCATE_EACH, *names, HF_HOME=str(home), HF_HUB_OFFLINE="1")
        answers: dict[str, dict[str, Any]] = json.loads(out.splitlines()[-1])
        return answers

    def test_openai_weights_use_quick_gelu(self, answers: dict[str, Any]) -> None:
        assert answers["ViT-B-32::openai"]["quick_gelu"] is True
        assert answers["ViT-B-32::laion2b_s34b_b79k"]["quick_gelu"] is False

    @pytest.mark.parametrize("name", ["ViT-B-32-quickgelu::openai", "ViT-B/32::openai", OWN])
    def test_the_same_model_by_another_name_has_the_same_fingerprint(self, answers: dict[str, Any], name: str) -> None:
        assert answers[name]["fingerprint"] == answers["ViT-B-32::openai"]["fingerprint"]

    def test_it_uses_the_same_files_as_open_clip(self, answers: dict[str, Any]) -> None:
        assert answers["ViT-B-32::openai"]["weights"] == WEIGHTS
        assert answers["ViT-B-32::laion2b_s34b_b79k"]["weights"] == "open_clip_pytorch_model.bin"
        assert answers["ViTamin-S::datacomp1b"]["weights"] == "pytorch_model.bin"

    def test_a_tag_determines_preprocessing_and_tokenizer(self, answers: dict[str, Any]) -> None:
        siglip = answers["ViT-B-16-SigLIP2-384::webli"]
        assert (siglip["size"], siglip["mode"], siglip["tokenizer"]) == (384, "squash", "huggingface")
        clip = answers["ViT-B-32::openai"]
        assert (clip["size"], clip["mode"], clip["tokenizer"]) == (224, "shortest", "bpe")

    def test_a_text_tower_of_the_hub_is_built_from_the_cache(self, answers: dict[str, Any]) -> None:
        assert (Path(answers[self.XLM]["tower"]) / "config.json").is_file()
        assert answers[self.XLM]["tokenizer"] == "huggingface"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("ViT-L-14::openai", "and the cache on this machine lacks 'timm/vit_large"),
            ("hf-hub:missing/model", "and the cache on this machine lacks 'missing/model'"),
            ("hf-hub:someone/other", "open_clip_config.json does not exist"),
            ("hf-hub:no//name", "'no//name' is not the name of a hub repository"),
        ],
    )
    def test_missing_and_invalid_repositories_are_refused(
        self, answers: dict[str, Any], name: str, message: str
    ) -> None:
        assert message in answers[name]["error"]
        assert repr(name) in answers[name]["error"]

    def test_the_message_names_the_ways_to_provide_weights(self, answers: dict[str, Any]) -> None:
        message = answers["ViT-L-14::openai"]["error"]
        assert "local checkpoint directory" in message
        assert "HF_HOME" in message
        assert "HF_HUB_OFFLINE" in message

    def test_a_pinned_commit_is_found_after_the_tag_has_moved(self, tmp_path: Path) -> None:
        """Each encoder asked the hub by itself, which refused 256 at once, and could get other weights."""
        import open_clip

        folder = tmp_path / "hub" / "models--someone--own"
        config = json.dumps({"model_cfg": open_clip.get_model_config("ViT-B-32")})
        (folder / "refs").mkdir(parents=True)
        for revision in ("a", "b"):
            snapshot = folder / "snapshots" / (revision * 40)
            snapshot.mkdir(parents=True)
            (snapshot / "open_clip_config.json").write_text(config)
            save_file({"w": np.full(1, ord(revision), np.float32)}, snapshot / WEIGHTS)
        (folder / "refs" / "main").write_text("b" * 40)
        (folder / "refs" / "v1").write_text("a" * 40)
        out = run_python(LOCATE_PINNED, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
        main, pinned, tag, commit = json.loads(out.splitlines()[-1])
        assert main[1:] == [{"someone/own": "b" * 40}]
        assert pinned[0] == tag[0] == commit[0] != main[0]
        assert pinned[1] == tag[1] == commit[1] == {"someone/own": "a" * 40}

    def test_a_tag_with_new_weights_is_another_model(self, tmp_path: Path) -> None:
        """The hub's cache keeps each revision; `main` names the current one."""
        import open_clip

        folder = tmp_path / "hub" / "models--someone--own"
        config = json.dumps({"model_cfg": open_clip.get_model_config("ViT-B-32")})
        (folder / "refs").mkdir(parents=True)
        seen = []
        for revision in ("a", "b", "b"):
            snapshot = folder / "snapshots" / (revision * 40)
            snapshot.mkdir(parents=True, exist_ok=True)
            (snapshot / "open_clip_config.json").write_text(config)
            save_file({"w": np.full(1, ord(revision), np.float32)}, snapshot / WEIGHTS)
            (folder / "refs" / "main").write_text(revision * 40)
            out = run_python(LOCATE_EACH, self.OWN, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
            seen.append(json.loads(out.splitlines()[-1])[self.OWN]["fingerprint"])
        assert seen[0] != seen[1] == seen[2]


def test_finding_and_locating_a_model_imports_neither_torch_nor_ray(directory: Path) -> None:
    out = run_python(
        "import sys\n"
        "import viewfinder.models.encoder, viewfinder.models.checkpoint, viewfinder.models.registry\n"
        "viewfinder.models.registry.find('ViT-B-16::metaclip_400m')\n"
        "viewfinder.models.checkpoint.locate(sys.argv[1])\n"
        "print([name for name in ('torch', 'open_clip', 'transformers', 'ray') if name in sys.modules])",
        str(directory),
    )
    assert out.strip() == "[]"
