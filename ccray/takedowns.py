"""Images that were taken down: outside every fingerprint, applied by every reader.

`takedowns/` holds one file for each time that something was taken down; none is ever rewritten, and their names sort by time. A file is lines of
JSON, one `Record` each: what was asked for (key, sha256, url, creator), and which rows and images of this root it named then. The words are kept
beside what they named, so that an image that is listed later is met by them too. A line of nothing but `{"key": HEX16}` is a record as well.
"""

import io
import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from ccray import storage
from ccray.interfaces import Failed, Refused
from ccray.schema import hex_key
from ccray.storage import Root

DIRECTORY = "takedowns"
Selector = Literal["key", "sha256", "url", "creator"]
FORMS: dict[str, tuple[str, str]] = {
    "key": (r"[0-9a-f]{16}", "16 hex digits"),
    "sha256": (r"[0-9a-f]{64}", "64 hex digits"),
    "url": (r"(?i)https?://[^\s/].*", "an http or https address"),
    "creator": (r".+", "a name or an address"),
}
EXPECTED = "expected key:HEX16, sha256:HEX64, url:URL or creator:NAME_OR_URL"
# Columns in which a selector's words are looked for; a table may have any of them.
URL_COLUMNS = ("source_url", "image_url")
CREATOR_COLUMNS = ("creator", "creator_original")
CREATOR_URL = "creator_url"
COLUMNS = ("row_id", "key", "sha256", *URL_COLUMNS, *CREATOR_COLUMNS, CREATOR_URL)

_HEX = pa.list_(pa.string())
_FILE = pa.schema([("selector", pa.string()), ("value", pa.string()), ("key", pa.string()), ("keys", _HEX), ("rows", _HEX)])


@dataclass(frozen=True)
class Line:
    """One line of a list of takedowns."""

    number: int  # in its file, from 1
    selector: Selector
    value: str

    @property
    def text(self) -> str:
        return f"{self.selector}:{self.value}"


@dataclass(frozen=True)
class Record:
    """What was taken down at one time by one line."""

    selector: Selector
    value: str
    reason: str | None
    at: str  # UTC, ISO 8601
    keys: tuple[int, ...]  # of the images that it named
    rows: tuple[int, ...]  # `row_id` of the listed rows that it named, fetched or not

    def json(self) -> str:
        values = {"selector": self.selector, "value": self.value, "reason": self.reason, "at": self.at}
        return json.dumps(values | {"keys": [hex_key(key) for key in self.keys], "rows": [hex_key(row) for row in self.rows]}, ensure_ascii=False)


def parse_list(text: str) -> list[Line]:
    """The lines of a list of takedowns; blank lines and those that begin with `#` are skipped.

    Raises:
        Refused: on the first line that is not one of the four forms, with its number and what was expected; when there is none at all.
    """
    lines = [_line(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip() and not line.strip().startswith("#")]
    if not lines:
        raise Refused(f"the list names nothing: {EXPECTED}, one a line")
    return lines


def _line(number: int, text: str) -> Line:
    selector, colon, value = text.partition(":")
    selector, value = selector.strip().lower(), value.strip()
    if not colon or selector not in FORMS:
        raise Refused(f"line {number} of the list is {text[:200]!r}: {EXPECTED}")
    value = value.lower() if selector in ("key", "sha256") else value
    pattern, form = FORMS[selector]
    if not re.fullmatch(pattern, value):
        raise Refused(f"line {number} of the list is {text[:200]!r}: expected {form} after {selector}:")
    return Line(number, cast(Selector, selector), value)


def files(root: Root) -> tuple[str, ...]:
    """Names of the files of takedowns, oldest first."""
    return tuple(name.removeprefix(f"{DIRECTORY}/") for name in root.files(DIRECTORY) if name.endswith(".jsonl") and "/." not in name)


def record(root: Root, records: Sequence[Record]) -> str:
    """Write one new file of takedowns; its path under the root.

    Raises:
        Failed: when it cannot be made under a name of its own.
    """
    name = f"{DIRECTORY}/{datetime.now(UTC).strftime('%Y-%m-%dT%H-%M-%S.%fZ')}-{uuid.uuid4().hex[:8]}.jsonl"
    if not root.create(name, "".join(one.json() + "\n" for one in records).encode()):
        raise Failed(f"{root.path(name)} is there already: run the same command again")
    return name


def records(root: Root) -> list[tuple[str, Record]]:
    """Every record with the name of its file, oldest first: for people; `taken_down` and `load` are made for size."""
    return [(name, _record(json.loads(line))) for name in files(root) for line in root.read(f"{DIRECTORY}/{name}").splitlines() if line.strip()]


def _record(values: dict[str, object]) -> Record:
    def hexes(name: str) -> tuple[int, ...]:
        return tuple(_ints(pa.array(cast(Iterable[str], values.get(name) or []), pa.string())).tolist())

    selector, value = cast(Selector, values.get("selector", "key")), str(values.get("value") or values.get("key") or "")
    alone = tuple(_ints(pa.array([values["key"]], pa.string())).tolist()) if values.get("key") else ()
    reason = values.get("reason")
    return Record(selector, value, None if reason is None else str(reason), str(values.get("at") or ""), hexes("keys") + alone, hexes("rows"))


def taken_down(root: Root, names: Sequence[str] | None = None) -> frozenset[int]:
    """Keys of images that were taken down; every reader leaves them out.

    Args:
        root: whose `takedowns/` is read.
        names: of the files that count; all that there are by default.

    Raises:
        Failed: when a file is not lines of records.
    """
    return frozenset(load(root, names).keys.to_pylist())


@dataclass(frozen=True)
class Takedowns:
    """All that was taken down, as it is compared with whole columns."""

    keys: pa.Array  # int64
    row_ids: pa.Array  # int64
    sha256: pa.Array  # string
    urls: pa.Array  # string, as `plain_urls` writes them
    creators: pa.Array  # string

    def __bool__(self) -> bool:
        return any(map(len, (self.keys, self.row_ids, self.sha256, self.urls, self.creators)))


def load(root: Root, names: Sequence[str] | None = None) -> Takedowns:
    """The takedowns of a root, or of some of its files.

    Raises:
        Failed: when a file is not lines of records.
    """
    tables = [_table(root, name) for name in (files(root) if names is None else names)]
    table = pa.concat_tables([_FILE.empty_table(), *tables])
    words = {selector: table.filter(pc.equal(table["selector"], selector))["value"].combine_chunks() for selector in FORMS}
    beginnings = pc.utf8_slice_codeunits(words["sha256"], 0, 16)
    parts = [pc.list_flatten(table["keys"]), table["key"].drop_null(), words["key"], beginnings]
    keys = pc.unique(pa.array(np.concatenate([_ints(part) for part in parts])))
    rows = pc.unique(pa.array(_ints(pc.list_flatten(table["rows"]))))
    return Takedowns(keys, rows, words["sha256"], plain_urls(words["url"]), words["creator"])


def _table(root: Root, name: str) -> pa.Table:
    data = root.read(f"{DIRECTORY}/{name}")
    if not data.strip():
        return _FILE.empty_table()
    try:
        reading = pj.ReadOptions(block_size=min(len(data) + 1, 2**31 - 1), use_threads=False)  # a line may be long: it must not cross two blocks
        return pj.read_json(io.BytesIO(data), reading, pj.ParseOptions(explicit_schema=_FILE, unexpected_field_behavior="ignore")).select(_FILE.names)
    except pa.ArrowException as error:
        raise Failed(f"{root.path(f'{DIRECTORY}/{name}')} is not lines of takedowns: {' '.join(str(error).split())[:200]}") from None


def _ints(digits: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Strings of 16 hex digits as int64.

    Raises:
        Failed: when one is something else.
    """
    digits = digits.drop_null()
    good = pc.match_substring_regex(digits, "^[0-9a-f]{16}$")
    if not pc.all(good, min_count=0).as_py():
        wrong = digits.filter(pc.invert(good))[0].as_py()
        raise Failed(f"a takedown names the key {wrong!r}: expected 16 hex digits, lower case")
    return np.frombuffer(bytes.fromhex("".join(digits.to_pylist())), ">i8").astype(np.int64)


def plain_urls(urls: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Addresses without what does not tell two pages apart: scheme, capitals of the host, the scheme's own port, a fragment, a last slash."""
    urls = urls.combine_chunks() if isinstance(urls, pa.ChunkedArray) else urls
    trimmed = pc.utf8_trim_whitespace(urls)
    parts = pc.extract_regex(trimmed, r"^(?i:https?)://(?P<host>[^/?#]+)(?P<rest>[^#]*)")
    host = pc.replace_substring_regex(pc.utf8_lower(pc.struct_field(parts, "host")), ":(80|443)$", "")
    plain = pc.binary_join_element_wise(host, pc.utf8_rtrim(pc.struct_field(parts, "rest"), "/"), "")
    return pc.if_else(pc.is_valid(parts), plain, trimmed)


def taken_down_rows(takedowns: Takedowns, table: pa.Table) -> pa.BooleanArray:
    """Which rows were taken down, by any of `COLUMNS` that the table has: of a listing before anything is fetched, of images once their key is known."""
    found = np.zeros(table.num_rows, bool)
    addresses = plain_urls(takedowns.creators)
    plain = [("key", takedowns.keys), ("row_id", takedowns.row_ids), ("sha256", takedowns.sha256)]
    plain += [(name, takedowns.creators) for name in CREATOR_COLUMNS]
    for column, values in plain:
        if column in table.column_names and len(values):
            found |= _is_in(table[column], values)
    for column, values in [*((name, takedowns.urls) for name in URL_COLUMNS), (CREATOR_URL, addresses)]:
        if column in table.column_names and len(values):
            found |= _is_in(plain_urls(table[column]), values)
    return pa.array(found)


def remaining_copies(takedowns: Takedowns, copies: pa.ChunkedArray) -> pa.ChunkedArray:
    """`schema.COPIES` without the rows that were taken down; null where none is left. Nothing is done when there is nothing to take out."""
    column = copies.combine_chunks() if isinstance(copies, pa.ChunkedArray) else copies
    flat = pc.list_flatten(column)
    table = pa.table(flat.flatten(), names=[one.name for one in flat.type])
    kept = pc.invert(taken_down_rows(takedowns, table)) if takedowns and len(flat) else None
    if kept is None or pc.all(kept).as_py():
        return pa.chunked_array([column])
    parents = pc.list_parent_indices(column).filter(kept).to_numpy()
    counts = np.bincount(parents, minlength=len(column))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return pa.chunked_array([pa.ListArray.from_arrays(offsets, flat.filter(kept), mask=pa.array(counts == 0)).cast(column.type)])


def _is_in(held: pa.Array | pa.ChunkedArray, values: pa.Array) -> np.ndarray:
    return np.asarray(pc.is_in(held, values).to_numpy(zero_copy_only=False), bool)


def listed(root: Root, directory: str) -> frozenset[int]:
    """`row_id` of every row of a listing (a directory of shards) that was taken down, so that nothing fetches it."""
    takedowns = load(root)
    found = [np.zeros(0, np.int64)]
    for shard in storage.sealed_shards(root, directory) if takedowns else []:
        path = f"{directory}/{storage.shard_name(shard)}"
        table = root.read_table(path, columns=["row_id", *URL_COLUMNS, *CREATOR_COLUMNS, CREATOR_URL])
        found.append(table["row_id"].filter(taken_down_rows(takedowns, table)).to_numpy())
    return frozenset(np.concatenate(found).tolist())
