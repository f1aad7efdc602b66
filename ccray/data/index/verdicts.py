"""What one shard's rows say of themselves, before they are compared with others: for each row a reason why it is not taken, or none.

The order is fixed, and a row has one reason, the first that holds: what fetching said; taken down; licence; no creator; blocklisted; filters. What
needs other rows (blocklisted by likeness, equal keys, duplicates) follows in `indexing`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ccray.config import CatalogConfig
from ccray.data.index.blocklist import Blocklist
from ccray.data.policy import license_of, refusal
from ccray.interfaces import Failed
from ccray.licenses import License
from ccray.schema import Reject
from ccray.takedowns import Takedowns, taken_down_rows

REASONS = tuple(Reject)
CODE_OF = {reason: code for code, reason in enumerate(REASONS)}  # int8 in arrays
ACCEPTED = -1
FILTERS = {"watermark": Reject.FILTER_WATERMARK, "text": Reject.FILTER_TEXT, "nsfw": Reject.FILTER_NSFW}
PERMISSION = {"C": 0, "NC": 4, "ND": 8, "none": 12}
NO_DERIVATIVES = PERMISSION["ND"]  # the permission from which on nothing may be trained

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Verdicts:
    """Of each row: a place in `REASONS`, or `ACCEPTED`; and in words what was found."""

    codes: NDArray[np.int8]  # [n]
    details: list[str | None]  # [n]

    def reject(self, where: Mask, reason: Reject, detail: Callable[[int], str]) -> None:
        """Give a reason to those of some rows that have none; `detail` is asked with a row's place."""
        for place in np.flatnonzero(where & (self.codes == ACCEPTED)):
            self.codes[place] = CODE_OF[reason]
            self.details[place] = detail(int(place))


@dataclass(frozen=True)
class Licenses:
    """The licences of a shard's rows: each distinct statement is read once."""

    distinct: tuple[License, ...]
    place: NDArray[np.int64]  # [n] in `distinct`

    def of(self, row: int) -> License:
        return self.distinct[self.place[row]]

    def each(self, value: Callable[[License], object], kind: pa.DataType) -> pa.Array:
        """One value a row."""
        return pa.array([value(license) for license in self.distinct], kind).take(pa.array(self.place))

    def permission(self) -> NDArray[np.int8]:
        """[n]: smaller for a licence that permits more. C before NC before ND; of these nothing asked before attribution before share-alike."""
        return self.each(_permission, pa.int8()).to_numpy()


def licenses_of(rows: pa.Table) -> Licenses:
    """The licences that `license_text` states."""
    encoded = rows.column("license_text").combine_chunks().dictionary_encode()
    distinct = tuple(license_of(text) for text in (None, *encoded.dictionary.to_pylist()))
    return Licenses(distinct, pc.fill_null(pc.add(encoded.indices, 1), 0).to_numpy(zero_copy_only=False).astype(np.int64))


def _permission(license: License) -> int:
    return PERMISSION[license.bucket] + 2 * bool(license.share_alike) + bool(license.attribution)


def judge(rows: pa.Table, config: CatalogConfig, gone: Takedowns, blocked: Blocklist) -> Verdicts:
    """Verdicts on a shard's rows (the columns of `schema.LISTING` and of `schema.IMAGES` that are read here, side by side).

    Raises:
        Failed: when images/ holds a reason that is none of ours, or lacks the score of a filter.
    """
    verdicts = _fetched(rows)
    known = licenses_of(rows)
    verdicts.reject(taken_down_rows(gone, rows).to_numpy(zero_copy_only=False), Reject.TAKEN_DOWN, lambda place: "named in takedowns/")
    _refuse_licenses(verdicts, known, config)
    if config.require_creator:
        _require_creators(verdicts, rows, known)
    verdicts.reject(blocked.names(rows.column("sha256")), Reject.BLOCKLISTED, lambda place: f"its sha256 stands in {config.blocklist}")
    _filter(verdicts, rows, config)
    return verdicts


def _fetched(rows: pa.Table) -> Verdicts:
    try:
        codes = [ACCEPTED if reason is None else CODE_OF[Reject(reason)] for reason in rows.column("reason").to_pylist()]
    except ValueError as error:
        raise Failed(f"images/ gives a reason that this version does not know ({error}): remove images/ and catalog/, and run again") from None
    return Verdicts(np.array(codes, np.int8), rows.column("detail").to_pylist())


def _refuse_licenses(verdicts: Verdicts, known: Licenses, config: CatalogConfig) -> None:
    for place, license in enumerate(known.distinct):
        unusable = refusal(license, config)
        if unusable is not None:
            verdicts.reject(known.place == place, unusable.reason, lambda row, said=unusable.detail: said)  # type: ignore[misc]


def _require_creators(verdicts: Verdicts, rows: pa.Table, known: Licenses) -> None:
    """Only where the licence demands attribution: nobody need be named for CC0 or the public domain."""
    owed = known.each(lambda license: license.attribution is not False, pa.bool_()).to_numpy(zero_copy_only=False)
    verdicts.reject(
        without_creator(rows) & owed, Reject.CREATOR_MISSING, lambda place: f"{known.of(place).id} demands that the creator be named, and none is"
    )


def without_creator(rows: pa.Table) -> Mask:
    """[n]: rows whose source names no creator."""
    return pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(rows.column("creator"), ""))), 0).to_numpy()


def _filter(verdicts: Verdicts, rows: pa.Table, config: CatalogConfig) -> None:
    for each in config.filters:
        score = _scores(rows.column("scores"), each.name)
        unknown = np.isnan(score) & (verdicts.codes == ACCEPTED)
        if unknown.any():
            raise Failed(f"images/ holds {unknown.sum()} pictures without a score of the filter {each.name}: remove images/ and run again")
        verdicts.reject(
            score > each.threshold,
            FILTERS[each.name],
            lambda place, score=score, bound=each.threshold: f"scores {score[place]:.3f}, at most {bound} is taken",  # type: ignore[misc]
        )


def _scores(column: pa.ChunkedArray, name: str) -> NDArray[np.float64]:
    """[n]: the score of one filter, nan where there is none."""
    found = np.full(len(column), np.nan)
    for place, scores in enumerate(column.to_pylist()):
        found[place] = next((each["score"] for each in scores or () if each["name"] == name and each["score"] is not None), np.nan)
    return found
