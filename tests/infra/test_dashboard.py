"""A Ray cluster with token authentication, used over HTTP: a job is submitted and the service deployed."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
import yaml

from tests.fixtures.indexing import World
from tests.indexing.sample_images import fill
from tests.infra.test_grafana import metrics_of, queries
from viewfinder.sources.uris import point_id
from viewfinder.testing.fast_proxy import fast_proxy_environment, free_ports
from viewfinder.testing.s3 import S3Endpoint

# Half a minute on an idle machine; much longer on a busy one.
pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
NAMES = [f"{number:02}.jpg" for number in range(6)]
TOKEN = "a-token-of-this-test-and-no-other-0123456789"
KEY = "a-key-of-this-test"
WAIT_S = 240


class Head:
    """A head node started by `ray start`, with dashboard and fast proxy."""

    def __init__(self, directory: str, variables: dict[str, str]) -> None:
        dashboard, agent, client, self.service_port, self._metrics_port = free_ports(5)
        self.url = f"http://127.0.0.1:{dashboard}"
        command = [BIN / "ray", "start", "--head", "--block", "--num-cpus=4", "--port=0", f"--temp-dir={directory}"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        # By default Ray uses fixed ports here, which other clusters on this machine may have taken.
        command += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
        command += [f"--metrics-export-port={self._metrics_port}"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
        # An entrypoint's `python` is found in the head's PATH.
        variables |= {"PATH": f"{BIN}:{os.environ['PATH']}"}
        environment = os.environ | variables | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        self._log = Path(directory, "head.log")
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def wait(self) -> None:
        self.until(lambda: self.get("/api/version", TOKEN).status_code == 200)

    def until(
        self, condition: Callable[[], bool], missing: Callable[[], str] = lambda: "the condition never became true"
    ) -> None:
        """Wait for a condition; an address that refuses connections counts as not yet true."""
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                if condition():
                    return
            except httpx.TransportError:
                pass
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, missing()
            time.sleep(0.2)

    def exported(self) -> set[str]:
        """The names of all series that the node's agent exports."""
        answer = httpx.get(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=10)
        assert answer.status_code == 200, answer.text
        return set(re.findall(r"^(ray_\w+)[{ ]", answer.text, re.MULTILINE))

    def get(self, path: str, token: str | None) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.get(self.url + path, headers=headers, timeout=10)

    def tool(self, *command: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
        """Run `ray` or `serve` with nothing but the address and the token."""
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_ADDRESS": self.url}
        environment |= {"RAY_DASHBOARD_ADDRESS": self.url}
        arguments = [BIN / command[0], *command[1:]]
        return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=WAIT_S)

    def close(self) -> None:
        # Replicas first: a node that shuts down waits for running replicas.
        self.tool("serve", "shutdown", "--yes")
        self._process.terminate()  # `--block` ends the processes that it started
        try:
            self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise


@pytest.fixture
def head(s3: S3Endpoint, world: World) -> Iterator[Head]:
    with ExitStack() as stack:
        # Not pytest's directory: a socket's path is limited to 107 characters, and Ray adds 70.
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="vf-", ignore_cleanup_errors=True))
        variables = stack.enter_context(fast_proxy_environment())
        variables["VIEWFINDER_API_KEYS"] = f"{sha256(KEY.encode()).hexdigest()}:admin"
        head = Head(directory, variables)
        stack.callback(head.close)
        head.wait()
        yield head


def test_a_job_is_submitted_and_the_service_deployed_over_http_with_a_token(
    world: World, head: Head, tmp_path: Path
) -> None:
    fill(world.bucket, NAMES)
    # Without the token even reading is refused.
    assert head.get("/api/jobs/", None).status_code == 401
    assert head.get("/api/jobs/", "another-token-0123456789").status_code in (401, 403)
    index = ["python", "jobs/index.py", world.source]
    refused = head.tool("ray", "job", "submit", "--working-dir", ".", "--", *index, token="another-token-0123456789")
    assert refused.returncode != 0
    assert "Authentication failed" in refused.stderr
    assert world.store.collections.live("images") is None

    location = "import jobs.index, viewfinder; print(jobs.index.__file__, viewfinder.__file__)"
    shipped = head.tool("ray", "job", "submit", "--working-dir", ".", "--", "python", "-c", location)
    assert shipped.stdout.count("/working_dir_files/") >= 2, shipped.stdout + shipped.stderr

    done = head.tool("ray", "job", "submit", "--working-dir", ".", "--", *index)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: record.id for name, record in world.points.items()} == {
        name: point_id(f"{world.source}/{name}") for name in NAMES
    }

    # The file unchanged except for a free port.
    config = yaml.safe_load((ROOT / "infra/serve_config.yaml").read_text())
    config["http_options"]["port"] = head.service_port
    file = tmp_path / "serve_config.yaml"
    file.write_text(yaml.safe_dump(config))
    deployed = head.tool("serve", "deploy", str(file))
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    service = f"http://127.0.0.1:{head.service_port}"
    head.until(lambda: httpx.get(f"{service}/readyz", timeout=10).status_code == 200)
    assert httpx.get(f"{service}/v1/search", params={"q": "an image"}).status_code == 401
    assert httpx.get(f"{service}/docs", timeout=30).status_code == 200
    answer = httpx.get(f"{service}/v1/search", params={"q": "an image"}, headers={"x-api-key": KEY}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert {hit["uri"] for hit in answer.json()["hits"]} == {f"{world.source}/{name}" for name in NAMES}

    # A counter is exported once it has counted.
    images = {"images": [{"uri": f"{world.source}/{NAMES[0]}"}]}
    indexed = httpx.post(f"{service}/v1/images", json=images, headers={"x-api-key": KEY}, timeout=60)
    assert [image["outcome"] for image in indexed.json()["images"]] == ["unchanged"], indexed.text

    # Metrics of the service and its machines that dashboard and alerts use. Those of a running job are checked in
    # test_two_nodes.py; the job has ended here. This machine has no GPU.
    asked = {name for _, expr in queries() for name in metrics_of(expr)}
    # Nor has it Kubernetes, a Qdrant that Prometheus reads, an autoscaler, or a process killed for memory.
    absent = ("ray_viewfinder_job_", "ray_node_gpus_", "ray_node_gram_", "ray_cluster_", "ray_memory_manager_")
    asked = {name for name in asked if name.startswith("ray_") and not name.startswith(absent)}
    assert len(asked) >= 14
    exported: set[str] = set()

    def all_exported() -> bool:
        exported.update(head.exported())  # a gauge is there from its report to the next reading
        return asked <= exported

    head.until(all_exported, lambda: f"not exported: {asked - exported}")
