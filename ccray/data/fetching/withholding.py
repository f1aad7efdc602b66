"""Listed rows that were taken down are not fetched at all."""

from collections.abc import Callable

import numpy as np

from ccray import schema
from ccray.interfaces import Batch, Worker
from ccray.schema import Reject


class FetchOthers:
    """A fetching worker (listed rows -> rows of `schema.IMAGES`) that is never shown the rows that were taken down."""

    def __init__(self, taken_down: frozenset[int], worker: Callable[..., Worker], *arguments: object) -> None:
        """`taken_down` holds each `row_id` that is withheld; the worker is built as `worker(*arguments)`."""
        self._taken_down = np.fromiter(taken_down, np.int64, len(taken_down))
        self._worker = worker(*arguments)

    def __call__(self, batch: Batch) -> Batch:
        gone = np.isin(batch["row_id"], self._taken_down)
        if not gone.any():
            return self._worker(batch)
        fetched = self._worker({name: column[~gone] for name, column in batch.items()}) if not gone.all() else {}
        answer = {name: np.full(len(gone), None, dtype=object) for name in schema.IMAGES.names}
        for name, column in fetched.items():
            answer[name][~gone] = column
        answer["reason"][gone] = str(Reject.TAKEN_DOWN)
        answer["detail"][gone] = "taken down before it was fetched"
        return answer | {"row_id": batch["row_id"], "shard": batch["shard"]}
