"""Division of a cluster's cores and GPUs among the workers of a run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from viewfinder.indexing.encode import GPU_BATCH_SIZE, IMAGES_PER_THREAD
from viewfinder.settings import Settings

# CPUs claimed by stages that mostly wait for Qdrant or S3, so that the decoders keep their cores.
WAITING_STAGE_CPUS = 0.1
# CPUs of one decoder, one encoder and some waiting stages.
CPUS_OF_ONE_PIPELINE = 2.3
# Custom resource of a Ray that this program starts: the real number of cores, as its CPUs are set higher. Unclaimed.
CORES_RESOURCE = "viewfinder_cores"
# Without GPUs. Each encoder holds a model and takes 20 CPU seconds to start; each of its threads holds the activations
# of its part of a batch, hundreds of megabytes with the largest models.
CPUS_PER_ENCODER = 8
# Concurrent batches per GPU encoder: one is prepared while the other is computed (benchmarks/hand_over.py).
CALLS_PER_GPU = 2
# More writers do not help until the encoder is faster than four cores, and each one is another process.
CPUS_PER_WRITER, MAX_WRITERS = 4, 4
# Comparing is faster than all later stages; more tasks would only start more processes.
COMPARERS = 4


@dataclass(frozen=True)
class Workers:
    """Numbers of encoders, decoders and writers, and the share of the cluster that each takes.

    `max_decoders` limits the decoders on a Ray that this program started; a cluster runs as many as fit.
    `concurrent_calls` is the number of batches that an encoder processes at the same time.
    """

    encoders: int
    decoders: int
    max_decoders: int | None
    decoder_cpus: float
    encoder_cpus: float
    gpus: float
    concurrent_calls: int
    cores: int | None
    batch_size: int
    writers: int

    @classmethod
    def plan(cls, settings: Settings, total: Mapping[str, float], free: Mapping[str, float]) -> "Workers":
        """One encoder per GPU; without GPUs one for every eight cores, which it shares with decoders.

        An encoder on the CPU claims only one core from the scheduler, so that both stages always fit; the operating
        system divides the time. Beside a service that holds most of a small machine both stages claim less, or the job
        would wait forever. A cluster without free CPUs is expected to grow. A Ray that this program started does not
        grow and runs one decoder process per core: with three on two cores, decoding an image took 1.5 times as long,
        and the encoder fell behind.
        """
        gpus = int(total.get("GPU", 0))
        cpus = int(total.get(CORES_RESOURCE, total.get("CPU", 1)))
        free_cpus = free.get("CPU", 0.0)
        share = free_cpus / CPUS_OF_ONE_PIPELINE if 0 < free_cpus < CPUS_OF_ONE_PIPELINE else 1.0
        on_gpu = settings.device == "cuda" or (settings.device == "auto" and gpus > 0)
        encoders = settings.encoders or max(1, gpus if on_gpu else cpus // CPUS_PER_ENCODER)
        cores = None if on_gpu else max(1, min(cpus // encoders, CPUS_PER_ENCODER))
        return cls(
            encoders=encoders,
            decoders=min(cpus, max(1, int(total.get("CPU", 1)) - encoders)),
            max_decoders=cpus if CORES_RESOURCE in total else None,
            decoder_cpus=round(share, 2),
            # Less than the decoders' share: Ray Data fuses stages with equal demands, which would then run in turn.
            encoder_cpus=round(0.9 * share, 2),
            gpus=1 if on_gpu else 0,
            concurrent_calls=CALLS_PER_GPU if on_gpu else 1,
            cores=cores,
            batch_size=settings.encode_batch_size or (GPU_BATCH_SIZE if cores is None else IMAGES_PER_THREAD * cores),
            writers=settings.writers or (MAX_WRITERS if on_gpu else min(MAX_WRITERS, max(1, cpus // CPUS_PER_WRITER))),
        )

    def limited_to(self, rows: int | None) -> "Workers":
        """As many encoders as there are batches to encode, so that a few new images start one GPU node and not all."""
        if rows is None:
            return self
        return replace(self, encoders=max(1, min(self.encoders, math.ceil(rows / self.batch_size))))

    def missing_gpu(self, total: Mapping[str, float], free: Mapping[str, float]) -> str | None:
        """A warning if the encoders must wait for a GPU, else None."""
        if free.get("GPU", 0.0) >= self.gpus:
            return None
        gpus = int(total.get("GPU", 0))
        taken = f"all GPUs of this cluster ({gpus}) are in use" if gpus else "this cluster has none yet"
        return f"Waiting for a GPU: {taken}. To encode on the CPU, set VIEWFINDER_DEVICE=cpu."
