"""One shard of a table, opened so that what is wrong with it is said with its name and its cure."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from ccray import storage
from ccray.config import IMPORTED
from ccray.interfaces import Failed
from ccray.storage import CAPTIONS, Root


@dataclass(frozen=True)
class Shard:
    """An open shard."""

    path: str
    source: pa.NativeFile
    file: pq.ParquetFile


def path(root: Root, directory: str, shard: int) -> str:
    """As the root's file system and people name it."""
    return root.path(f"{directory}/{storage.shard_name(shard)}")


@contextmanager
def opened(root: Root, directory: str, shard: int) -> Iterator[Shard]:
    """A sealed shard. What Arrow raises where it is read inside is told in its name.

    Raises:
        Failed: when it is missing, or cannot be read as Parquet.
    """
    place = path(root, directory, shard)
    try:
        with root.filesystem.open_input_file(place) as source, pq.ParquetFile(source, pre_buffer=True) as file:
            yield Shard(place, source, file)
    except FileNotFoundError:
        raise Failed(f"{place} is missing, but other tables of the same images have this shard: {cure(root, directory)}") from None
    except (OSError, pa.ArrowException, KeyError) as error:
        why = " ".join(str(error).split())[:200]
        raise Failed(f"{place} cannot be read, expected a whole Parquet file of ccray's ({why}): {cure(root, directory)}") from None


def columns(root: Root, directory: str, shard: int, names: list[str]) -> pa.Table:
    """Some columns of a shard, in one thread: readers work side by side. Raises as `opened`."""
    with opened(root, directory, shard) as one:
        return one.file.read(names, use_threads=False).select(names)


def cure(root: Root, directory: str) -> str:
    """What to do about a shard that is lost or torn."""
    kind = directory.partition("/")[0]
    imported = directory.startswith(f"{CAPTIONS}/{IMPORTED}")
    stage = "caption" if kind == CAPTIONS and not imported else "encode" if kind == "latents" else "catalog"
    return f"put the file back, or remove {root.path(directory)} and make it anew with `ccray {stage}`"
