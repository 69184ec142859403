"""One deployment that encodes and searches, against an ingress with a separate encoder deployment.

`python -m benchmarks.split_encoder`, the measurement of docs/decisions/0005-encoder-and-search-in-one-deployment.md.
All run on one Ray, over the same store, model and batch size, and get the same load in turn. The split service has two
processes and reserves two CPUs, so one deployment with two replicas is measured too.
"""

import argparse
import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from viewfinder.models.cpu import cpu_cores
from viewfinder.testing.fast_proxy import fast_proxy_environment

# Ray reads these when it is imported, and its workers inherit them.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # there are no other clients
}
SPLIT = "split"
ROUTES = {"one replica": "/one", "two replicas": "/two", SPLIT: "/split"}
CLIENTS = 32


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.split_encoder", description=__doc__)
    parser.add_argument("--model", default="vit", help="'vit' (random weights), 'tiny' or a model's name (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each, in turn (%(default)s)")
    parser.add_argument("--requests", type=int, default=192, help="requests of a round of 32 clients (%(default)s)")
    parser.add_argument("--default-proxy", action="store_true", help="Ray's default proxy, not the fast one")
    arguments = parser.parse_args(argv)
    os.environ.update(ENVIRONMENT)
    figures = {name: _Figures() for name in ROUTES}
    with contextlib.ExitStack() as stack:
        if not arguments.default_proxy:
            os.environ.update(stack.enter_context(fast_proxy_environment()))
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="viewfinder-bench-"))
        address = stack.enter_context(_deployed(arguments.model, Path(directory)))
        asyncio.run(_measure(address, figures, arguments.rounds, arguments.requests))
    _report(figures, arguments)
    return 0


class _Figures:
    """Of one of the two: medians at one client in milliseconds, and searches a second at 32, of each round."""

    def __init__(self) -> None:
        self.alone_ms: list[float] = []
        self.per_second: list[float] = []


async def _measure(address: str, figures: dict[str, _Figures], rounds: int, requests: int) -> None:
    from benchmarks.load import Ask, crowd
    from benchmarks.replica import distinct_texts

    texts = distinct_texts()  # one stream for all, so that no text comes twice

    async def load(route: str, count: int, clients: int) -> tuple[float, float]:
        asks = (Ask("text", "POST", f"{route}/v1/search", {"text": text}) for text in islice(texts, count))
        outcome = await crowd(address, asks, clients=clients)
        if outcome.errors:
            raise RuntimeError(f"{route}: {dict(outcome.errors)}")
        return median(outcome.latencies_s["text"]) * 1000, outcome.per_second

    for number in range(rounds + 1):  # the first warms up
        for name, route in ROUTES.items():
            alone_ms, _ = await load(route, 24, 1)
            _, per_second = await load(route, requests, CLIENTS)
            if number:
                figures[name].alone_ms.append(alone_ms)
                figures[name].per_second.append(per_second)
                print(f"{number}/{rounds} {name}: {alone_ms:.1f} ms, {per_second:.1f}/s", file=sys.stderr, flush=True)


def _report(figures: dict[str, _Figures], arguments: argparse.Namespace) -> None:
    proxy = "default proxy" if arguments.default_proxy else "fast proxy"
    load = f"load average {os.getloadavg()[0]:.1f} on {cpu_cores()} cores"
    print(f"model {arguments.model}, {proxy}, medians of {arguments.rounds} rounds in turn, {load}")
    split = figures[SPLIT]
    for name, each in figures.items():
        latency = [theirs / ours for theirs, ours in zip(split.alone_ms, each.alone_ms, strict=True)]
        rate = [ours / theirs for theirs, ours in zip(split.per_second, each.per_second, strict=True)]
        line = (
            f"{name:12}  1 client {median(each.alone_ms):6.1f} ms  {CLIENTS} clients {median(each.per_second):6.1f}/s"
        )
        compared = (
            "" if each is split else f"  split takes {_spread(latency)} as long, this gives {_spread(rate)} as many"
        )
        print(line + compared)


def _spread(ratios: list[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


@contextlib.contextmanager
def _deployed(model: str, directory: Path) -> Iterator[str]:
    """Deploy all applications on their own Ray and warm them up; yield the address."""
    import ray
    from ray import serve

    from benchmarks.replica import INDEX, fill
    from benchmarks.vit import vit_checkpoint
    from viewfinder.models.checkpoint import locate
    from viewfinder.service.app import application
    from viewfinder.settings import Settings
    from viewfinder.store import StoreAddress, connect

    checkpoint = vit_checkpoint(model == "tiny") if model in ("vit", "tiny") else locate(model)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = Settings.load(
        {},
        data_dir=directory,
        index=INDEX,
        port=port,
        device="cpu",
        precision="float32",
        runtime="torch",
        max_replicas=1,
        allow_anonymous=True,
    )
    # CPUs for all deployments, which are never busy at the same time.
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    try:
        with connect(StoreAddress(data_dir=directory)) as store:
            fill(store, checkpoint)
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            two = settings.model_copy(update={"min_replicas": 2, "max_replicas": 2})
            applications = application(settings), application(two), _split(settings)
            for (name, route), deployment in zip(ROUTES.items(), applications, strict=True):
                serve.run(deployment, name=name, route_prefix=route)
            yield f"http://127.0.0.1:{port}"
            serve.shutdown()
    finally:
        ray.shutdown()


def _split(settings: Any) -> Any:
    """The application with a separate encoder deployment, which batches across all requests."""
    from ray import serve

    from viewfinder.models.encoder import Encoder
    from viewfinder.service.generation.follower import Follower
    from viewfinder.service.generation.generation import LoadedModel
    from viewfinder.service.generation.models import Models
    from viewfinder.service.http.api import build_api
    from viewfinder.service.search_service import SearchService
    from viewfinder.service.telemetry.metrics import Metrics, RayInstruments
    from viewfinder.store import StoreAddress, connect

    class RemoteModel(LoadedModel):
        """Encodes in the other deployment; its own encoder only describes the model."""

        remote: Any

        async def encode_texts(self, texts: Sequence[str]) -> Any:
            return await self.remote.remote(list(texts))

    class RemoteModels(Models):
        remote: Any

        def made(self, encoder: Encoder) -> LoadedModel:
            model = RemoteModel(encoder, batch_size=1)
            model.remote = self.remote
            return model

    class SplitEncoder:
        def __init__(self) -> None:
            self._service = SearchService.connect(
                settings, Metrics(RayInstruments(application="split", replica="encoder"))
            )
            self._service.start()

        async def encode(self, texts: list[str]) -> Any:
            return await self._service.follower.snapshot().encode_texts(texts)

    @serve.ingress()
    class Ingress:
        def __init__(self, encoder: Any) -> None:
            def load(checkpoint: Any) -> Encoder:
                return Encoder.load(checkpoint, device="cpu", precision="float32", runtime="torch", threads=1)

            store = connect(StoreAddress.of(settings))
            models = RemoteModels(load, batch_size=1)
            models.remote = encoder.encode
            follower = Follower(store, settings.index, models, refresh_s=settings.refresh_s)
            metrics = Metrics(RayInstruments(application="split", replica="ingress"))
            self._service = SearchService(store, [follower], settings, metrics)
            self._service.start()

        def __serve_build_asgi_app__(self) -> Any:
            return build_api(self._service)

    limits = {
        "max_ongoing_requests": settings.batch_size * 4,
        "max_queued_requests": settings.queue_size,
        "ray_actor_options": {"num_cpus": settings.replica_cpus},
    }
    encoder = serve.deployment(SplitEncoder, name="encoder", **limits)
    return serve.deployment(Ingress, name="ingress", **limits).bind(encoder.bind())


if __name__ == "__main__":
    sys.exit(main())
