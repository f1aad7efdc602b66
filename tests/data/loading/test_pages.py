"""Lists read from the pages themselves are Arrow's, and what is not plainly written is left to Arrow."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccray.data.loading.pages import equal_lists

PLAIN: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}


def written(lists: list[np.ndarray | None], nullable: bool = True, **how: Any) -> bytes:
    """A file with a column of these lists between two others."""
    kind = pa.list_(pa.field("element", pa.float16(), nullable=nullable))
    table = pa.table({"key": np.arange(len(lists)), "list": pa.array(lists, kind), "status": pa.array(["ok"] * len(lists))})
    sink = io.BytesIO()
    pq.write_table(table, sink, **(PLAIN | how))
    return sink.getvalue()


def read(data: bytes, width: int) -> list[np.ndarray | None]:
    """Of each row group, what is read from its pages."""
    source = pa.BufferReader(data)
    file = pq.ParquetFile(source)
    return [equal_lists(source, file, group, "list", width) for group in range(file.num_row_groups)]


def numbers(rows: int, width: int) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, width)).astype(np.float16)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 90),
    eighths=st.integers(1, 80),
    nullable=st.booleans(),
    group=st.integers(1, 100),
    page_bytes=st.sampled_from([64, 1000, 2**20]),
)
def test_equal_lists_are_arrows(rows: int, eighths: int, nullable: bool, group: int, page_bytes: int) -> None:
    """Also where a list goes over the end of a page; a page whose levels are packed otherwise may be left to Arrow, but never be read wrongly."""
    values = numbers(rows, 8 * eighths)
    found = read(written(list(values), nullable, row_group_size=group, data_page_size=page_bytes), 8 * eighths)
    for number, one in enumerate(found):
        assert one is not None or page_bytes == 64
        assert one is None or np.array_equal(one, values[number * group : (number + 1) * group])


@pytest.mark.parametrize("shape", [(256, 4096), (1, 256), (97, 64)])
@pytest.mark.parametrize("nullable", [True, False])
def test_latents_as_they_are_written_are_read_so(shape: tuple[int, int], nullable: bool) -> None:
    values = numbers(*shape)
    (found,) = read(written(list(values), nullable), shape[1])
    assert found is not None
    assert found.tobytes() == values.tobytes()


def lists(*lengths: int | None) -> list[np.ndarray | None]:
    return [None if length is None else np.ones(length, np.float16) for length in lengths]


@pytest.mark.parametrize(
    "lengths",
    [(16, None, 16), (None, 32), (16, 0, 16), (15, 17), (8, 24), (24, 8, 16), (32,), (1,) * 32],
    ids=str,
)
def test_lists_of_other_lengths_are_left_to_arrow(lengths: tuple[int | None, ...]) -> None:
    """Most of them have as many numbers as lists of 16 would."""
    assert read(written(lists(*lengths)), 16) == [None]


def test_a_number_that_is_null_is_left_to_arrow() -> None:
    table = [[1.0] * 16, [None] + [1.0] * 15]
    sink = io.BytesIO()
    pq.write_table(pa.table({"list": pa.array(table, pa.list_(pa.float16()))}), sink, **PLAIN)
    assert read(sink.getvalue(), 16) == [None]


@pytest.mark.parametrize(
    "how",
    [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"data_page_version": "2.0"},
        {"write_page_checksum": True},
        {"use_dictionary": False, "column_encoding": {"list.list.element": "BYTE_STREAM_SPLIT"}},
    ],
    ids=str,
)
def test_files_that_are_written_otherwise_are_left_to_arrow(how: dict[str, Any]) -> None:
    assert read(written(list(numbers(9, 16)), **how), 16) == [None]


def test_a_column_of_another_kind_is_left_to_arrow() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"list": pa.array([[1] * 16, [2] * 16], pa.list_(pa.int16()))}), sink, **PLAIN)
    assert read(sink.getvalue(), 16) == [None]


def test_changed_levels_are_never_read_as_lists() -> None:
    """Any bit of header or levels turned over: left to Arrow, or the very same lists."""
    values = numbers(6, 16)
    data = written(list(values))
    with pq.ParquetFile(io.BytesIO(data)) as file:
        chunk = file.metadata.row_group(0).column(1)
    begin, end = chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size - values.nbytes
    refused = 0
    for bit in range(8 * begin, 8 * end):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        (found,) = read(bytes(changed), 16)
        assert found is None or np.array_equal(found, values)
        refused += found is None
    assert refused > 8 * (end - begin) // 2
