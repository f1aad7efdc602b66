"""From the lines of a list to the rows and images of a root that they name.

A row is listed once and may be fetched (then it has a key), rejected, or in the catalog; all are looked through, so that a copy which was rejected
as a duplicate still leads to the image that was kept.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ccray import storage
from ccray.schema import Reject, hex_key
from ccray.storage import Root
from ccray.takedowns import CREATOR_COLUMNS, CREATOR_URL, URL_COLUMNS, Line, plain_urls

READERS = 16  # shards looked through at the same time
LISTING, IMAGES, CATALOG, REJECTS = "listing", "images", "catalog", "rejects"
_TEXT = pa.string()
_TEXTS = ("source_ref", *URL_COLUMNS, *CREATOR_COLUMNS, CREATOR_URL)


@dataclass
class Match:
    """What one line names."""

    line: Line
    keys: set[int] = field(default_factory=set)
    rows: set[int] = field(default_factory=set)  # `row_id`


@dataclass(frozen=True)
class Copy:
    """An image that is nearly one that was taken down, and so perhaps meant as well."""

    key: int  # of the image that was taken down
    text: str


def find(root: Root, lines: Sequence[Line]) -> list[Match]:
    """What each line names in a root, in the order of the lines. Looks at one shard at a time, several side by side."""
    matches = [Match(line) for line in lines]
    tests = _tests(lines)
    for one in matches:  # a digest names its image whether it is here or not
        if one.line.selector in ("key", "sha256"):
            one.keys.add(_key(one.line.value))
    shards = sorted({shard for directory in (LISTING, CATALOG) for shard in storage.sealed_shards(root, directory)})
    with ThreadPoolExecutor(READERS) as pool:
        for found in pool.map(lambda shard: _in_shard(root, shard, tests), shards):
            for number, row, key in found:
                matches[number].rows |= set() if row is None else {row}
                matches[number].keys |= set() if key is None else {key}
    return matches


@dataclass(frozen=True)
class _Test:
    """What to look for in some columns."""

    columns: tuple[str, ...]
    values: pa.Array  # each once
    lines: list[list[int]]  # for each value, the lines that ask for it
    plain: Callable[[Any], Any] | None = None  # how a column is made comparable


def _tests(lines: Sequence[Line]) -> list[_Test]:
    def test(selector: str, columns: tuple[str, ...], kind: pa.DataType = _TEXT, plain: Callable[[Any], Any] | None = None) -> _Test:
        chosen = [(number, one.value) for number, one in enumerate(lines) if one.selector == selector]
        values: list[Any] = [value for _, value in chosen]
        if selector == "key":
            values = [_key(value) for value in values]
        values = plain(pa.array(values, _TEXT)).to_pylist() if plain else values
        asked: dict[Any, list[int]] = defaultdict(list)
        for (number, _), value in zip(chosen, values, strict=True):
            asked[value].append(number)
        return _Test(columns, pa.array([*asked], kind), [*asked.values()], plain)

    tests = [
        test("key", ("key",), pa.int64()),
        test("sha256", ("sha256",)),
        test("url", URL_COLUMNS, plain=plain_urls),
        test("creator", CREATOR_COLUMNS),
        test("creator", (CREATOR_URL,), plain=plain_urls),
    ]
    return [one for one in tests if len(one.values)]


def _key(digits: str) -> int:
    return int.from_bytes(bytes.fromhex(digits[:16]), "big", signed=True)


def _in_shard(root: Root, shard: int, tests: list[_Test]) -> set[tuple[int, int, int | None]]:
    """(number of the line, row_id, key) of all that matches in one shard."""
    table = rows_of(root, shard)
    found: set[tuple[int, int, int | None]] = set()
    for test in tests:
        for name in test.columns:
            places = pc.index_in(test.plain(table[name]) if test.plain else table[name], test.values)
            hits = table.select(["row_id", "key"]).append_column("place", places).filter(pc.is_valid(places))
            for place, row, key in zip(*(hits[column].to_pylist() for column in ("place", "row_id", "key")), strict=True):
                found |= {(number, row, key) for number in test.lines[place]}
    return found


def rows_of(root: Root, shard: int) -> pa.Table:
    """Every row of one shard that is known, listed or in the catalog: row_id, key, sha256, source_ref, addresses and creators."""
    columns = ["row_id", *_TEXTS]
    path = f"{LISTING}/{storage.shard_name(shard)}"
    if not root.exists(path):
        return root.read_table(f"{CATALOG}/{storage.shard_name(shard)}", columns=[*columns, "key", "sha256"])
    listing = root.read_table(path, columns=columns)
    parts = [root.read_table(one, columns=["row_id", "key", "sha256"]) for one in image_files(root, shard)]
    none = pa.schema([("row_id", pa.int64()), ("key", pa.int64()), ("sha256", pa.string())]).empty_table()
    images = pa.concat_tables([none, *(part.cast(none.schema) for part in parts)]).sort_by("row_id")
    ids = images["row_id"].to_numpy()
    images = images.filter(pa.array(np.concatenate([[True], ids[1:] != ids[:-1]])[: len(ids)], pa.bool_()))
    places = pc.index_in(listing["row_id"], images["row_id"].combine_chunks())
    for name in ("key", "sha256"):
        listing = listing.append_column(name, images[name].take(places))
    return listing


def image_files(root: Root, shard: int) -> list[str]:
    """Where the images of a shard lie: the sealed file, or what is staged of it."""
    sealed = f"{IMAGES}/{storage.shard_name(shard)}"
    if root.exists(sealed):
        return [sealed]
    parts = [path for path in root.files("catalog/.staging") if f"/{IMAGES}/rows/shard={shard}/" in path and path.endswith(".parquet")]
    return [path for path in parts if is_whole(root, path)]


def is_whole(root: Root, path: str) -> bool:
    """Whether a Parquet file can be read: a kill leaves some cut short."""
    try:
        with pq.ParquetFile(root.path(path), filesystem=root.filesystem):
            return True
    except (pa.ArrowException, OSError):
        return False


def copies(root: Root, keys: frozenset[int]) -> list[Copy]:
    """What is known of other files of the same pictures: the `copies` of catalog rows, and near duplicates that were rejected for an image that stays.

    They are not taken down with it: they are other files, perhaps of others. Rows of the very bytes are taken down, and not told here.
    """
    wanted = pa.array(sorted(keys), pa.int64())
    twins = {row_id for table in _tables(root, REJECTS, ["key", "row_id"]) for row_id in _of(table, wanted)["row_id"].to_pylist()}
    found: dict[int, list[Copy]] = defaultdict(list)
    for table in _tables(root, CATALOG, ["key", "copies"]):
        for row in table.filter(pc.and_(pc.is_in(table["key"], wanted), pc.is_valid(table["copies"]))).to_pylist():
            found[row["key"]] += [Copy(row["key"], _named(copy)) for copy in row["copies"] if copy["row_id"] not in twins]
    for table in _tables(root, REJECTS, ["key", "source", "source_ref", "source_url", "reason", "detail"]):
        near = table.filter(pc.and_(pc.is_in(table["key"], wanted), pc.equal(table["reason"], Reject.DUPLICATE_NEAR)))
        for row in near.to_pylist():
            found[row["key"]].append(Copy(row["key"], f"{row['detail']} (kept in place of {row['source']} {row['source_ref']})"))
    return [copy for key in sorted(found) for copy in found[key]]


def _of(table: pa.Table, keys: pa.Array) -> pa.Table:
    return table.filter(pc.is_in(table["key"], keys))


def _named(copy: dict[str, Any]) -> str:
    distance = f"{copy['bits']} bits apart" if copy["bits"] else "perceptual hashes alike"
    names = [copy["source"], copy["source_ref"], copy["source_url"], copy["creator"]]
    return f"{' '.join(str(name) for name in names if name)} ({distance})"


def _tables(root: Root, directory: str, columns: list[str]) -> Iterator[pa.Table]:
    for shard in storage.sealed_shards(root, directory):
        yield root.read_table(f"{directory}/{storage.shard_name(shard)}", columns=columns)


def shown(keys: set[int], most: int = 8) -> str:
    """Keys as people read them."""
    listed = sorted(hex_key(key) for key in keys)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most:,} more" if len(listed) > most else "")
