"""Imports qdrant-client without building its models, more than half of the CPU time of that import.

Its 340 models are built when their classes are defined, as far as they can be, and all when it calls `model_rebuild` of
each. Here pydantic builds a model when it is used first. Models that other threads define during the import are built
at their first use too. A program that derives classes from these models has to import qdrant-client before viewfinder,
or use the models first.
"""

import gc
import importlib
import sys
from collections.abc import Callable
from typing import Any

import pydantic.main
from pydantic import BaseModel

_MODELS = "qdrant_client.http.models.models"


def _import() -> None:
    rebuild: Any = BaseModel.__dict__["model_rebuild"]
    of_class: Callable[..., bool | None] = rebuild.__func__

    def rebuild_others(cls: type[BaseModel], /, **options: Any) -> bool | None:
        if cls.__module__ == _MODELS:
            # Names are looked up here before they are in the function that uses the model first.
            cls.__pydantic_parent_namespace__ = vars(sys.modules[_MODELS])
            return None
        depth = options.pop("_parent_namespace_depth", 2)
        return of_class(cls, _parent_namespace_depth=depth + 1 if depth > 0 else depth, **options)

    # Without this lock, threads that use a model first at the same time would fail.
    if not hasattr(pydantic.main, "_rebuild_lock"):
        importlib.import_module("qdrant_client")
        return
    config = BaseModel.model_config
    is_collecting = gc.isenabled()
    gc.disable()  # all that is made here stays
    BaseModel.model_config = {**config, "defer_build": True}
    BaseModel.model_rebuild = classmethod(rebuild_others)  # type: ignore[assignment, method-assign]
    try:
        importlib.import_module("qdrant_client")
    finally:
        BaseModel.model_rebuild = rebuild  # type: ignore[method-assign]
        BaseModel.model_config = config
        if is_collecting:
            gc.enable()


_import()
