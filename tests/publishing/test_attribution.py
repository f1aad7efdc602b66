"""Whom a checkpoint names: also for images that were taken down since, and for those that were purged."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ccray.governance import takedown
from ccray.interfaces import Failed
from ccray.publishing import attribution
from ccray.schema import ATTRIBUTION, SEEN, hex_key
from ccray.storage import Root
from ccray.takedowns import parse_list
from tests.governance import governed
from tests.governance.governed import RUN, key

GONE = (0, 2, 3, 13)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(str(tmp_path / "root"))
    governed.write(root)
    return root


def written(root: Root, target: Path) -> tuple[attribution.Mix, dict[str, dict[str, object]]]:
    seen = root.read_table(f"{RUN}/seen.parquet")
    mix = attribution.write(root, "catalog", seen, target)
    table = pq.read_table(target)
    assert table.schema == ATTRIBUTION
    assert table.num_rows == seen.num_rows == 23
    return mix, {row["key"]: row for row in table.to_pylist()}


def test_what_was_taken_down_stays_listed_and_says_so(root: Root, tmp_path: Path) -> None:
    before, _ = written(root, tmp_path / "a.parquet")
    assert before.taken_down == 0
    takedown.run(root, parse_list("".join(f"key:{hex_key(key(number))}\n" for number in GONE)), None, False, lambda _: None)
    mix, rows = written(root, tmp_path / "b.parquet")
    assert {one for one, row in rows.items() if row["taken_down"]} == {hex_key(key(number)) for number in GONE}
    assert (mix.images, mix.times_seen, mix.taken_down) == (23, 46, 4)


def test_after_a_purge_they_are_named_from_what_is_left(root: Root, tmp_path: Path) -> None:
    _, before = written(root, tmp_path / "a.parquet")
    takedown.run(root, parse_list("".join(f"key:{hex_key(key(number))}\n" for number in GONE)), None, True, lambda _: None)
    mix, rows = written(root, tmp_path / "b.parquet")
    assert (mix.images, mix.times_seen, mix.taken_down) == (23, 46, 4)
    assert [(one.license, one.images) for one in mix.licenses] == [("CC-BY-4.0", 23)]
    assert rows == {name: row | {"taken_down": name in {hex_key(key(number)) for number in GONE}} for name, row in before.items()}


def test_a_purged_image_is_named_without_its_listing(root: Root, tmp_path: Path) -> None:
    takedown.run(root, parse_list(f"key:{hex_key(key(2))}"), None, True, lambda _: None)
    root.delete("listing")
    root.delete("images")
    _, rows = written(root, tmp_path / "b.parquet")
    row = rows[hex_key(key(2))]
    assert (row["source_url"], row["license"], row["taken_down"]) == ("https://Example.org/page/2", "CC-BY-4.0", True)


def test_who_is_nowhere_stops_it(root: Root, tmp_path: Path) -> None:
    seen = root.read_table(f"{RUN}/seen.parquet").to_pylist()
    unknown = [*seen, {"key": 1, "times": 1}]
    with pytest.raises(Failed, match=r"1 of 24 images that the model saw are not in .*catalog, nor in rejects as taken down"):
        attribution.write(root, "catalog", pa.Table.from_pylist(unknown, SEEN), tmp_path / "a.parquet")
