"""Lists of equal length straight from the pages of a Parquet column, where nothing needs to be decoded.

Arrow puts a column of lists together from two levels for every number, which takes several times as long as copying the numbers. Where a column is
neither compressed nor coded by a dictionary, as `encode` writes latents, the numbers of a page lie one after another behind its levels; and the levels
are coded by runs, a few bytes a row, which is enough to see that every row has a list of the same length. Whatever is otherwise is left to Arrow.

Format: Apache Parquet, `PageHeader` in Thrift's compact protocol, data pages of version 1, hybrid of runs and packed bits.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

VARINT = rb"([\x80-\xff]*[\x00-\x7f])"
# type, size, compressed size; data page: numbers, encodings of numbers and of both levels. With a checksum, or statistics that say something, it looks otherwise.
HEADER = re.compile(rb"\x15%b\x15%b\x15%b\x2c\x15%b\x15%b\x15%b\x15%b(?:\x1c\x00)?\x00\x00" % ((VARINT,) * 7), re.DOTALL)
DATA_PAGE, PLAIN, RLE = 0, 0, 3
HALF = np.dtype("<f2")


def equal_lists(source: pa.NativeFile, file: pq.ParquetFile, group: int, name: str, width: int) -> np.ndarray | None:
    """A column of lists of float16 in one row group.

    Args:
        source: the file's bytes.
        file: the same, opened.
        group: number of the row group.
        name: of the column.
        width: numbers in each list.

    Returns:
        float16 [rows width], or None where some row has another list or none, or the column is not written plainly.
    """
    rows = file.metadata.row_group(group)
    number = next(place for place in range(rows.num_columns) if rows.column(place).path_in_schema.partition(".")[0] == name)
    chunk, levels = rows.column(number), file.schema.column(number)
    kind = file.schema_arrow.field(name).type
    plain = chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page and levels.max_repetition_level == 1
    if not plain or not pa.types.is_list(kind) or kind.value_type != pa.float16() or width % 8 or chunk.num_values != rows.num_rows * width:
        return None
    source.seek(chunk.data_page_offset)
    data = memoryview(source.read_buffer(chunk.total_compressed_size))
    parts = _numbers(data, width, levels.max_definition_level)
    if parts is None or sum(map(len, parts)) != chunk.num_values:
        return None
    return (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(-1, width)


def _numbers(data: memoryview, width: int, full: int) -> list[np.ndarray] | None:
    """The numbers of each page of a column chunk; `full` is the definition level of a number that is there."""
    parts: list[np.ndarray] = []
    place = count = 0
    while place < len(data):
        header = HEADER.match(data, place)
        if header is None:
            return None
        page, size, stored, numbers, *coded = (_zigzag(word) for word in header.groups())
        body = data[header.end() : header.end() + stored]
        if (page, *coded) != (DATA_PAGE, PLAIN, RLE, RLE) or size != stored or len(body) != stored:
            return None
        first, second, values = _split(body)
        if len(values) != HALF.itemsize * numbers or not _starts(first, count, numbers, width) or not _all(second, numbers, full):
            return None
        parts.append(np.frombuffer(values, HALF))
        place, count = header.end() + stored, count + numbers
    return parts


def _split(body: memoryview) -> tuple[bytes, bytes, memoryview]:
    """Repetition levels, definition levels, numbers."""
    found = []
    for _ in range(2):
        end = 4 + int.from_bytes(body[:4], "little")
        found.append(bytes(body[4:end]))
        body = body[end:]
    return found[0], found[1], body


def _starts(levels: bytes, before: int, count: int, width: int) -> bool:
    """Whether `count` repetition levels, after `before` others, say that a list begins at every `width`-th number and nowhere else."""
    place, number = 0, before
    while number < before + count and place < len(levels):
        run, place = _varint(levels, place)
        if run & 1:  # groups of eight bits
            groups = levels[place : place + (run >> 1)]
            if number % 8 or any(bits != (0xFF if (number + 8 * at) % width else 0xFE) for at, bits in enumerate(groups)):
                return False
            place, number = place + (run >> 1), number + 8 * len(groups)
        else:  # of one level
            inside = number % width
            if levels[place : place + 1] != b"\x01" or not inside or inside + (run >> 1) > width:
                return False
            place, number = place + 1, number + (run >> 1)
    return number == before + count and place == len(levels)


def _all(levels: bytes, count: int, full: int) -> bool:
    """Whether all of `count` definition levels are the highest, in runs of no other."""
    place = number = 0
    while place < len(levels):
        run, place = _varint(levels, place)
        if run & 1 or levels[place : place + 1] != bytes([full]):
            return False
        place, number = place + 1, number + (run >> 1)
    return number == count


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place behind it."""
    value = shift = 0
    while place < len(data):
        value |= (data[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if data[place - 1] < 0x80:
            break
    return value, place


def _zigzag(word: bytes) -> int:
    value, _ = _varint(word, 0)
    return value >> 1 ^ -(value & 1)
