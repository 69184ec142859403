"""The example for EKS: formatted, parsed, references and rights; providers cannot be fetched, so nothing is planned."""

import re
import shutil
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.manifests import INFRA, KUBERNETES, build, kustomized, one, pods

EXAMPLE = INFRA / "terraform/eks"
FILES = sorted(EXAMPLE.glob("*.tf"))
TEXT = "\n".join(re.sub(r"#.*", "", path.read_text()) for path in FILES)
GIVEN = {
    "region": '"us-east-1"',
    "zones": '["us-east-1a", "us-east-1b"]',
    "admin_cidrs": '["203.0.113.7/32"]',
    "source_bucket": '"my-bucket"',
}
# What a run of Terraform would give the template.
NAMES = {
    "head_role_arn": "arn:aws:iam::999988887777:role/viewfinder-head",
    "worker_role_arn": "arn:aws:iam::999988887777:role/viewfinder-worker",
    "repository_url": "999988887777.dkr.ecr.eu-west-1.amazonaws.com/viewfinder",
    "region": "eu-west-1",
    "source": "s3://their-bucket/photos",
    "reports": "s3://viewfinder-reports-999988887777",
    "encoders": "3",
}


@pytest.fixture(scope="module")
def blocks() -> dict[str, list[tuple[list[str], dict[str, Any]]]]:
    """The blocks of all files by their type, each with its labels and content."""
    hcl2 = pytest.importorskip("hcl2", reason="pip install python-hcl2")
    found: dict[str, list[tuple[list[str], dict[str, Any]]]] = {}
    for path in FILES:
        for kind, bodies in hcl2.loads(path.read_text()).items():
            for body in bodies if isinstance(bodies, list) else []:
                labels = []
                while isinstance(body, dict) and "__is_block__" not in body and len(body) == 1:
                    ((label, body),) = body.items()
                    labels.append(label.strip('"'))
                found.setdefault(kind, []).append((labels, body))
    return found


def terraform(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    program = shutil.which("terraform")
    if program is None:
        pytest.skip("needs Terraform: https://developer.hashicorp.com/terraform/install")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "CHECKPOINT_DISABLE": "1"}
    return subprocess.run(
        [program, *arguments], cwd=directory, env=environment, capture_output=True, text=True, timeout=60
    )


def test_terraform_would_not_format_it_differently() -> None:
    done = terraform(EXAMPLE, "fmt", "-check", "-diff")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_reference_names_something_declared(blocks: dict[str, list[tuple[list[str], dict[str, Any]]]]) -> None:
    declared = {f"var.{labels[0]}" for labels, _ in blocks["variable"]}
    declared |= {".".join(labels) for labels, _ in blocks["resource"]}
    declared |= {f"data.{'.'.join(labels)}" for labels, _ in blocks["data"]}
    declared |= {f"local.{name}" for _, body in blocks["locals"] for name in body if name[:2] != "__"}
    assert len(blocks["resource"]) > 25
    used = set(re.findall(r"(?<![\w.\"-])((?:data\.)?aws_\w+\.\w+|var\.\w+|local\.\w+)", TEXT))
    assert used <= declared, used - declared
    assert {each for each in declared if each.startswith(("var.", "local."))} <= used, "declared and never used"


def test_variables_and_outputs_say_what_they_are(blocks: dict[str, list[tuple[list[str], dict[str, Any]]]]) -> None:
    for labels, body in blocks["variable"]:
        assert {"description", "type"} <= set(body), labels
        if labels != ["cpu_instance_type"]:
            assert "validation" in body, labels
    assert all({"description", "value"} <= set(body) for _, body in blocks["output"])
    needed = {labels[0] for labels, body in blocks["variable"] if "default" not in body}
    assert needed == set(GIVEN)


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("name", '"viewfinder"', None),
        ("source_prefix", '"photos/"', None),
        ("cidr", '"10.4.0.0/20"', None),
        ("name", '"View finder"', "name must be"),
        ("region", '"Virginia"', "region must be"),
        ("zones", '["us-east-1a"]', "zones must be two to four"),
        ("zones", '["us-east-1a", "eu-west-1a"]', "zones must lie in the region"),
        ("cidr", '"10.0.0.0/24"', "cidr must be"),
        ("kubernetes_version", '"1.33.1"', "kubernetes_version must be"),
        ("admin_cidrs", '["0.0.0.0/0"]', "not the whole internet"),
        ("source_bucket", '"s3://my-bucket"', "source_bucket must be"),
        ("source_prefix", '"/photos"', "source_prefix must"),
        ("source_prefix", '"photos"', "source_prefix must"),
        ("source_kms_key_arn", '"alias/images"', "source_kms_key_arn must be"),
        ("gpu_instance_types", '["g6.2xlarge", "g6.48xlarge"]', "gpu_instance_types must be"),
        ("gpu_service_nodes", "1", "gpu_service_nodes must be"),
        ("gpu_spot_nodes", "0", "gpu_spot_nodes must be"),
        ("cpu_nodes_per_zone", "1.5", "cpu_nodes_per_zone must be"),
    ],
)
def test_terraform_refuses_a_wrong_value_before_anything_is_made(
    tmp_path: Path, name: str, value: str, said: str | None
) -> None:
    # The variables alone need no provider, so Terraform itself checks them.
    shutil.copy(EXAMPLE / "variables.tf", tmp_path)
    values = GIVEN | {name: value}
    (tmp_path / "terraform.tfvars").write_text("".join(f"{each} = {text}\n" for each, text in values.items()))
    done = terraform(tmp_path, "plan", "-no-color", "-input=false", "-lock=false")
    assert (done.returncode == 0) is (said is None), done.stderr
    if said is not None:
        assert said in re.sub(r"\s*\n[│ ]*", " ", done.stderr)


def test_pods_of_the_cluster_have_no_right_that_viewfinder_does_not_use(
    blocks: dict[str, list[tuple[list[str], dict[str, Any]]]],
) -> None:
    policies = {labels[1]: str(body) for labels, body in blocks["data"] if labels[0] == "aws_iam_policy_document"}
    rights = {
        name: set(re.findall(r"\b(?:s3|kms|sts|ec2|eks|autoscaling|iam):\w+", text)) for name, text in policies.items()
    }
    assert rights["read"] - {"s3:prefix"} == {"s3:ListBucket", "s3:GetObject", "kms:Decrypt"}
    assert rights["head"] == {"s3:PutObject"}
    assert "own" in policies["head"], "reports have a bucket of their own"
    # The only rights on everything are those of the autoscaler, whose actions know no resources or have a condition.
    assert [name for name, text in policies.items() if "'resources': ['\"*\"']" in text] == ["autoscaler"]
    assert not re.search(r"\b\w+:\*", "".join(policies.values()))
    accounts = re.findall(r'= \{ namespace = "viewfinder", name = "(\w+)" \}', TEXT)
    assert set(accounts) == {pod.spec["serviceAccountName"] for pod in pods(build("base"))} - {"submitter"}


def test_groups_of_gpus_start_at_zero_and_carry_what_the_overlay_selects(
    blocks: dict[str, list[tuple[list[str], dict[str, Any]]]],
) -> None:
    groups = {labels[1]: body for labels, body in blocks["resource"] if labels[0] == "aws_eks_node_group"}
    (scaling,) = groups["gpu"]["scaling_config"]
    assert (scaling["min_size"], scaling["desired_size"]) == (0, 0)
    (taint,) = groups["gpu"]["taint"]
    assert taint["key"] == '"nvidia.com/gpu"'
    # Pods of jobs request ephemeral storage, which the autoscaler cannot know of a group without nodes.
    (tag,) = [body["tag"][0] for labels, body in blocks["resource"] if labels[0] == "aws_autoscaling_group_tag"]
    assert tag["key"].strip('"').endswith("/node-template/resources/ephemeral-storage")


@pytest.mark.slow
def test_the_overlay_that_it_writes_is_the_gpu_overlay_with_the_names_of_the_account() -> None:
    template = (EXAMPLE / "kustomization.yaml.tftpl").read_text()
    given = re.search(
        r'templatefile\("\$\{path\.module\}/kustomization\.yaml\.tftpl", \{(.*?)\n  \}\)', TEXT, re.DOTALL
    )
    assert given
    assert set(re.findall(r"^    (\w+) +=", given[1], re.MULTILINE)) == set(NAMES)
    documents = kustomized(yaml.safe_load(string.Template(template).substitute(NAMES)), KUBERNETES / "overlays/eks")
    for account in ("head", "worker"):
        annotations = one(documents, "ServiceAccount", account)["metadata"]["annotations"]
        assert annotations["eks.amazonaws.com/role-arn"] == NAMES[f"{account}_role_arn"]
    text = yaml.safe_dump_all(documents)
    for stale in ("111122223333", "my-bucket", "registry.example.com", "us-east-1", "karpenter.sh/capacity-type"):
        assert stale not in text
    images = {container["image"] for pod in pods(documents) for container in pod.containers}
    assert {each.partition(":")[0] for each in images} == {NAMES["repository_url"]}
    selected = {
        pod.where: pod.spec["nodeSelector"]["eks.amazonaws.com/capacityType"]
        for pod in pods(documents)
        if "nodeSelector" in pod.spec
    }
    assert selected == {
        "RayJob/index/gpu": "SPOT",
        "RayCluster/reindex/gpu": "SPOT",
        "RayService/viewfinder/replicas": "ON_DEMAND",
    }
    for cluster in (
        one(documents, "RayJob", "index")["spec"]["rayClusterSpec"],
        one(documents, "RayCluster", "reindex")["spec"],
    ):
        assert cluster["workerGroupSpecs"][1]["maxReplicas"] == 3
    (settings,) = [
        each for each in documents if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("settings")
    ]
    assert settings["data"]["VIEWFINDER_ENCODERS"] == "3"
    assert settings["data"]["AWS_DEFAULT_REGION"] == "eu-west-1"


def test_volumes_are_made_in_the_zone_of_their_pod() -> None:
    storage = yaml.safe_load((EXAMPLE / "storage-class.yaml").read_text())
    assert storage["volumeBindingMode"] == "WaitForFirstConsumer"
    assert storage["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
