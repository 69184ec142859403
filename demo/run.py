"""Run viewfinder on one machine: a bucket of sample images, the index job, the service, three queries.

python demo/run.py [--once]
"""

import argparse
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA_DIR = ROOT / ".demo"  # one directory per model, so that a changed model starts with an empty index
SOURCE = "s3://corpus"
QUERIES = ("two cats on the beach", "two red cars on the road", "海边的两只熊猫")
MINIMUM_CPUS = 4
# Variables that name the user's own server, cluster, indexes and keys.
OTHERS = (
    *("RAY_ADDRESS", "VIEWFINDER_CONFIG", "VIEWFINDER_INDEXES"),
    *("VIEWFINDER_QDRANT_URL", "VIEWFINDER_QDRANT_GRPC_URL", "VIEWFINDER_QDRANT_API_KEY"),
    *("VIEWFINDER_API_KEY", "VIEWFINDER_API_KEYS", "VIEWFINDER_API_KEYS_FILE"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo/run.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--once", action="store_true", help="stop after the queries")
    once = parser.parse_args().once
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind, so that no process keeps running

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack the characters of the Chinese query

    leave_settings_of_user()
    # By default Ray writes a cluster token into the home directory; the demo only uses loopback.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    from viewfinder.errors import ViewfinderError
    from viewfinder.models.checkpoint import locate
    from viewfinder.testing.s3 import S3Endpoint

    try:
        data_dir = DATA_DIR / locate("demo").fingerprint
        os.environ.update(VIEWFINDER_MODEL="demo", VIEWFINDER_DATA_DIR=str(data_dir), VIEWFINDER_INDEX="demo")
        say("Starting an S3 endpoint with the sample images in demo/corpus")
        with S3Endpoint(ROOT / "demo", changing=False) as s3:
            os.environ.update(
                VIEWFINDER_S3_ENDPOINT_URL=s3.url,
                AWS_ACCESS_KEY_ID=s3.access_key,
                AWS_SECRET_ACCESS_KEY=s3.secret_key,
                AWS_DEFAULT_REGION="us-east-1",
            )
            say(f"S3 listens on {s3.url}")
            with indexing() as indexed, service(indexed) as address:
                for query in QUERIES:
                    show(address, query)
                if not once:
                    wait(address)
    except ViewfinderError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        say("Stopping")
    return 0


def leave_settings_of_user() -> None:
    """Keep the demo from the user's Qdrant, cluster and keys, which the environment or a `.env` here may name."""
    for name in OTHERS:
        os.environ.pop(name, None)
    DATA_DIR.mkdir(exist_ok=True)
    os.chdir(DATA_DIR)  # `.env` is read from the working directory


@contextmanager
def indexing() -> Iterator[Callable[[], None]]:
    """Start the index job as a user does; yield a function that waits for its end. It skips unchanged images."""
    script, *arguments = ["jobs/index.py", SOURCE, "--captions", f"{SOURCE}/captions.jsonl"]
    say(f"Indexing: python {' '.join([script, *arguments])}")
    job = subprocess.Popen([sys.executable, str(ROOT / script), *arguments])

    def wait() -> None:
        if status := job.wait():
            sys.exit(status)

    try:
        yield wait
    finally:
        job.terminate()  # no effect if it has ended
        job.wait()


@contextmanager
def service(indexed: Callable[[], None]) -> Iterator[str]:
    """Start Ray, after `indexed` the service on loopback; yield its address when it is ready for queries."""
    from viewfinder.cluster.session import start_ray
    from viewfinder.errors import ViewfinderError
    from viewfinder.models.cpu import cpu_cores
    from viewfinder.service.serving import build, serving
    from viewfinder.settings import Settings
    from viewfinder.store import StoreAddress

    settings = Settings.load(port=free_port(Settings.load().port))
    cpus = max(MINIMUM_CPUS, cpu_cores())
    with start_ray(StoreAddress.of(settings), num_cpus=cpus, include_dashboard=False) as session:
        if not session.owned:
            raise ViewfinderError(f"Another program uses {settings.data_dir}, perhaps a second demo. Stop it first.")
        indexed()
        say("Starting the service (Ray Serve)")
        with serving(build(settings), settings.host, settings.port) as address:
            yield address


def show(address: str, query: str) -> None:
    """Search as any client does, and print the hits."""
    from rich.console import Console
    from rich.table import Table

    from viewfinder.client import Client

    with Client(address, timeout_s=60) as client:
        result = client.search(query, limit=3)
    table = Table("file", "score", "caption", title=f"“{query}”  ({result.took_ms:.0f} ms)", title_justify="left")
    for hit in result.hits:
        table.add_row(hit.uri.rpartition("/")[2], f"{hit.score:.3f}", hit.caption)
    Console(markup=False).print(table)


def wait(address: str) -> None:
    """Serve until Ctrl-C."""
    example = f"{address}/v1/search?q=two+cats+on+the+beach"
    say(f"Serving: open {address} in a browser, or try {example} and {address}/docs. Ctrl-C stops.")
    while True:
        time.sleep(3600)


def free_port(wanted: int) -> int:
    """`wanted` if nothing listens there, else another free port, which is printed."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                say(f"Another program uses port {wanted}; using a free one")
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port")


def say(text: str) -> None:
    print(f"\n▸ {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
