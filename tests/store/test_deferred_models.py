"""Models of qdrant-client are built when they are used first, by whichever thread."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import gc, inspect, threading
import viewfinder.store
import pydantic
from qdrant_client import models
from qdrant_client.http.models import models as defined

classes = [
    each for _, each in inspect.getmembers(defined, inspect.isclass)
    if issubclass(each, pydantic.BaseModel) and each.__module__ == defined.__name__
]
before = [each.__pydantic_complete__ for each in classes]
print(len(classes), sum(before), hasattr(pydantic.main, "_rebuild_lock"))

def use_beside_a_name():
    Match = int
    return models.FieldCondition(key="a", match=models.MatchValue(value=1)).match.value

print(use_beside_a_name())

class Own(pydantic.BaseModel):
    other: "Other"

class Other(pydantic.BaseModel):
    number: int

print(Own.model_rebuild(), Own(other={"number": 1}).other.number)

failed, start = [], threading.Barrier(16)

def use():
    start.wait()
    for each in classes:
        try:
            each.model_validate(None)
        except pydantic.ValidationError:
            pass
        except Exception as error:
            failed.append(f"{each}: {error!r}")

threads = [threading.Thread(target=use) for _ in range(16)]
for each in threads:
    each.start()
for each in threads:
    each.join()
print(failed, all(each.__pydantic_complete__ for each in classes))

point = models.PointStruct(id=1, vector={"image": [1.0]}, payload={"a": 1})
condition = models.Filter(must=[models.FieldCondition(key="a", match=models.MatchValue(value=1))])
print(models.UpdateResult.model_validate({"status": "completed"}).status, point.vector, condition.must[0].match.value)

class Derived(models.PointStruct):
    more: int = 2

derived = Derived(id=1, vector=[1.0])
print(gc.isenabled(), pydantic.BaseModel.model_config, "defer_build" in Own.model_config, derived.more, derived.id)
"""


def test_models_are_built_when_they_are_used_first() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    counts, beside, own, threads, used, after = ended.stdout.splitlines()
    classes, built, has_lock = counts.split()
    assert int(classes) > 200
    assert (int(built) < int(classes) / 2) == (has_lock == "True")  # without the lock all are built at once
    assert beside == "1"
    assert own == "True 1"
    assert threads == "[] True"
    assert used == "completed {'image': [1.0]} 1"
    assert after == "True {} False 2 1"
