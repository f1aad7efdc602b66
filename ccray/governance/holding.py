"""Which outputs of a root still hold rows of images that were taken down, and what to do about each.

Only key columns are read, and of those only the row groups in which a key may be, so that `ccray status` answers at once.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ccray import storage
from ccray.schema import Reject, hex_key
from ccray.storage import Root

READERS = 16
FEW = 2000  # keys up to which row groups are chosen by their statistics
PURGE = "`ccray takedown ... --purge` takes them out"
AGAIN = "run `ccray publish` again"


@dataclass(frozen=True)
class Held:
    """One output and how many rows of it were taken down."""

    place: str  # directory or file under the root
    rows: int
    what: str  # what is held
    cure: str
    times: int | None = None  # of a checkpoint: how often it saw them

    def line(self) -> str:
        times = "" if self.times is None else f", {self.times:,} times in all"
        return f"{self.place}: {self.rows:,} taken-down {self.what}{times}; {self.cure}"


def held(root: Root, keys: frozenset[int], row_ids: frozenset[int] = frozenset()) -> list[Held]:
    """Everything under a root that holds images of `keys`, or names rows of `row_ids` as copies of others, in the corridor's order."""
    wanted, rows = (pa.array(sorted(ids), pa.int64()) for ids in (keys, row_ids))
    found = [*_tables(root, wanted), *_checkpoints(root, wanted), *_evaluation(root, wanted), *_published(root, wanted)] if keys else []
    found += _named_as_copies(root, rows) if row_ids else []
    return [one for one in found if one.rows]


def _named_as_copies(root: Root, row_ids: pa.Array) -> Iterator[Held]:
    what = "rows are named as copies of other images"
    shards = [f"catalog/{storage.shard_name(shard)}" for shard in storage.sealed_shards(root, "catalog")]
    with ThreadPoolExecutor(READERS) as pool:
        counts = pool.map(lambda path: copies_in(root, path, row_ids), shards)
        yield Held("catalog", sum(counts), what, f"publish leaves them out; {PURGE}")
    for place, paths in (("published/model", ["published/model/attribution.parquet"]), ("published/dataset", dataset_tables(root))):
        yield Held(place, sum(copies_in(root, path, row_ids) for path in paths if root.exists(path)), what, AGAIN)


def copies_in(root: Root, path: str, row_ids: pa.Array) -> int:
    """Rows of `row_ids` (int64) among the `copies` that a Parquet file names; 0 when it names none."""
    with pq.ParquetFile(root.path(path), filesystem=root.filesystem) as file:
        if not len(row_ids) or "copies" not in file.schema_arrow.names:
            return 0
        column = file.read(columns=["copies.list.element.row_id"])["copies"]
    named = pc.struct_field(pc.list_flatten(column), "row_id")
    return pc.sum(pc.is_in(named, row_ids)).as_py() or 0


def _tables(root: Root, wanted: pa.Array) -> Iterator[Held]:
    not_purged = pc.is_null(pc.field("reason")) | (pc.field("reason") != str(Reject.TAKEN_DOWN))
    yield Held("images", _count(root, "images", wanted, not_purged), "images", f"no stage opens them; {PURGE}")
    yield Held("catalog", _count(root, "catalog", wanted), "rows", f"every reader leaves them out; {PURGE}")
    cure = f"training leaves them out; {PURGE}"
    texts = pc.is_valid(pc.field("caption"))  # flagged ones too
    for place in [f"{storage.CAPTIONS}/{table}" for table in storage.caption_tables(root)]:
        yield Held(place, _count(root, place, wanted, texts), "captions", cure)
    for place in [f"latents/{name}" for name in root.names("latents")]:
        yield Held(place, _count(root, place, wanted, pc.field("status") == "ok"), "latents", cure)


def _count(root: Root, directory: str, wanted: pa.Array, condition: pc.Expression | None = None) -> int:
    def rows(shard: int) -> int:
        return keys_in(root, f"{directory}/{storage.shard_name(shard)}", wanted, ["key"], condition).num_rows

    with ThreadPoolExecutor(READERS) as pool:
        return sum(pool.map(rows, storage.sealed_shards(root, directory)))


def keys_in(root: Root, path: str, wanted: pa.Array, columns: list[str], condition: pc.Expression | None = None) -> pa.Table:
    """Rows of a Parquet file whose key (int64) is among `wanted`, ascending."""
    reach = pc.field("key").isin(wanted)
    if len(wanted) > FEW:
        reach = (pc.field("key") >= wanted[0]) & (pc.field("key") <= wanted[-1]) & reach
    return root.read_table(path, columns=columns, filters=reach if condition is None else reach & condition)


def checkpoints(root: Root) -> list[str]:
    """Every retained record of what a model saw: the steps of each run, and what a finished run left, as paths of seen.parquet."""
    return [path for path in root.files("checkpoints") if path.endswith("/seen.parquet") and "/.staging/" not in path]


def _checkpoints(root: Root, wanted: pa.Array) -> Iterator[Held]:
    for path in checkpoints(root):
        seen = keys_in(root, path, wanted, ["key", "times"])
        cure = "weights cannot forget them: they stay named in its attribution; train anew without them to be rid of them"
        yield Held(path.removesuffix("/seen.parquet"), seen.num_rows, "images were seen", cure, pc.sum(seen["times"]).as_py() or 0)


def evaluated(root: Root, wanted: pa.Array) -> int:
    """Prompts of an evaluation that are captions of such images: their ids are keys."""
    names = pa.array([hex_key(key) for key in wanted.to_pylist()], pa.string())
    shards = storage.sealed_shards(root, "evaluation/prompts")
    tables = [root.read_table(f"evaluation/prompts/{storage.shard_name(shard)}", columns=["id"]) for shard in shards]
    return sum(table.filter(pc.is_in(table["id"], names)).num_rows for table in tables)


def _evaluation(root: Root, wanted: pa.Array) -> Iterator[Held]:
    cure = f"{PURGE} with the whole evaluation; then `ccray evaluate` draws anew"
    yield Held("evaluation", evaluated(root, wanted), "captions are prompts", cure)


def _published(root: Root, wanted: pa.Array) -> Iterator[Held]:
    names = pa.array([hex_key(key) for key in wanted.to_pylist()], pa.string())
    path = "published/model/attribution.parquet"
    if root.exists(path):
        rows = root.read_table(path, columns=["key", "taken_down"])
        unsaid = rows.filter(pc.and_(pc.is_in(rows["key"], names), pc.invert(pc.fill_null(rows["taken_down"], False))))
        yield Held("published/model", unsaid.num_rows, "images are listed as if they were not", f"{AGAIN}: the model saw them, and they stay listed")
    rows = {path: rows_in(root, path, wanted) for path in dataset_tables(root)}
    data = sum(count for path, count in rows.items() if "/data/" in path)
    yield Held("published/dataset", data or sum(rows.values()), "rows", AGAIN)  # the list of credits has the same images once more


def dataset_tables(root: Root) -> list[str]:
    """Parquet files of the published dataset."""
    return [path for path in root.files("published/dataset") if path.endswith(".parquet")]


def rows_in(root: Root, path: str, wanted: pa.Array) -> int:
    """Rows of a published table whose key, int64 or 16 hex digits, is among `wanted`."""
    with pq.ParquetFile(root.path(path), filesystem=root.filesystem) as file:
        if "key" not in file.schema_arrow.names:
            return 0
        column = file.read(columns=["key"])["key"]
    names = pa.array([hex_key(key) for key in wanted.to_pylist()], pa.string())
    return pc.sum(pc.is_in(column, wanted if pa.types.is_integer(column.type) else names)).as_py() or 0
