"""What tests of sources share: a listing as plain rows, and files as the sources ship them."""

import csv
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ccray import licenses
from ccray.config import CatalogConfig
from ccray.data.listing import open_source, shards


def listed(source: str, **settings: Any) -> list[dict[str, Any]]:
    """All rows of a source, by way of its door; checks what holds for each: an id of its own, a reference, a locator."""
    config = CatalogConfig(source=source, **settings)
    rows = [row for table in shards(open_source(config), config) for row in table.to_pylist()]
    assert len({row["row_id"] for row in rows}) == len(rows)
    assert all(row["source_ref"] and row["locator"] for row in rows)
    assert all(row["image_url"] is None or row["locator"] == f"url:{row['image_url']}" for row in rows)
    return rows


def by_ref(source: str, **settings: Any) -> dict[str, dict[str, Any]]:
    rows = listed(source, **settings)
    named = {row["source_ref"]: row for row in rows}
    assert len(named) == len(rows)
    return named


def spdx(rows: Iterable[dict[str, Any]]) -> Counter[str | None]:
    """How often each licence is read out of the rows' statements."""
    return Counter(licenses.parse(row["license_text"]).spdx if row["license_text"] else None for row in rows)


def as_json(path: Path, value: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False))
    return str(path)


def as_lines(path: Path, values: Iterable[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))
    return str(path)


def as_csv(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)
