"""Sealed shards: whole, sorted, without doubles."""

from collections.abc import Sequence

import pyarrow as pa

from ccray.interfaces import Failed
from ccray.storage.root import Root


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}.parquet"


def sealed_shards(root: Root, directory: str) -> list[int]:
    """Numbers of the shards whose sealed file exists, ascending."""
    names = root.names(directory)
    return [int(name[6:-8]) for name in names if name.startswith("shard-") and name.endswith(".parquet")]


def seal(
    root: Root,
    directory: str,
    shard: int,
    table: pa.Table,
    schema: pa.Schema,
    id_column: str,
    row_group_rows: int = 4096,
    order: Sequence[str] = (),
) -> int:
    """Drop doubles by id, sort by id (or by `order`, nulls last), cast to the door's schema and write a shard in one atomic step; the number of rows."""
    table = table.select(schema.names).cast(schema).sort_by(id_column)
    ids = table.column(id_column).to_numpy()
    if len(ids) > 1:
        keep = [True, *(ids[1:] != ids[:-1])]
        table = table.filter(pa.array(keep))
    if order:
        table = table.sort_by([(name, "ascending") for name in order])
    root.write_table(f"{directory}/{shard_name(shard)}", table.combine_chunks(), row_group_rows)
    return table.num_rows


def check_rows(what: str, rows_in: int, rows_out: int, cure: str) -> None:
    """Raises:
    Failed: when a stage did not seal as many rows as it read.
    """
    if rows_in != rows_out:
        raise Failed(f"{what}: {rows_in} rows in, but {rows_out} rows sealed: {cure}")
