"""The write stage as a Ray Data sink."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from ray.data import Datasink
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import WriteResult

from viewfinder.cluster.metrics import metrics_of
from viewfinder.indexing.accounting import Tally
from viewfinder.indexing.connections import store_at
from viewfinder.indexing.write import write_rows
from viewfinder.store import Collection, StoreAddress


class WriteTask(Protocol):
    """What Ray Data tells a write task; a task that runs again has the same number."""

    task_idx: int


class QdrantDatasink(Datasink[Tally]):
    """Writes blocks of `viewfinder.indexing.rows` to one collection; afterwards `total` is the tally of all blocks.

    `decided_by` and `machines` as in `viewfinder.indexing.write`. `written` is an optional
    `viewfinder.cluster.progress.WrittenRows` actor.
    """

    def __init__(
        self,
        address: StoreAddress,
        collection: Collection,
        *,
        run_id: str,
        batch_size: int,
        decided_by: Mapping[str, str] = MappingProxyType({}),
        machines: int = 1,
        written: Any = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self._address = address
        self._collection = collection
        self._run_id = run_id
        self._batch_size = batch_size
        self._decided_by = dict(decided_by)
        self._machines = machines
        self._written = written
        self.total = Tally()

    def write(self, blocks: Iterable[Block], ctx: WriteTask) -> Tally:
        store = store_at(self._address)
        total = Tally()
        for block in blocks:
            table = BlockAccessor.for_block(block).to_arrow()
            tally = write_rows(
                store,
                self._collection,
                table,
                run_id=self._run_id,
                batch_size=self._batch_size,
                decided_by=self._decided_by,
                machines=self._machines,
            )
            metrics_of(self._collection.index).add_block(tally, table)
            total += tally
            if self._written is not None:
                self._written.record.remote(ctx.task_idx, total.outcomes)
        return total

    def on_write_complete(self, write_result: WriteResult[Tally]) -> None:
        # Ray Data passes one result per task, even if the task ran more than once.
        self.total = sum(write_result.write_returns, Tally())

    @property
    def min_rows_per_write(self) -> int | None:
        return self._batch_size
