"""Counts of a run: objects by outcome and busy seconds by stage; the bottleneck and the totals that follow."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from viewfinder.sources.manifest import Manifest
from viewfinder.sources.skips import SKIP_REASONS
from viewfinder.wording import counted

# How to speed up each stage when it is the bottleneck.
STAGE_ADVICE = {
    "compare": "use a larger Qdrant, or one nearer to the workers",
    "fetch": "raise VIEWFINDER_FETCH_THREADS, or run workers nearer to the bucket",
    "decode": "add CPU cores (CPU-only nodes work)",
    "encode": "add GPUs, one encoder each; without GPUs add CPU cores",
    "write": "raise VIEWFINDER_WRITERS, or add shards and nodes to Qdrant",
}
# URIs that a report lists of images with warnings.
MAX_WARNED = 100


@dataclass
class Tally:
    """The counts of one write, or of the whole run: objects by outcome, and the busy seconds of each stage.

    `archived` to `taken_down` are the skipped objects by reason. `stale` objects are the failed and skipped ones that
    keep their existing points, because a later run may succeed. `archived_live` and `lost` count images of the live
    collection that one built beside it lacks, because they are archived or for another reason (`indexing.losses`).
    `images` and `captions` count what was encoded; `captions_cut` counts captions longer than the model's context,
    `truncated_tail` images whose end is missing (`images.decoding.WARNINGS`), of which `warned` are the first URIs.
    `failures` are the failed objects by stage and reason.
    """

    indexed: int = 0
    unchanged: int = 0
    failed: int = 0
    archived: int = 0
    not_an_image: int = 0
    hidden: int = 0
    video: int = 0
    empty: int = 0
    taken_down: int = 0
    archived_live: int = 0
    lost: int = 0
    stale: int = 0
    images: int = 0
    truncated_tail: int = 0
    warned: tuple[str, ...] = ()
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    captions: int = 0
    captions_cut: int = 0
    compare_s: float = 0.0
    fetch_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        total = Tally(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})
        total.warned = total.warned[:MAX_WARNED]
        return total

    @property
    def objects(self) -> int:
        """Number of objects with an outcome."""
        return self.indexed + self.unchanged + self.skipped + self.failed

    @property
    def skipped(self) -> int:
        """Number of objects that are not to be indexed."""
        return sum(self.skips.values())

    @property
    def skips(self) -> dict[str, int]:
        """Skipped objects by reason."""
        return {reason: getattr(self, reason) for reason in SKIP_REASONS}

    @property
    def warnings(self) -> dict[str, int]:
        """Indexed images that are not as they should be, by kind."""
        return {"truncated_tail": self.truncated_tail} if self.truncated_tail else {}

    @property
    def failure_counts(self) -> dict[str, int]:
        """Failed objects by reason, the most frequent first."""
        reasons = Counter[str]()
        for (_, reason), count in self.failures.items():
            reasons[reason] += count
        return dict(reasons.most_common())

    @property
    def outcomes(self) -> dict[str, int]:
        """Objects by outcome, for progress displays."""
        return {
            "unchanged": self.unchanged,
            "indexed": self.indexed,
            "skipped": self.skipped,
            "failed": self.failed,
        }


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
        """Objects by outcome (listed = unchanged + indexed + skipped + failed), and points pruned."""
        return {"listed": self.manifest.listed, **self.outcome.tally.outcomes, "pruned": self.pruned}

    @property
    def expected(self) -> int:
        """Number of points that the collection should now hold for these sources."""
        tally = self.outcome.tally
        return self.manifest.listed - tally.failed - tally.skipped + tally.stale

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


def failure_ratio(counts: Mapping[str, int]) -> float:
    """The share of failures among the objects that were to be indexed; `counts` are those of a `RunResult`."""
    wanted = counts.get("listed", 0) - counts.get("skipped", 0)
    return counts.get("failed", 0) / wanted if wanted else 0.0


def too_many_failures(counts: Mapping[str, int], max_ratio: float) -> str | None:
    """Return a message if the share of failures is above the maximum; `counts` are those of a `RunResult`."""
    if failure_ratio(counts) <= max_ratio:
        return None
    wanted = counted(counts["listed"] - counts["skipped"], "object")
    return (
        f"{counts['failed']:,} of {wanted} failed (not counting those skipped), more than --max-failure-ratio "
        f"{max_ratio:g} allows. All others are indexed; failures.jsonl lists the failed ones."
    )


def skip_counts(skips: Mapping[str, int]) -> dict[str, int]:
    """Skipped objects by reason as they are recorded with a collection, beside the other counts."""
    return {f"skipped_{reason}": count for reason, count in skips.items() if count}
