"""Many clients against a running service: `python -m benchmarks.load http://localhost:8000`."""

import argparse
import asyncio
import base64
import io
import itertools
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import aiohttp
import numpy as np
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.replica import distinct_texts
from viewfinder.models.cpu import cpu_cores

# Of one request.
TIMEOUT_S = 60.0
IMAGE_SIZE = 320


@dataclass(frozen=True)
class Ask:
    """One request and its kind of query."""

    kind: str
    method: str
    path: str
    body: Mapping[str, Any] | None = None


@dataclass
class Outcome:
    """Results of a crowd of clients. `errors` counts by kind and reason: status and code, or the connection error."""

    seconds: float = 0.0
    latencies_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        return sum(len(latencies) for latencies in self.latencies_s.values())

    @property
    def per_second(self) -> float:
        """Successful responses per second."""
        return self.answered / self.seconds

    def percentiles_ms(self, kind: str) -> tuple[float, float, float, float]:
        """The 50th, 95th and 99th percentile and the maximum of successful responses, in milliseconds."""
        latencies_ms = [seconds * 1000 for seconds in self.latencies_s[kind]]
        if len(latencies_ms) == 1:
            return (latencies_ms[0],) * 4
        cuts = quantiles(latencies_ms, n=100, method="inclusive")
        return cuts[49], cuts[94], cuts[98], max(latencies_ms)


async def crowd(
    address: str, asks: Iterator[Ask], *, clients: int, seconds: float | None = None, key: str | None = None
) -> Outcome:
    """Run `clients` clients for `seconds`; each asks again as soon as it has its response.

    They end earlier if `asks` ends. Requests in progress are waited for, up to `TIMEOUT_S`.
    """
    outcome = Outcome()
    began = time.perf_counter()

    async def client(session: aiohttp.ClientSession) -> None:
        while seconds is None or time.perf_counter() - began < seconds:
            if (ask := next(asks, None)) is None:
                return
            await _ask(session, ask, outcome)

    async with _session(address, clients, key) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    outcome.seconds = time.perf_counter() - began
    return outcome


async def _ask(session: aiohttp.ClientSession, ask: Ask, outcome: Outcome) -> None:
    began = time.perf_counter()
    try:
        async with session.request(ask.method, ask.path, json=ask.body) as answer:
            content = await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        outcome.errors[ask.kind, type(error).__name__] += 1
        return
    if answer.status == 200:
        outcome.latencies_s[ask.kind].append(time.perf_counter() - began)
    else:
        outcome.errors[ask.kind, _reason(answer.status, content)] += 1
        # A rejected client waits; otherwise the crowd would produce nothing but rejections.
        await asyncio.sleep(min(1.0, float(answer.headers.get("retry-after", 0))))


def _reason(status: int, content: bytes) -> str:
    head = content[:200].decode(errors="replace")
    code = head.partition('"code":"')[2].partition('"')[0]
    return f"{status} {code or head[:60]}"


@asynccontextmanager
async def _session(address: str, clients: int, key: str | None) -> AsyncIterator[aiohttp.ClientSession]:
    # One connection per client, like clients on separate machines.
    async with aiohttp.ClientSession(
        address,
        connector=aiohttp.TCPConnector(limit=clients),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        headers={"authorization": f"Bearer {key}"} if key else None,
    ) as session:
        yield session


def texts_only() -> Iterator[Ask]:
    """Searches by distinct texts, so that no cache helps."""
    return (Ask("text", "POST", "/v1/search", {"text": text}) for text in distinct_texts())


def mixed(hit: Mapping[str, Any] | None) -> Iterator[Ask]:
    """Every kind of query in turn, endlessly; `hit` is a hit of the index, or None if it is empty."""
    texts = itertools.cycle(list(distinct_texts()))
    again = next(texts)
    images = itertools.cycle([_image(seed) for seed in range(16)])
    kinds: list[Callable[[], Ask]] = [
        lambda: Ask("text", "POST", "/v1/search", {"text": next(texts)}),
        lambda: Ask("text, known", "POST", "/v1/search", {"text": again}),
        lambda: Ask("text, by address", "GET", f"/v1/search?limit=20&q={next(texts).replace(' ', '+')}"),
        lambda: Ask("both vectors", "POST", "/v1/search", {"text": next(texts), "target": "both"}),
        lambda: Ask("hybrid", "POST", "/v1/search", {"text": next(texts), "rank": "hybrid"}),
        lambda: Ask(
            "filtered",
            "POST",
            "/v1/search",
            {"text": next(texts), "filter": {"and": [{"width": {"gte": 16}}, {"not": {"format": {"eq": "GIF"}}}]}},
        ),
        lambda: Ask("image", "POST", "/v1/search", {"image": next(images)}),
        lambda: Ask(
            "weighted",
            "POST",
            "/v1/search",
            {"queries": [{"text": next(texts)}, {"text": again, "weight": -0.5}]},
        ),
        lambda: Ask("batch of 8", "POST", "/v1/search/batch", {"searches": [{"text": next(texts)} for _ in range(8)]}),
        lambda: Ask("embed", "POST", "/v1/embed", {"texts": [next(texts)]}),
    ]
    if hit is not None:
        kinds += [
            lambda: Ask("like this one", "POST", "/v1/search", {"id": hit["id"]}),
            lambda: Ask("payload", "GET", f"/v1/images/{hit['id']}"),
        ]
    return (make() for make in itertools.cycle(kinds))


def _image(seed: int) -> str:
    """A small JPEG in base64."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((IMAGE_SIZE, IMAGE_SIZE)).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


async def run(address: str, *, clients: int, seconds: float, key: str | None) -> Outcome:
    """Check that there is an index, then run the mixed crowd. Raise `SystemExit` if the service cannot be used."""
    async with _session(address, 1, key) as session:
        try:
            async with session.post("/v1/search", json={"text": "an image", "limit": 1}) as answer:
                content = await answer.read()
                if answer.status != 200:
                    raise SystemExit(f"{address} answers {_reason(answer.status, content)}")
                hits = (await answer.json())["hits"]
        except aiohttp.ClientError as error:
            raise SystemExit(f"{address} cannot be reached: {error}") from error
    return await crowd(address, mixed(hits[0] if hits else None), clients=clients, seconds=seconds, key=key)


def table(outcome: Outcome) -> Table:
    """One row for each kind of query."""
    lines = Table(
        "query", "answered", "errors", "p50", "p95", "p99", "maximum (ms)", "errors by reason", box=SIMPLE_HEAD
    )
    kinds = dict.fromkeys([*outcome.latencies_s, *(kind for kind, _ in outcome.errors)])
    for kind in kinds:
        wrong = {reason: count for (failed, reason), count in outcome.errors.items() if failed == kind}
        answered = len(outcome.latencies_s.get(kind, ()))
        figures = [f"{figure:.0f}" for figure in outcome.percentiles_ms(kind)] if answered else ["–"] * 4
        reasons = Text(", ".join(f"{count} × {reason}" for reason, count in wrong.items()))
        lines.add_row(kind, str(answered), str(sum(wrong.values())), *figures, reasons)
    return lines


def main(argv: list[str] | None = None) -> int:
    """Run the crowd and print the results; return 1 if any request failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("address", help="address of the service, such as http://localhost:8000")
    parser.add_argument("--clients", type=int, default=32, help="concurrent clients (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration (%(default)s)")
    parser.add_argument(
        "--key-from",
        metavar="VARIABLE",
        help="environment variable with the API key (process lists show command lines)",
    )
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.clients <= 1000:
        parser.error(f"--clients must be 1 to 1000, not {arguments.clients}")
    if not 0 < arguments.seconds <= 3600:
        parser.error(f"--seconds must be more than 0 and at most 3600, not {arguments.seconds:g}")
    if arguments.key_from and arguments.key_from not in os.environ:
        parser.error(f"--key-from: there is no environment variable {arguments.key_from!r}")
    key = os.environ[arguments.key_from] if arguments.key_from else None

    load_before = os.getloadavg()[0]
    outcome = asyncio.run(
        run(arguments.address.rstrip("/"), clients=arguments.clients, seconds=arguments.seconds, key=key)
    )
    Console(width=max(120, Console().width)).print(table(outcome))
    failed = outcome.errors.total()
    print(
        f"{arguments.clients} clients, {outcome.seconds:.1f} s: {outcome.answered} answered "
        f"({outcome.per_second:.1f}/s), {failed} errors; {cpu_cores()} cores, load average {load_before:.1f} before "
        f"and {os.getloadavg()[0]:.1f} after"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
