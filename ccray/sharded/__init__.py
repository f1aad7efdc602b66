"""One way to map a table over a cluster, shard by shard, so that any kill costs at most the blocks in flight.

Ray Data reads the sealed files of one stage, carries their rows through workers and appends what comes out to
`<directory>/.staging/<fingerprint>/rows/shard=N/` under a row checkpoint. A *seal* per shard then merges, drops doubles, sorts, casts
to the door's schema and writes `shard-000NN.parquet` in one atomic step. A shard is done when its sealed file exists:

    sealed files -> [unsealed shards only] -> blocks of rows_per_block -> workers -> staging + checkpoint -> seal -> sealed files

A map may make several tables of the same rows (latents of several sizes): rows then wait with the columns of them all, and a seal parts them.

    mapping.py      what is to be done, and the seals            pipeline.py   Ray Data while it runs
    working.py      a worker inside its actor or task            journal.py    rows that end their process are found and given up
    engines.py      vLLM as a step
    connecting.py   to a cluster, or one of this machine's own   progress.py   how far the rows have come, and what the rest will cost

Beside the map, what training asks of Ray:

    ranks.py        the group of ranks, fewer of them where a machine is lost, and its notices
    texts.py        the text encoder on machines of its own      streaming.py  pictures encoded while training goes on
"""

from ccray.sharded.connecting import connect, refuse_unshared_root
from ccray.sharded.mapping import Door, map_shards
from ccray.sharded.pipeline import TASK_MEMORY_BYTES, Step, Through, device_of, threads_of
from ccray.sharded.progress import say, told_meanwhile
from ccray.sharded.working import reason_of

__all__ = [
    "TASK_MEMORY_BYTES",
    "Door",
    "Step",
    "Through",
    "connect",
    "device_of",
    "map_shards",
    "reason_of",
    "refuse_unshared_root",
    "say",
    "threads_of",
    "told_meanwhile",
]
