"""`ccray lineage`: where one image came from and where it went, from what is on the disk."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ccray import storage, takedowns
from ccray.governance import holding, matching
from ccray.governance.matching import CATALOG, IMAGES, LISTING, REJECTS
from ccray.interfaces import Refused
from ccray.schema import hex_key
from ccray.storage import Root

READERS = 16
_IDS = ("key", "row_id", "duplicate_group", "phash")
MOST = 8  # names that an ambiguous question is answered with


@dataclass(frozen=True)
class Text:
    """A caption of it."""

    table: str
    caption: str | None
    language: str | None
    status: str | None


@dataclass(frozen=True)
class Use:
    """A table of latents, or a checkpoint, in which it is."""

    place: str
    status: str | None = None
    times: int | None = None


@dataclass
class Lineage:
    """All that a root knows of one image."""

    key: str | None  # 16 hex digits; None when it was never fetched
    outcome: str  # "catalog", "rejected", "listed"
    reason: str | None = None  # of a reject
    detail: str | None = None
    origin: dict[str, Any] = field(default_factory=dict)  # its row of the catalog, or else of the listing
    image: dict[str, Any] = field(default_factory=dict)  # its row of images/, without bytes
    also: list[dict[str, Any]] = field(default_factory=list)  # other listed rows of the same bytes
    captions: list[Text] = field(default_factory=list)
    latents: list[Use] = field(default_factory=list)
    checkpoints: list[Use] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    taken_down: list[dict[str, Any]] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """As plain values; keys and row ids as people see them."""
        return {name: _shown(value) for name, value in asdict(self).items()}


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return [_shown(one) for one in value]
    if isinstance(value, dict):
        return {name: hex_key(one) if name in _IDS and isinstance(one, int) else _shown(one) for name, one in value.items()}
    return value


def of(root: Root, name: str) -> Lineage:
    """The lineage of an image by its key, sha256 or the source's own id.

    Raises:
        Refused: when nothing of that name is here, with where it was looked for; when several are.
    """
    rows, key = _rows(root, name)
    if not rows:
        raise Refused(
            f"no image {name!r} under {root.uri}: looked for key, sha256 and source_ref in {LISTING}, {IMAGES}, {CATALOG} and {REJECTS}; "
            "expected 16 or 64 hex digits, or the source's own id"
        )
    found = _origin(root, rows, key)
    if key is not None:
        _follow(root, found, key)
    found.taken_down = _takedowns(root, key, [row["row_id"] for row in rows])
    return found


def _rows(root: Root, name: str) -> tuple[list[dict[str, Any]], int | None]:
    """Every row of the image that is listed or in the catalog, and its key."""
    digits = name.lower()
    if re.fullmatch(r"[0-9a-f]{16}|[0-9a-f]{64}", digits):
        key = int.from_bytes(bytes.fromhex(digits[:16]), "big", signed=True)
        rows = [row for row in _known(root, pc.field("key") == key) if len(digits) == 16 or row["sha256"] in (digits, None)]
        if rows:
            return rows, key
    rows = _known(root, pc.field("source_ref") == name)
    keys = {row["key"] for row in rows}
    if len(keys) > 1:
        raise Refused(f"{len(rows)} rows are called {name!r}: ask for one of the keys {matching.shown(keys - {None}, MOST)}")
    only: int | None = next(iter(keys), None)
    return (rows, None) if only is None else (_known(root, pc.field("key") == only), only)


def _known(root: Root, condition: pc.Expression) -> list[dict[str, Any]]:
    shards = sorted({shard for directory in (LISTING, CATALOG) for shard in storage.sealed_shards(root, directory)})

    def look(shard: int) -> list[dict[str, Any]]:
        table = matching.rows_of(root, shard).filter(condition)
        rows: list[dict[str, Any]] = table.append_column("shard", pa.array([shard] * table.num_rows, pa.int32())).to_pylist()
        return rows

    with ThreadPoolExecutor(READERS) as pool:
        return [row for rows in pool.map(look, shards) for row in rows]


def _origin(root: Root, rows: list[dict[str, Any]], key: int | None) -> Lineage:
    """Its place in catalog or rejects. Of several listed rows of the same bytes, that which was kept comes first."""
    found = Lineage(None if key is None else hex_key(key), "listed")
    kept = None
    for row in rows:
        catalog = _one(root, CATALOG, row["shard"], "row_id", row["row_id"]) if row["row_id"] is not None else None
        catalog = catalog or (_one(root, CATALOG, row["shard"], "key", key) if key is not None else None)
        rejected = _one(root, REJECTS, row["shard"], "row_id", row["row_id"])
        listed = _one(root, LISTING, row["shard"], "row_id", row["row_id"]) or {}
        about = {"row_id": row["row_id"], "source": listed.get("source"), "source_ref": row["source_ref"]}
        if catalog is not None:
            kept, found.outcome, found.reason, found.detail = row, "catalog", None, None
            found.origin = listed | catalog
        elif rejected is not None and kept is None and found.outcome == "listed":
            kept, found.outcome, found.reason, found.detail, found.origin = row, "rejected", rejected["reason"], rejected["detail"], rejected | listed
        elif kept is None:
            found.origin = listed or row
        if catalog is None:
            found.also.append(about | {"reason": rejected["reason"] if rejected else None})
    found.also = [one for one in found.also if one["row_id"] != found.origin.get("row_id")]
    if key is not None:
        shard = (kept or rows[0])["shard"]
        columns = ["row_id", "sha256", "format", "width", "height", "opt_out", "reason", "detail", "key"]
        found.image = _one(root, IMAGES, shard, "key", key, columns) or {}
    return found


def _one(root: Root, directory: str, shard: int, column: str, value: Any, columns: list[str] | None = None) -> dict[str, Any] | None:
    path = f"{directory}/{storage.shard_name(shard)}"
    if value is None or not root.exists(path):
        return None
    rows: list[dict[str, Any]] = root.read_table(path, columns=columns, filters=pc.field(column) == value).to_pylist()
    return rows[0] if rows else None


def _follow(root: Root, found: Lineage, key: int) -> None:
    """Captions, latents, checkpoints and published files, by key."""
    for row in found.origin.get("captions") or []:
        found.captions.append(Text(f"source, column {row['column']}", row["text"], row["language"], "ok"))
    tables = [f"{storage.CAPTIONS}/{table}" for table in storage.caption_tables(root)]
    for directory, row in _in_tables(root, tables, key, ["key", "caption", "language", "status"]):
        found.captions.append(Text(directory, row["caption"], row["language"], row["status"]))
    for directory, row in _in_tables(root, [f"latents/{name}" for name in root.names("latents")], key, ["key", "status"]):
        found.latents.append(Use(directory, status=row["status"]))
    wanted = pa.array([key], pa.int64())
    for path in holding.checkpoints(root):
        times = holding.keys_in(root, path, wanted, ["key", "times"])["times"].to_pylist()
        found.checkpoints.append(Use(path.removesuffix("/seen.parquet"), times=sum(times)))
    path = "published/model/attribution.parquet"
    if root.exists(path) and root.read_table(path, columns=["key"], filters=pc.field("key") == hex_key(key)).num_rows:
        found.published.append(path)
    found.published += [path for path in holding.dataset_tables(root) if holding.rows_in(root, path, wanted)]


def _in_tables(root: Root, directories: list[str], key: int, columns: list[str]) -> list[tuple[str, dict[str, Any]]]:
    wanted = pa.array([key], pa.int64())
    places = [(directory, shard) for directory in directories for shard in storage.sealed_shards(root, directory)]

    def look(place: tuple[str, int]) -> list[tuple[str, dict[str, Any]]]:
        table = holding.keys_in(root, f"{place[0]}/{storage.shard_name(place[1])}", wanted, columns)
        return [(place[0], row) for row in table.to_pylist()]

    with ThreadPoolExecutor(READERS) as pool:
        return [row for rows in pool.map(look, places) for row in rows]


def _takedowns(root: Root, key: int | None, row_ids: list[int]) -> list[dict[str, Any]]:
    found = []
    for name, record in takedowns.records(root):
        if (key is not None and key in record.keys) or set(row_ids) & set(record.rows):
            about: dict[str, Any] = {"selector": record.selector, "value": record.value, "reason": record.reason, "at": record.at}
            found.append(about | {"file": f"{takedowns.DIRECTORY}/{name}"})
    return found


def tell(found: Lineage, say: Callable[[str], None]) -> None:
    """The lineage as text for people."""
    origin, image = found.origin, found.image
    outcome = {"catalog": "in the catalog", "listed": "listed, and neither fetched nor judged yet"}
    said = outcome.get(found.outcome) or f"rejected: {found.reason}{f', {found.detail}' if found.detail else ''}"
    say(f"image {found.key or 'without a key: it was never fetched'}: {said}")
    lines = [
        ("taken down", "; ".join(_taken_down(one) for one in found.taken_down) or "no"),
        ("sha256", image.get("sha256") or origin.get("sha256")),
        ("source", _joined(origin, "source", "source_ref")),
        ("page", origin.get("source_url")),
        ("downloaded from", origin.get("image_url")),
        ("title", origin.get("title")),
        ("creator", _joined(origin, "creator", "creator_url")),
        ("licence", _joined(origin, "license", "license_url") or origin.get("license_text")),
        ("stated by", _joined(origin, "license_basis", "license_evidence", "license_seen_at")),
        ("picture", f"{image['format']}, {image['width']} x {image['height']} px" if image.get("format") else None),
        ("opt-out signal", image.get("opt_out")),
        ("split", origin.get("split")),
    ]
    lines += [("also listed as", f"{_joined(one, 'source', 'source_ref')} ({one['reason']})") for one in found.also]
    lines += [("near copy", _joined(one, "source", "source_ref", "source_url", "creator")) for one in origin.get("copies") or []]
    lines += [("caption", _caption(one)) for one in found.captions]
    lines += [("latent", f"{one.place}: {one.status}") for one in found.latents]
    lines += [("checkpoint", f"{one.place}: {_seen(one.times)}") for one in found.checkpoints]
    lines += [("published", place) for place in found.published]
    for name, value in lines:
        if value not in (None, ""):
            say(f"  {name:<16} {value}")


def _caption(one: Text) -> str:
    """A caption with its table, its language, and its status where that is not ok."""
    about = ", ".join(word for word in (one.language, None if one.status == "ok" else one.status) if word)
    return f"{one.table}{f' ({about})' if about else ''}: {'no text' if one.caption is None else one.caption}"


def _seen(times: int | None) -> str:
    return f"saw it {times:,} time{'' if times == 1 else 's'}" if times else "never saw it"


def _taken_down(one: dict[str, Any]) -> str:
    reason = f" ({one['reason']})" if one["reason"] else ""
    return f"{one['at'] or 'at a time that is not recorded'} by {one['selector']}:{one['value']}{reason}"


def _joined(values: dict[str, Any], *names: str) -> str:
    return ", ".join(str(values[name]) for name in names if values.get(name) is not None)
