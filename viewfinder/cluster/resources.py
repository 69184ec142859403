"""How the cores and GPUs of a cluster are divided among the workers of a run."""

from collections.abc import Mapping
from dataclasses import dataclass

from viewfinder.indexing.encode import GPU_BATCH_SIZE, IMAGES_PER_THREAD
from viewfinder.settings import Settings

# For stages that wait for Qdrant or S3: they must not take a core from the decoders.
WAITING_STAGE_CPUS = 0.1
# A decoder, an encoder, and some stages that wait.
CPUS_OF_ONE_PIPELINE = 2.3
# Resource of a Ray of our own: its real number of cores, where its CPUs are set higher. Nothing claims it.
CORES = "viewfinder_cores"
# Without GPUs. Each encoder holds a model and spends 20 seconds of a core on its start; each of its threads holds the
# activations of its part of a batch, hundreds of megabytes with the largest models.
CPUS_PER_ENCODER = 8
# Batches that a GPU's encoder has in hand: one is prepared while the other is computed (benchmarks/hand_over.py).
CALLS_PER_GPU = 2
# More writers gain nothing before an encoder is faster than four cores; each is a process to start.
CPUS_PER_WRITER, MAX_WRITERS = 4, 4
# Listing and comparing outrun everything after them; more tasks would only be more processes.
COMPARERS = 4


@dataclass(frozen=True)
class Workers:
    """Numbers of encoders, decoders and writers, and the share of the cluster that each takes.

    `max_decoders` limits the decoders on a Ray of our own; elsewhere there are as many as the cluster has room for.
    `concurrent_calls` are the batches that an encoder has in hand.
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
        """One encoder for each GPU; without GPUs one for every eight cores, which it shares with decoders.

        An encoder on the CPU claims a single core from the scheduler, so that both stages always fit, and the operating
        system divides the time. Beside a service that holds most of a small machine both claim less, or the job would
        wait for ever; a cluster with nothing free yet will grow. A Ray of our own does not grow, and decodes in as many
        processes as there are cores: with a third on two cores reading an image cost half as much again, and the
        encoder fell behind and was alone at the end.
        """
        gpus = int(total.get("GPU", 0))
        cpus = int(total.get(CORES, total.get("CPU", 1)))
        free_cpus = free.get("CPU", 0.0)
        share = free_cpus / CPUS_OF_ONE_PIPELINE if 0 < free_cpus < CPUS_OF_ONE_PIPELINE else 1.0
        on_gpu = settings.device == "cuda" or (settings.device == "auto" and gpus > 0)
        encoders = settings.encoders or max(1, gpus if on_gpu else cpus // CPUS_PER_ENCODER)
        cores = None if on_gpu else max(1, min(cpus // encoders, CPUS_PER_ENCODER))
        return cls(
            encoders=encoders,
            decoders=min(cpus, max(1, int(total.get("CPU", 1)) - encoders)),
            max_decoders=cpus if CORES in total else None,
            decoder_cpus=round(share, 2),
            # Less than the decoders': Ray Data fuses stages with equal demands, which then take turns in one process.
            encoder_cpus=round(0.9 * share, 2),
            gpus=1 if on_gpu else 0,
            concurrent_calls=CALLS_PER_GPU if on_gpu else 1,
            cores=cores,
            batch_size=settings.encode_batch_size or (GPU_BATCH_SIZE if cores is None else IMAGES_PER_THREAD * cores),
            writers=settings.writers or (MAX_WRITERS if on_gpu else min(MAX_WRITERS, max(1, cpus // CPUS_PER_WRITER))),
        )

    def missing_gpu(self, total: Mapping[str, float], free: Mapping[str, float]) -> str | None:
        """A message if the encoders have to wait for a GPU; None if they can start."""
        if free.get("GPU", 0.0) >= self.gpus:
            return None
        gpus = int(total.get("GPU", 0))
        taken = f"all {gpus} of this cluster are in use" if gpus else "this cluster has none yet"
        return f"Waiting for a GPU: {taken}. VIEWFINDER_DEVICE=cpu encodes without."
