"""The image, as the steps of infra/Dockerfile make it in a bare root of Debian, and what its user can do in it.

The steps are read from the Dockerfile. What stands for something else, because no image registry and no index of
PyTorch is at hand:

- The base image: Debian of the release in its tag, made by `debootstrap`, with Debian's Python of the same minor
  version. `pip` may install there, as in the image.
- torch comes from PyPI, with CUDA, as `--build-arg TORCH=cuda` asks. The address that `TORCH=cpu` names is not tried.
- The cache of RUN instructions: the cache of uv on this machine.

Programs run as in a pod: as the image's user, with a root that is read-only, without network.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.dockerfile import DOCKERFILE, NAMESPACES, Image, Replay, parse
from tests.infra.manifests import ROOT, VERSION, tool

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]

PACKAGES = ("ca-certificates", "python3", "python3-pip", "python-is-python3")
# How this machine reaches package indexes: files and variables of uv, pip and TLS.
FILES = ("/etc/hosts", "/etc/resolv.conf", "/etc/ssl/certs", "/etc/pip.conf", "/etc/uv/uv.toml")
VARIABLES = re.compile(r"(PIP|UV)_(?!CACHE_DIR|FIND_LINKS|PYTHON)|SSL_CERT_|(HTTPS?|ALL|NO)_PROXY$", re.IGNORECASE)
NEEDED_BYTES = 12 * 10**9


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    for program in ("debootstrap", "unshare", "chroot", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install debootstrap iproute2")
    if os.geteuid() or subprocess.run([*NAMESPACES, "--net", "true"]).returncode:
        pytest.skip("needs root, and the right to make namespaces")
    if shutil.disk_usage(tempfile.gettempdir()).free < NEEDED_BYTES:
        pytest.skip(f"needs {NEEDED_BYTES // 10**9} GB in {tempfile.gettempdir()}")
    with tempfile.TemporaryDirectory(prefix="vf-image-") as name:
        directory = Path(name)
        cache = Path(output([tool("uv", "uv"), "cache", "dir"]).strip())
        cache.mkdir(parents=True, exist_ok=True)
        yield Replay(
            directory,
            debian(directory / "base"),
            {"TORCH": "cuda", "MODELS": "demo"},
            {name: value for name, value in os.environ.items() if VARIABLES.match(name)},
            {name: Path(name) for name in FILES if Path(name).exists()},
            {"/root/.cache/uv": cache},
        ).image()


def debian(root: Path) -> Path:
    """Make the root that stands for the base image."""
    (base,) = (each.value for each in parse(DOCKERFILE.read_text()) if each.value.startswith("PYTHON_IMAGE="))
    ((version, release),) = re.findall(r"python:(3\.\d+)\.\d+-slim-(\w+)$", base)
    # The mirror of this machine, if it is a Debian of that release; else the one that debootstrap knows.
    form = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    lines = output(["apt-get", "indextargets", "--format", form, "Created-By: Packages"]).splitlines()
    mirrors = [line.split()[2] for line in lines if line.startswith(f"{release} main ")]
    packages = f"--include={','.join(PACKAGES)}"
    output([*NAMESPACES, "debootstrap", "--variant=minbase", packages, release, str(root), *mirrors[:1]])
    assert (root / f"usr/bin/python{version}").exists(), f"Debian {release} has another Python than {base}"
    (root / f"usr/lib/python{version}/EXTERNALLY-MANAGED").unlink()
    return root


def output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def volumes(image: Image) -> dict[str, Path]:
    """New volumes at the paths where pods have them, with the owner that each has in the image; and sample images."""
    place = Path(tempfile.mkdtemp(prefix="volumes-", dir=image.root.parent))
    for name in ("data", "tmp"):
        subprocess.run(["cp", "--archive", image.root / name, place / name], check=True)
    (image.root / "images").mkdir()
    return {"/data": place / "data", "/tmp": place / "tmp", "/images": ROOT / "demo/corpus"}


@pytest.fixture(scope="module")
def indexed(image: Image, volumes: dict[str, Path]) -> dict[str, Path]:
    """The volumes, with an index of sample images in the embedded store."""
    command = ["viewfinder", "index", "/images", "--captions", "/images/captions.jsonl", "--model", "demo"]
    done = inside(image, [*command, "--max-objects", "60"], volumes)
    assert done.returncode == 0, done.stderr
    return volumes


def inside(
    image: Image, command: list[str], volumes: dict[str, Path], **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a pod would."""
    return image.run(command, mounts=volumes, environment=environment, read_only=True, offline=True, timeout=1800)


def test_its_user_imports_the_package_anywhere(image: Image, volumes: dict[str, Path]) -> None:
    code = "import os, viewfinder; os.chdir('/'); import jobs.index, serve.app; print(os.getuid(), os.getgid())"
    done = inside(image, ["python", "-c", code], volumes)
    assert (done.stdout, done.stderr) == ("1000 1000\n", "")


def test_it_has_this_version(image: Image, volumes: dict[str, Path]) -> None:
    assert inside(image, ["viewfinder", "--version"], volumes).stdout.split()[-1] == VERSION


def test_login_shells_of_ray_up_find_its_programs(image: Image, volumes: dict[str, Path]) -> None:
    # Debian's /etc/profile sets PATH anew.
    from ray.autoscaler._private.command_runner import _with_interactive

    shell = " ".join(_with_interactive("command -v python ray rsync ssh viewfinder"))
    done = inside(image, ["sh", "-c", shell], volumes)
    found = ["/opt/venv/bin/python", "/opt/venv/bin/ray", "/usr/bin/rsync", "/usr/bin/ssh", "/opt/venv/bin/viewfinder"]
    assert done.stdout.split() == found, done.stderr


def test_its_user_writes_where_volumes_are_mounted_and_nowhere_else(image: Image, volumes: dict[str, Path]) -> None:
    command = ["find", "/", "-xdev", "-writable", "-not", "-type", "l", "-not", "-path", "/models/*"]
    volumes_of_image = {"/data", "/keys", "/models", "/tmp", "/tmp/ray"}
    assert set(image.run(command).stdout.split()) == volumes_of_image | {"/run/lock", "/var/tmp"}


def test_a_search_finds_an_image_of_an_index_that_it_made(image: Image, indexed: dict[str, Path]) -> None:
    name, text = sample()
    done = inside(image, ["viewfinder", "search", text, "--json", "--limit", "3"], indexed)
    assert done.returncode == 0, done.stderr
    assert name in hits(done.stdout)


def test_its_command_serves_and_its_health_check_notices(image: Image, indexed: dict[str, Path]) -> None:
    name, text = sample()
    script = """
      "$@" > /tmp/log 2>&1 &
      until eval "$HEALTH" 2> /dev/null; do kill -0 $! || { cat /tmp/log >&2; exit 1; }; sleep 1; done
      viewfinder search "$TEXT" --json --limit 3 --server http://127.0.0.1:8000
    """
    variables = {"HEALTH": shlex.join(image.health), "TEXT": text, "VIEWFINDER_ALLOW_ANONYMOUS": "1"}
    done = inside(image, ["sh", "-c", script, "sh", *image.command], indexed, **variables)
    assert done.returncode == 0, done.stderr
    assert name in hits(done.stdout)


def sample() -> tuple[str, str]:
    """The name of a sample image, and a query for it."""
    with (ROOT / "demo/corpus/captions.jsonl").open() as file:
        record = json.loads(file.readline())
    return record["key"], record["query"]


def hits(output: str) -> list[str]:
    return [Path(hit["uri"]).name for hit in json.loads(output)["hits"]]
