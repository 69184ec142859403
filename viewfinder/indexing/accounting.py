"""Counts of a run: objects by outcome and busy seconds by stage; the bottleneck and the totals that follow."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from viewfinder.sources.manifest import Manifest

# How to speed up each stage when it is the bottleneck.
STAGE_ADVICE = {
    "compare": "use a larger Qdrant, or one nearer to the workers",
    "fetch": "raise VIEWFINDER_FETCH_THREADS, or run workers nearer to the bucket",
    "decode": "add CPU cores (CPU-only nodes work)",
    "encode": "add GPUs, one encoder each; without GPUs add CPU cores",
    "write": "raise VIEWFINDER_WRITERS, or add shards and nodes to Qdrant",
}


@dataclass
class Tally:
    """The counts of one write, or of the whole run: objects by outcome, and the busy seconds of each stage.

    `unchanged` includes the `taken_down`. `stale` objects are the `failed` ones that keep their existing points,
    because a later run may succeed. `images` and `captions` count what was encoded; `captions_cut` counts captions
    longer than the model's context, `truncated_tail` images whose end is missing (`images.decoding.WARNINGS`).
    """

    indexed: int = 0
    unchanged: int = 0
    failed: int = 0
    taken_down: int = 0
    stale: int = 0
    images: int = 0
    truncated_tail: int = 0
    captions: int = 0
    captions_cut: int = 0
    compare_s: float = 0.0
    fetch_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        mine, theirs = asdict(self), asdict(other)
        return Tally(**{each.name: mine[each.name] + theirs[each.name] for each in fields(self)})

    @property
    def objects(self) -> int:
        """Number of objects with an outcome."""
        return self.indexed + self.unchanged + self.failed

    @property
    def warnings(self) -> dict[str, int]:
        """Indexed images that are not as they should be, by kind."""
        return {"truncated_tail": self.truncated_tail} if self.truncated_tail else {}

    @property
    def outcomes(self) -> dict[str, int]:
        """Objects by outcome, for progress displays."""
        return {"indexed": self.indexed, "unchanged": self.unchanged, "failed": self.failed}


@dataclass(frozen=True)
class Stage:
    """The work of one stage: busy seconds summed over its workers (failures included), and objects finished."""

    name: str
    objects: int
    seconds: float
    workers: float

    @property
    def rate(self) -> float | None:
        """Objects per second of one worker."""
        return self.objects / self.seconds if self.seconds else None

    @property
    def capacity(self) -> float | None:
        """Objects per second of all workers together, if they were never idle."""
        return None if self.rate is None else self.rate * self.workers

    @property
    def seconds_per_worker(self) -> float:
        """Mean busy seconds of one worker. Unlike rates, comparable between stages with different object counts."""
        return self.seconds / self.workers


@dataclass(frozen=True)
class Outcome:
    """The tally of a run, and the work of each stage."""

    tally: Tally
    stages: Sequence[Stage]

    @property
    def bottleneck(self) -> str | None:
        """The stage with the busiest workers; None if nothing was encoded."""
        if not (self.tally.images or self.tally.captions):
            return None
        busiest = max(self.stages, key=lambda stage: stage.seconds_per_worker)
        return busiest.name if busiest.seconds else None


@dataclass(frozen=True)
class RunResult:
    """The result of one run over a manifest; `problems` say what was left out."""

    manifest: Manifest
    outcome: Outcome
    pruned: int
    pruned_captions: int = 0
    problems: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Objects by outcome (listed = unchanged + indexed + failed), and points pruned."""
        return {"listed": self.manifest.listed, **_counts(self.outcome.tally), "pruned": self.pruned}

    @property
    def expected(self) -> int:
        """Number of points that the collection should now hold for these sources."""
        tally = self.outcome.tally
        return self.manifest.listed - tally.failed + tally.stale - tally.taken_down

    @property
    def changed(self) -> int:
        """Number of objects indexed, and points and captions pruned."""
        return self.outcome.tally.indexed + self.pruned + self.pruned_captions


def stages_of(
    tally: Tally, *, comparers: float, fetchers: float, decoders: float, encoders: float, writers: float
) -> list[Stage]:
    """The stages of a run with these numbers of workers."""
    return [
        Stage("compare", tally.objects, tally.compare_s, comparers),
        Stage("fetch", tally.images, tally.fetch_s, fetchers),
        Stage("decode", tally.images, tally.decode_s, decoders),
        Stage("encode", tally.indexed, tally.encode_s, encoders),
        Stage("write", tally.indexed, tally.write_s, writers),
    ]


def _counts(tally: Tally) -> dict[str, int]:
    return {"unchanged": tally.unchanged, "indexed": tally.indexed, "failed": tally.failed}
