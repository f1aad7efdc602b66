"""What training draws, by the words of the documentation and in plain Python numbers, one row at a time: to compare with what the loader draws."""

from fractions import Fraction

from ccray import storage
from ccray.storage import Root

BITS = 2**64
Said = dict[str, dict[int, str]]  # table -> key -> the caption that may be trained on


def said(root: Root, tables: list[str], statuses: tuple[str, ...] = ("ok",)) -> Said:
    """All captions of some tables that may be trained on."""
    found: Said = {}
    for table in tables:
        shards = [root.read_table(f"{table}/{storage.shard_name(shard)}").to_pylist() for shard in storage.sealed_shards(root, table)]
        rows = [row for shard in shards for row in shard if row["status"].split(":")[0] in statuses and (row["caption"] or "").strip()]
        found[table] = {row["key"]: row["caption"] for row in rows}
    return found


def table_of(captions: Said, weights: dict[str, float], seed: int, epoch: int, key: int) -> str:
    """The table whose caption of an image is drawn in an epoch."""
    tables = [table for table in sorted(captions) if key in captions[table]]
    mark = uniform(seed, epoch, key) * sum(Fraction(weights[table]) for table in tables)
    for table in tables:
        mark -= Fraction(weights[table])
        if mark < 0:
            return table
    raise AssertionError("a number below 1 lies below the sum of all weights")


def uniform(seed: int, epoch: int, key: int) -> Fraction:
    state = splitmix(key % BITS)
    for word in (seed, epoch):
        state = splitmix(state ^ word)
    return Fraction(state >> 11, 2**53)


def splitmix(state: int) -> int:
    """One step of SplitMix64, as in Vigna's reference."""
    state = (state + 0x9E3779B97F4A7C15) % BITS
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % BITS
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % BITS
    return state ^ (state >> 31)
