"""Run a Ray cluster of two nodes: print their addresses, kill the second on request, end with standard input.

A separate program, because Ray's `Cluster` leaves sockets open in the process that makes it.
"""

import json
import sys

from ray.cluster_utils import Cluster


def main() -> None:
    """Run the cluster for one test."""
    # Metrics reach the agents every second instead of every ten; a lost node is noticed within seconds.
    quick = {
        "metrics_report_interval_ms": 1000,
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 6,
    }
    head = {"num_cpus": 3, "include_dashboard": False, "_system_config": quick}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    worker = cluster.add_node(num_cpus=3)
    print(
        json.dumps(
            {
                "address": cluster.address,
                "metrics_port": cluster.head_node.metrics_export_port,
                "raylet": worker.all_processes["raylet"][0].process.pid,
            }
        ),
        flush=True,
    )
    for _ in sys.stdin:
        cluster.remove_node(worker, allow_graceful=False)
        print("lost", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
