"""Where the objects and the vectors are, in plain values that travel to every worker."""

from dataclasses import dataclass

from viewfinder.sources.objects import ObjectAccess
from viewfinder.store import StoreAddress


@dataclass(frozen=True)
class Reach:
    """How workers get at both ends of the pipeline; credentials for S3 they find by themselves."""

    access: ObjectAccess
    address: StoreAddress
