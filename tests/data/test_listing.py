"""From listed pictures to rows: ids that are distinct, subsets that are nested."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccray import __main__
from ccray.config import CatalogConfig, ColumnMap
from ccray.data.listing import CHUNK, OPENERS, Seen, distinct, largest_drawn, mixed, open_source, shards
from ccray.data.sources.listed import Listed
from ccray.interfaces import Refused
from ccray.storage import Root
from tests.data.sources.listings import as_csv, listed


class Numbers:
    """A source of numbered rows, some of one id."""

    name = "numbers"
    base: Root | None = None
    image_column: str | None = None

    def __init__(self, ids: list[str]) -> None:
        self._ids = ids

    def listing(self) -> Iterator[Listed]:
        for id in self._ids:
            yield Listed(id, id, "scene:0/0")


def drawn(ids: list[str], limit: int | None) -> list[str]:
    config = CatalogConfig(limit=limit, rows_per_shard=100)
    return [row["source_ref"] for table in shards(Numbers(ids), config) for row in table.to_pylist()]


def test_smaller_limits_draw_subsets_whatever_the_order() -> None:
    ids = [f"p{number}" for number in range(3000)]
    hundred, thousand = set(drawn(ids, 100)), set(drawn(ids, 1000))
    assert (len(hundred), len(thousand)) == (100, 1000)
    assert hundred < thousand
    assert set(drawn(ids[::-1], 100)) == hundred
    assert set(drawn(ids + [f"q{number}" for number in range(3000)], 100)) & set(ids) <= hundred
    assert set(drawn(ids, 3000)) == set(drawn(ids, 5000)) == set(ids)
    assert drawn(ids, 1) == [min(ids, key=lambda id: mixed(next(iter(distinct(Numbers([id]))))[0]))]


def test_a_limit_keeps_the_source_order_and_spreads_over_it() -> None:
    ids = [f"p{number}" for number in range(4000)]
    tables = shards(Numbers(ids), CatalogConfig(limit=400, rows_per_shard=50))
    places = [{int(row["source_ref"][1:]) for row in table.to_pylist()} for table in tables]
    assert [len(place) for place in places] == [50] * 8
    assert all(max(first) < min(second) for first, second in itertools.pairwise(places))
    assert min(places[0]) < 100
    assert max(places[-1]) > 3900


def test_limits_beyond_one_chunk_are_exact() -> None:
    ids = [str(number) for number in range(3 * CHUNK)]
    source = Numbers(ids)
    order = sorted(mixed(row_id) for row_id, _ in distinct(source))
    for limit in (10, CHUNK, CHUNK + 1, 3 * CHUNK - 1):
        assert largest_drawn(source, limit) == order[limit - 1]
    assert largest_drawn(source, 3 * CHUNK) is None


def test_one_id_many_times_is_many_rows() -> None:
    ids = ["a", "b", "a", "a", *[f"n{number}" for number in range(CHUNK)], "b", "a"]
    rows = list(distinct(Numbers(ids)))
    assert len({row_id for row_id, _ in rows}) == len(ids)
    assert rows == list(distinct(Numbers(ids)))
    first = {listed.own_id: row_id for row_id, listed in reversed(rows)}
    assert first["b"] == {listed.own_id: row_id for row_id, listed in distinct(Numbers(["b"]))}["b"]
    assert len(drawn(ids, 7)) == 7
    assert len(drawn(["a"] * 500, 123)) == 123


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9), max_size=40), max_size=12))
def test_seen_is_a_set(chunks: list[list[int]]) -> None:
    seen, known = Seen(), set[int]()
    for chunk in chunks:
        answer = seen.add(np.array(chunk, np.int64))
        for id, told in zip(chunk, answer, strict=True):
            assert told == (id in known)
            known.add(id)


def test_several_files_in_any_order(tmp_path: Path) -> None:
    rows = [{"id": f"p{number}", "url": f"https://example.org/{number}.jpg", "license": "CC0-1.0"} for number in range(60)]
    for number in range(3):
        pq.write_table(pa.Table.from_pylist(rows[number::3]), tmp_path / f"{'cab'[number]}.parquet")
        as_csv(tmp_path / f"{'abc'[number]}.csv", rows[number::3])
    (tmp_path / "_SUCCESS").touch()
    parquet = {row["source_ref"] for row in listed(f"table:{tmp_path}/*.parquet", limit=20)}
    assert parquet == {row["source_ref"] for row in listed(f"table:{tmp_path}/*.csv", limit=20)}
    assert len(parquet) == 20
    assert len(listed(f"table:{tmp_path}")) == 120


def test_a_listing_is_the_same_again(tmp_path: Path) -> None:
    as_csv(tmp_path / "t.csv", [{"id": number % 7, "url": f"https://example.org/{number}", "license": "CC0-1.0"} for number in range(30)])
    assert listed(f"table:{tmp_path}/t.csv", limit=20) == listed(f"table:{tmp_path}/t.csv", limit=20)


@pytest.mark.parametrize("scheme", [scheme for scheme in OPENERS if scheme not in ("shapes", "folder")])
def test_every_door_refuses_what_is_not_there(scheme: str, tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path, f"{tmp_path}/*.zip"):
        with pytest.raises(Refused, match="is not there"):
            open_source(CatalogConfig(source=f"{scheme}:{place}"))
    with pytest.raises(Refused, match="expected a path, s3"):
        open_source(CatalogConfig(source=f"{scheme}:gs://bucket/x"))


def test_adapters_know_their_own_columns(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="which has its own"):
        open_source(CatalogConfig(source=f"flickr:{tmp_path}", columns=ColumnMap(id="x")))


def test_limit_on_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert __main__.main(["show", "--recipe", "tiny", "--limit", "12"]) == 0
    assert "limit: 12" in capsys.readouterr().out
    wrong: Any = ["show", "--recipe", "tiny", "--limit", "0"]
    assert __main__.main(wrong) == 2


def test_the_blocklist_has_a_short_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["show", "--recipe", "tiny", "--blocklist", "blocked.txt"]) == 0
    assert "  blocklist: blocked.txt\n" in capsys.readouterr().out


def test_embedded_images_are_listed_as_they_lie(tmp_path: Path) -> None:
    """Fetched in this order, each row group is read about once; in the order of their hashed ids it would be read for every batch."""
    table = pa.table({"id": [str(number) for number in range(300)], "image": pa.array([b"x"] * 300, pa.binary()), "license": ["CC0-1.0"] * 300})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    config = CatalogConfig(source=f"table:{tmp_path}/t.parquet", rows_per_shard=128)
    places = [int(row["source_ref"]) for part in shards(open_source(config), config) for row in part.to_pylist()]
    assert places == list(range(300))
