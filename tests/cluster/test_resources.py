"""Division of a cluster among the workers of a run."""

import pytest

from viewfinder.cluster.resources import CORES_RESOURCE, Workers
from viewfinder.settings import Settings


def plan(total: dict[str, float], free: dict[str, float], **settings: object) -> Workers:
    return Workers.plan(Settings.load(**settings), total, free)


def test_each_gpu_gets_an_encoder() -> None:
    workers = plan({"CPU": 32, "GPU": 4}, {"CPU": 32, "GPU": 4})
    assert (workers.encoders, workers.gpus, workers.batch_size, workers.cores) == (4, 1, 256, None)
    assert workers.decoder_cpus == 1
    assert workers.concurrent_calls == 2, "one is copied while the other is computed"


def test_a_few_rows_start_only_the_encoders_that_they_fill() -> None:
    workers = plan({"CPU": 0}, {"CPU": 0}, encoders=4, device="cuda")
    assert [workers.limited_to(rows).encoders for rows in (1, 256, 257, 10_000)] == [1, 1, 2, 4]
    assert workers.limited_to(None) == workers, "the number is not known before everything is compared"


def test_without_gpus_one_encoder_uses_all_cores() -> None:
    workers = plan({"CPU": 2}, {"CPU": 2})
    assert (workers.encoders, workers.gpus, workers.concurrent_calls) == (1, 0, 1)
    assert (workers.cores, workers.batch_size) == (2, 64)


def test_many_cores_are_shared_by_several_encoders() -> None:
    workers = plan({"CPU": 160}, {"CPU": 160})
    assert (workers.encoders, workers.cores) == (20, 8)
    workers = plan({"CPU": 160}, {"CPU": 160}, encoders=160)
    assert (workers.encoders, workers.cores) == (160, 1)
    assert plan({"CPU": 160}, {"CPU": 160}, encoders=1).cores == 8, "of one node, not of the cluster"


def test_the_number_of_writers_follows_from_cores_and_gpus() -> None:
    assert plan({"CPU": 2}, {"CPU": 2}).writers == 1
    assert plan({"CPU": 8}, {"CPU": 8}).writers == 2
    assert plan({"CPU": 160}, {"CPU": 160}).writers == 4
    assert plan({"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1}).writers == 4
    assert plan({"CPU": 2}, {"CPU": 2}, writers=7).writers == 7


def test_decoders_are_limited_to_the_cores_only_on_a_ray_that_the_program_started() -> None:
    assert plan({"CPU": 16}, {"CPU": 16}).max_decoders is None, "it may grow"
    for cpus, cores in ((4, 2), (3, 1)):
        own = {"CPU": cpus, CORES_RESOURCE: cores}
        workers = plan(own, own)
        assert (workers.decoders, workers.max_decoders, workers.cores, workers.writers) == (cores, cores, cores, 1)


def test_device_cuda_requests_gpus_that_the_cluster_does_not_have_yet() -> None:
    assert plan({"CPU": 0}, {}, device="cuda", encoders=4).gpus == 1


def test_a_missing_gpu_is_reported() -> None:
    total = {"CPU": 8, "GPU": 1}
    workers = plan(total, total)
    assert workers.missing_gpu(total, total) is None
    assert "all GPUs of this cluster (1) are in use" in (workers.missing_gpu(total, {"CPU": 8}) or "")
    assert "has none yet" in (workers.missing_gpu({"CPU": 0}, {}) or "")
    assert plan({"CPU": 2}, {"CPU": 2}).missing_gpu({"CPU": 2}, {}) is None, "nor is one needed"


@pytest.mark.parametrize("free", [0.25, 1.0, 2.0])
def test_the_stages_fit_beside_a_service_on_a_small_machine(free: float) -> None:
    workers = plan({"CPU": 2}, {"CPU": free})
    assert workers.decoder_cpus + workers.encoder_cpus < free
    assert workers.decoder_cpus != workers.encoder_cpus, "Ray Data would fuse the two stages"
