"""What a published dataset adds up to, counted shard by shard: the figures of its card, its Croissant file and its training-content summary."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from ccray.publishing.credit import host
from ccray.publishing.table import CaptionTable, sizes

SIDES_PX = (64, 128, 256, 512, 1024, 2048, 4096)  # lower bounds of the size table, after 0


@dataclass
class LicenseTally:
    """The images under one licence."""

    license: str  # SPDX
    url: str
    images: int
    commercial: bool | None  # None: a public-domain statement, which does not say
    share_alike: bool | None
    derivatives: bool | None


@dataclass
class Tally:
    """Counts of all rows that were published."""

    images: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    licenses: dict[str, LicenseTally] = field(default_factory=dict)
    sources: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)  # of image_url, else of source_url
    formats: Counter[str] = field(default_factory=Counter)
    sides: Counter[int] = field(default_factory=Counter)  # lower bound of the shorter side in pixels -> images
    bases: Counter[str] = field(default_factory=Counter)  # of the licence statements
    without_creator: int = 0
    without_title: int = 0
    downloaded: int = 0  # by URL, each by itself
    with_copies: int = 0
    copies: int = 0
    grouped: int = 0  # near another image of the dataset
    statuses: dict[str, Counter[str]] = field(default_factory=dict)  # caption column -> status -> rows
    languages: dict[str, Counter[str]] = field(default_factory=dict)
    last_seen: datetime | None = None  # a licence statement

    def add(self, table: pa.Table, captions: Iterable[CaptionTable]) -> None:
        """Rows of one shard (`table.shards`)."""
        self.images += table.num_rows
        for name, counter in (("split", self.splits), ("source", self.sources), ("format", self.formats), ("license_basis", self.bases)):
            counter.update(_counts(table.column(name)))
        self.without_creator += table.column("creator").null_count
        self.without_title += table.column("title").null_count
        self.downloaded += table.num_rows - table.column("image_url").null_count
        self.hosts.update(filter(None, map(host, pc.coalesce(table.column("image_url"), table.column("source_url")).to_pylist())))
        self.sides.update([_bound(side) for side in sizes(table).tolist()])
        self._add_licenses(table)
        self._add_copies(table)
        for one in captions:
            self.statuses.setdefault(one.column, Counter()).update(_counts(table.column(f"{one.column}_status")))
            texts = table.filter(pc.is_valid(table.column(one.column)))
            self.languages.setdefault(one.column, Counter()).update(_counts(texts.column(f"{one.column}_language")))
        seen = pc.max(table.column("license_seen_at")).as_py()
        self.last_seen = max(filter(None, (self.last_seen, seen)), default=None)

    def _add_licenses(self, table: pa.Table) -> None:
        for name, rows in _counts(table.column("license")).items():
            some = table.filter(pc.equal(table.column("license"), name))
            if name not in self.licenses:
                url, *terms = (some.column(column)[0].as_py() for column in ("license_url", "commercial", "share_alike", "derivatives"))
                self.licenses[name] = LicenseTally(name, url or "", 0, *terms)
            self.licenses[name].images += rows

    def _add_copies(self, table: pa.Table) -> None:
        lengths = pc.fill_null(pc.list_value_length(table.column("copies")), 0)
        self.copies += pc.sum(lengths).as_py() or 0
        self.with_copies += pc.sum(pc.greater(lengths, 0)).as_py() or 0
        others = pc.not_equal(table.column("duplicate_group"), table.column("key"))
        self.grouped += pc.sum(others).as_py() or 0

    def by_licence(self) -> list[LicenseTally]:
        """Most images first."""
        return sorted(self.licenses.values(), key=lambda one: (-one.images, one.license))

    def size_rows(self) -> list[tuple[str, int]]:
        """Ranges of the shorter side, ascending, with their images."""
        bounds = (0, *SIDES_PX)
        ends = [f"{low} to {high - 1} px" for low, high in pairwise(bounds)] + [f"{bounds[-1]} px and more"]
        return [(name, self.sides[low]) for name, low in zip(ends, bounds, strict=True) if self.sides[low]]


def ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    """Most first, names in order where counts are equal: the same list on every run."""
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """Value -> rows, without nulls."""
    values, rows = pc.value_counts(column).flatten()
    return {value: count for value, count in zip(values.to_pylist(), rows.to_pylist(), strict=True) if value is not None}


def _bound(side: int) -> int:
    return max((bound for bound in SIDES_PX if bound <= side), default=0)
