"""The Ray that a job runs on: the one it was submitted to, the store holder's, or one of its own on this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from viewfinder.cluster.pipeline import CORES, configure_ray_data
from viewfinder.models.cpu import cpu_cores
from viewfinder.settings import Settings
from viewfinder.store import Store, StoreAddress, connect, open_local
from viewfinder.store.directory import store_directory, try_lock
from viewfinder.store.embedded import start_ray

# Pipelines of several stages starve on two logical CPUs: beside a decoder for each core others must have room.
LEAST_CPUS, CPUS_BESIDE_DECODERS = 4, 2


@contextmanager
def join(settings: Settings, address: StoreAddress) -> Iterator[Store]:
    """Join or start Ray, and yield the store as the driver sees it."""
    # Ray's core tells of every actor pool, as an error, that its arguments lie in the object store.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    cores = cpu_cores()
    with start_ray(
        address,
        ray_address=settings.ray_address,
        num_cpus=max(LEAST_CPUS, cores + CPUS_BESIDE_DECODERS),
        resources={CORES: cores},
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    ):
        configure_ray_data()
        with connect(address) as store:
            yield store


@contextmanager
def open_store(settings: Settings) -> Iterator[Store]:
    """Open the store that the settings name; an embedded one through its holder, where there is one."""
    address = StoreAddress.of(settings)
    with ExitStack() as stack:
        if address.url is not None:
            yield stack.enter_context(connect(address))
        elif (lock := try_lock(store_directory(address.data_dir) / "holder.lock")) is not None:
            lock.close()
            yield stack.enter_context(open_local(address))
        else:
            stack.enter_context(start_ray(address, ray_address=settings.ray_address))
            yield stack.enter_context(connect(address))
