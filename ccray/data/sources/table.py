"""A table as a source: `table:FILE`, each row naming a picture by bytes, by a file beside the table, or by URL, and its licence."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from ccray import licenses
from ccray.config import CatalogConfig
from ccray.data.sources.columns import Columns, find, require
from ccray.data.sources.listed import Listed, declared_license, file_locator, folder_root, nothing
from ccray.data.sources.rows import Malformed, Row, Table, open_table
from ccray.schema import Reject
from ccray.storage import Root


class TableSource:
    """The rows of one table."""

    name = "table"

    def __init__(self, table: Table, columns: Columns, declared: str | None) -> None:
        self.base: Root | None = table.base
        self.image_column = columns.image
        self._table = table
        self._columns = columns
        self._declared = declared

    def listing(self) -> Iterator[Listed]:
        for number, row in self._table.rows(self._columns.present()):
            yield self._listed(number, row)

    def _listed(self, number: int, row: Row | Malformed) -> Listed:
        here = f"{self._table.name}#{number}"
        if isinstance(row, Malformed):
            return Listed(here, here, nothing(Reject.MALFORMED_ROW, row.detail))
        locator = self._locator(number, row)
        ref = text_of(self._value(row, "id")) or self._named(row) or here
        return Listed(f"{ref}\x1f{number}", ref, locator, **described(row, self._columns, self._declared, self._table.seen_at))

    def _value(self, row: Row, field: str) -> Any:
        column = getattr(self._columns, field)
        return None if column is None else row.get(column)

    def _named(self, row: Row) -> str | None:
        return text_of(self._value(row, "image")) or text_of(self._value(row, "url"))

    def _locator(self, number: int, row: Row) -> str:
        if self._columns.image in self._table.binary:
            return f"row:{self._table.name}#{number}"
        named = self._named(row)
        if named is None:
            return nothing(Reject.NO_IMAGE, "the row names neither a file nor a URL")
        if "://" in named or named.startswith(("data:", "file:")):
            return f"url:{named}"
        return f"url:{named}" if text_of(self._value(row, "image")) is None else file_locator(named)


def described(row: Row, columns: Columns, declared: str | None, seen_at: datetime) -> dict[str, Any]:
    """What a row says of its picture, as fields of `Listed`; a row that states no licence has the declared one."""

    def value(field: str) -> Any:
        column = getattr(columns, field)
        return None if column is None else row.get(column)

    stated = _license(text_of(value("license")), text_of(value("license_version")))
    return {
        "license_text": stated or declared,
        "license_basis": "source record" if stated else "declared" if declared else None,
        "license_evidence": stated or declared,
        "license_seen_at": (_time(value("license_seen_at")) or seen_at) if stated else None,
        **{field: text_of(value(field)) for field in ("creator", "creator_url", "title", "alt_text", "source_url")},
    }


def text_of(value: Any) -> str | None:
    """A cell as text; of a list its first entry; None for what is empty or holds no text."""
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None or isinstance(value, dict | bytes) or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():  # ids in columns with gaps
        value = int(value)
    return str(value).strip() or None


def _license(stated: str | None, version: str | None) -> str | None:
    """The licence's words, joined with the version where only both together name a licence (`by` and `2.0`)."""
    if stated is None or version is None or licenses.parse(stated).id is not None:
        return stated
    reading = f"cc-{stated}-{version}" if stated[:2].lower() == "by" else f"{stated} {version}"
    return reading if licenses.parse(reading).id is not None else f"{stated} {version}"


def _time(value: Any) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def open_source(config: CatalogConfig) -> TableSource:
    """Raises:
    Refused: when the table cannot be read, or lacks a column that we need or that was mapped.
    """
    place = config.source.removeprefix("table:")
    folder, _, name = place.rpartition("/")
    base = folder_root(folder or ("/" if place.startswith("/") else "."), f"catalog.source {config.source!r}")
    table = open_table(base, name)
    declared = declared_license(config.license)
    columns = find(table.columns, config.columns, config.source)
    require(columns, table.columns, config.source, declared)
    return TableSource(table, columns, declared)
