"""The reader of objects of a worker process, opened once and used by its many short tasks."""

import functools

from viewfinder.sources.access import ObjectAccess
from viewfinder.sources.objects import Objects


@functools.lru_cache(maxsize=4)
def objects_of(access: ObjectAccess) -> Objects:
    """The reader of objects with this access."""
    return Objects(access)
