"""`ccray takedown`: what a list names, what still holds it, and what to do."""

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ccray import storage, takedowns
from ccray.governance import holding, matching, purging
from ccray.governance.matching import Match
from ccray.interfaces import Refused
from ccray.storage import Root
from ccray.takedowns import Line, Record

Say = Callable[[str], None]


def run(root: Root, lines: Sequence[Line], reason: str | None, purge: bool, say: Say) -> None:
    """Record a list of takedowns, say what it names and who holds it now; with `purge`, take its content out of every file.

    Raises:
        Refused: when it is to purge while a stage runs; nothing is recorded then.
    """
    if not purge:
        _recorded(root, lines, reason, say)
        for line in _running(root):
            say(line)
        return
    with purging.alone(root):
        keys = _recorded(root, lines, reason, say)
        say("")
        for line in purging.purge(root, keys, reason or _reasons(root, keys)):
            say(f"purged  {line}")
        say(f"purged: no file under {root.uri} holds bytes, captions or latents of {_some(len(keys), 'image')} any more")


def _recorded(root: Root, lines: Sequence[Line], reason: str | None, say: Say) -> frozenset[int]:
    """Write what is new; all keys that the list names, now or when it was recorded before."""
    before = _earlier(root)
    matches = matching.find(root, lines)
    for match in matches:  # a purge leaves less to be found by
        match.keys |= before[match.line.text].keys
        match.rows |= before[match.line.text].rows
    for match in matches:
        say(_told(match))
    new = [match for match in matches if _is_new(match, before[match.line.text])]
    at = storage.now()
    found = [Record(one.line.selector, one.line.value, reason, at, tuple(sorted(one.keys)), tuple(sorted(one.rows))) for one in new]
    place = takedowns.record(root, found) if found else None
    keys = frozenset(key for match in matches for key in match.keys)
    rows = frozenset(row for match in matches for row in match.rows)
    say("")
    say(f"recorded {len(found):,} of {len(lines):,} lines in {root.path(place)}" if place else "every line was recorded before: nothing is written")
    _tell_consequences(root, keys, rows, say)
    return keys


@dataclass
class _Earlier:
    """What the same words named when they were recorded before."""

    recorded: bool = False
    keys: set[int] = field(default_factory=set)
    rows: set[int] = field(default_factory=set)


def _earlier(root: Root) -> dict[str, _Earlier]:
    found: dict[str, _Earlier] = defaultdict(_Earlier)
    for _, record in takedowns.records(root):
        one = found[f"{record.selector}:{record.value}"]
        one.recorded = True
        one.keys |= set(record.keys)
        one.rows |= set(record.rows)
    return found


def _is_new(match: Match, earlier: _Earlier) -> bool:
    return not (earlier.recorded and match.keys <= earlier.keys and match.rows <= earlier.rows)


def _told(match: Match) -> str:
    if not match.rows:
        return f"line {match.line.number}: {match.line.text}: 0 rows here; recorded, and applied to whatever is listed later"
    images = f"{_some(len(match.keys), 'image')}: {matching.shown(match.keys)}" if match.keys else "not fetched"
    return f"line {match.line.number}: {match.line.text}: {_some(len(match.rows), 'row')}, {images}"


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _tell_consequences(root: Root, keys: frozenset[int], rows: frozenset[int], say: Say) -> None:
    for copy in matching.copies(root, keys):
        say(f"nearly the same picture as {matching.shown({copy.key})}, and not taken down with it: {copy.text}")
    found = holding.held(root, keys, rows)
    say("")
    say("no output of this root holds them" if not found else "these outputs hold them now; no stage reads them again from there:")
    for one in found:
        say(f"  {one.line()}")


def _running(root: Root) -> list[str]:
    """A word on every stage that runs now."""
    held = [directory for directory in purging.directories(root) if root.exists(f"{directory}/{storage.LEASE}")]
    return [f"a run holds {directory} now, and may have read its takedowns already: give the same list again when it has ended" for directory in held]


def _reasons(root: Root, keys: frozenset[int]) -> str:
    """Why images were taken down, as said when they were."""
    found = {record.reason: None for _, record in takedowns.records(root) if record.reason and keys & set(record.keys)}
    return "; ".join(found) or "taken down"


def read_list(path: str) -> list[Line]:
    """The lines of a list in a file; `-` for standard input.

    Raises:
        Refused: as `takedowns.parse_list`, and when the file cannot be read or is not text.
    """
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return takedowns.parse_list(data.decode("utf-8-sig"))
    except OSError as error:
        raise Refused(f"--list {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Refused(f"--list {path} is not UTF-8 text: {takedowns.EXPECTED}, one a line") from None
    except Refused as refusal:
        raise Refused(f"--list {path}: {refusal}") from None
