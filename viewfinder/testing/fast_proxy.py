"""Settings for Ray's fast proxy (HAProxy) on a machine where other clusters may run."""

import contextlib
import socket
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def fast_proxy_environment() -> Iterator[dict[str, str]]:
    """Yield the environment of a cluster with the fast proxy; delete the proxy's files afterwards.

    By default all clusters of a machine share `/tmp/haproxy-serve` and the ports 9101 (metrics) and 8404 (statistics).
    """
    # Not in the directory of the tests: a socket's path may have 107 characters, and Ray appends 70.
    with tempfile.TemporaryDirectory(prefix="hap-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        metrics, statistics = free_ports(2)
        yield {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{directory}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{directory}/admin.sock",
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{directory}/metrics.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": directory,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{directory}/server-state",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        }


def free_ports(count: int) -> list[int]:
    """Return free ports of this machine."""
    with contextlib.ExitStack() as stack:
        # All open at the same time, so that they differ.
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]
