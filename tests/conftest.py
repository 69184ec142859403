"""Shared fixtures: one S3 endpoint and one Ray per session, started by the first test that uses them."""

import atexit
import errno
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import viewfinder.models.devices
from tests.chaos.table import FaultTable
from viewfinder.edge.templates import remove_left
from viewfinder.testing.models import tiny_checkpoint
from viewfinder.testing.qdrant_replicas import MEMORY, PREFIX
from viewfinder.testing.s3 import S3Endpoint

pytest_plugins = ["tests.fixtures.indexing", "tests.fixtures.reindexing", "tests.fixtures.services"]

# Ray gives local clusters a token by default and keeps it in the home directory; tests must leave nothing there.
# Set before anything imports ray.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


# What killed processes leave behind goes with the suite: their sockets, and the sessions of Ray. Not in pytest's
# directory, because a socket's path may have 107 characters, of which Ray takes 90. Processes of pytest-xdist share it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="vf-")
    atexit.register(shutil.rmtree, os.environ["TMPDIR"], ignore_errors=True)
    atexit.register(remove_left, MEMORY, PREFIX)

# Stores write and sync many small files, which takes three times as long on a disk. A whole run needs some 100 MB.
SHARED_MEMORY = Path("/dev/shm")
if os.access(SHARED_MEMORY, os.W_OK) and shutil.disk_usage(SHARED_MEMORY).free > 4 * 1024**3:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(SHARED_MEMORY))

# The models of the tests are too small for two threads, which would wait for each other on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Vectors are compared within 1e-5; bfloat16 weights are not that exact.
if viewfinder.models.devices.multiplies_bfloat16():
    os.environ["VIEWFINDER_PRECISION"] = "float32"
    viewfinder.models.devices.multiplies_bfloat16 = lambda: False

# Exports of models would be made beside the Hugging Face cache, each by a process of its own: tests of them have a
# directory for it, all others run on torch because this one cannot be written.
HF_HOME = Path(tempfile.mkdtemp(prefix="viewfinder-tests-"))
(HF_HOME / "viewfinder").touch()
atexit.register(shutil.rmtree, HF_HOME, ignore_errors=True)
os.environ["HF_HOME"] = str(HF_HOME)


# Each Ray worker imports torch and open_clip: 15 s of CPU.
CLUSTER_TIMEOUT_S = 900


# The same examples in every run of the suite, none kept on disk. `make chaos` tries more and other examples; CHAOS_SEED
# repeats them.
settings.register_profile("suite", derandomize=True, deadline=None, database=None)
settings.register_profile(
    "chaos", deadline=None, database=None, max_examples=1000, print_blob=True, suppress_health_check=list(HealthCheck)
)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("chaos" if config.option.markexpr.startswith("chaos") else "suite")
    # Hypothesis reads its option after this.
    if getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = os.environ.get("CHAOS_SEED")
    config.pluginmanager.register(FaultTable())


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in this hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give one process all tests with a cluster, first since they take longest, and any process a whole file.

    Then a session has one Ray, and the fixtures of a module are made once.
    """
    for item in items:
        on_ray = _needs_ray(item)
        item.add_marker(pytest.mark.xdist_group("ray" if on_ray else item.nodeid.partition("::")[0]))
        if on_ray and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(CLUSTER_TIMEOUT_S))
    items.sort(key=lambda item: not _needs_ray(item))


def pytest_collection_finish() -> None:
    """Leave what is imported out of garbage collections, which took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name contents by their size: gzip's contain the time, and all processes must collect the same tests."""
    return f"{len(val)}_bytes" if isinstance(val, bytes) else None


def _needs_ray(item: pytest.Item) -> bool:
    return bool(item.get_closest_marker("cluster")) or "ray_session" in getattr(item, "fixturenames", ())


@pytest.fixture
def forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that may not be entered; the tests may run as root, who may enter any."""
    directory, stat = tmp_path / "forbidden", Path.stat

    def refuse(path: Path, **options: bool) -> os.stat_result:
        if directory in path.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **options)

    directory.mkdir()
    monkeypatch.setattr(Path, "stat", refuse)
    return directory


@pytest.fixture(scope="session")
def s3_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the endpoint; its sub-directories are the buckets."""
    return tmp_path_factory.mktemp("s3")


@pytest.fixture(scope="session")
def s3(s3_root: Path) -> Iterator[S3Endpoint]:
    """A real endpoint; its credentials are in the environment variables that boto3 reads."""
    with S3Endpoint(s3_root) as endpoint:
        keys = {
            "AWS_ACCESS_KEY_ID": endpoint.access_key,
            "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        before = {name: os.environ.get(name) for name in keys}
        os.environ.update(keys)
        yield endpoint
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@pytest.fixture(scope="session")
def ray_session(s3: S3Endpoint) -> Iterator[None]:
    """One Ray for all tests that need one. Its workers inherit this environment, S3's credentials included."""
    import ray

    for attempt in range(3):
        try:
            ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
            break
        except Exception as error:
            # Ray gives its daemons 30 s to start; a loaded machine may need longer.
            if attempt == 2 or "timed out during startup" not in str(error):
                raise
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny", seed=7))


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A second model with another dimension."""
    return str(tiny_checkpoint(tmp_path_factory.mktemp("model") / "other", seed=8, dimension=16))
