"""Images that must not be used, named by others: a file of sha256 or perceptual hashes.

One hash a line, in hex: 64 digits are the sha256 of an image's bytes as received, 16 digits its 64-bit perceptual hash;
`sha256:` or `phash:` may stand before. What follows a comma (the other columns of a CSV) or a `#` is a remark; the first line of a CSV may name
its columns.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ccray.data.index.dedup import Hashes, close_pairs
from ccray.interfaces import Refused

HASH = re.compile(r"(?:sha256:)?([0-9a-f]{64})|(?:phash:)?([0-9a-f]{16})")
HEADINGS = {"sha256", "phash", "hash"}


@dataclass(frozen=True)
class Blocklist:
    """What a file names."""

    sha256: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    perceptual: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))  # distinct

    def names(self, sha256: pa.ChunkedArray) -> np.ndarray:
        """Which of some sha256 (64 hex digits, nulls allowed) the file names: bool [n]."""
        return pc.is_in(sha256, self.sha256).to_numpy()

    def nearest_bits(self, hashes: Hashes, bits: int) -> np.ndarray:
        """Hamming distance of n perceptual hashes to the nearest that the file names: int [n], -1 where none is within `bits`."""
        found = np.full(len(hashes), -1)
        both = np.concatenate([self.perceptual, hashes])
        side = np.repeat([0, 1], [len(self.perceptual), len(hashes)])
        for named, own in close_pairs(both, side, bits):
            distance = np.bitwise_count(both[named] ^ both[own]).astype(found.dtype)
            places, nearest = own - len(self.perceptual), np.full(len(hashes), bits + 1)
            np.minimum.at(nearest, places, distance)
            found = np.where((nearest <= bits) & ((found < 0) | (nearest < found)), nearest, found)
        return found


def read_blocklist(file: str | None) -> Blocklist:
    """The blocklist that `catalog.blocklist` names; an empty one for None.

    Raises:
        Refused: when there is no such file, or a line is not a hash.
    """
    if file is None:
        return Blocklist()
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"catalog.blocklist {file!r} cannot be read ({error}): expected a text file with one hash a line") from None
    hashes = [found for number, line in enumerate(lines, 1) if (found := _hash(file, number, line)) is not None]
    perceptual = sorted({int(text, 16) for text in hashes if len(text) == 16})
    return Blocklist(pa.array(sorted({text for text in hashes if len(text) == 64}), pa.string()), np.array(perceptual, np.uint64))


def _hash(file: str, number: int, line: str) -> str | None:
    text = line.partition("#")[0].partition(",")[0].strip().strip("\"'").lower()
    if (found := HASH.fullmatch(text)) is not None:
        return found[1] or found[2]
    if (number == 1 and text in HEADINGS) or not line.partition("#")[0].strip():
        return None
    raise Refused(
        f"catalog.blocklist {file!r}, line {number}: {text[:80]!r} is neither a sha256 (64 hex digits) nor a perceptual hash (16 hex digits); "
        "expected one a line, remarks behind a comma or #"
    )
