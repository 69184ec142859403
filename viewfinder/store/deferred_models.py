"""Imports qdrant-client without building its models, half of the CPU time of that import.

It calls `model_rebuild` of each of its 300 models. pydantic does so itself when a model is used first.
"""

import importlib
from collections.abc import Callable
from typing import Any

import pydantic.main
from pydantic import BaseModel

_MODELS = "qdrant_client.http.models.models"


def _import() -> None:
    rebuild: Any = BaseModel.__dict__["model_rebuild"]
    of_class: Callable[..., bool | None] = rebuild.__func__

    def rebuild_others(cls: type[BaseModel], /, **options: Any) -> bool | None:
        return None if cls.__module__ == _MODELS else of_class(cls, **options)

    # Without this lock, threads that use a model first at the same time would fail.
    is_locked = hasattr(pydantic.main, "_rebuild_lock")
    if is_locked:
        BaseModel.model_rebuild = classmethod(rebuild_others)  # type: ignore[assignment, method-assign]
    try:
        importlib.import_module("qdrant_client")
    finally:
        if is_locked:
            BaseModel.model_rebuild = rebuild  # type: ignore[method-assign]


_import()
